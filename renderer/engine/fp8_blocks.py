"""A DiT block with FP8 products: row-wise scaled weights as they lie in the slot, activations scaled a token at a time.

The same operations in the same order as DiffSynth's block; between two products everything is fused into one pass over
the rows (`fp8_kernels`, or `fp8_reference` where there is no compiler). Queries, keys and values are one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, Literal

import torch

from renderer.engine.adapted import ADAPTED, AddedTo
from renderer.engine.blocks import ModuleBlocks
from renderer.engine.fp8_adapted import add_to
from renderer.engine.fp8_reference import Rows
from renderer.engine.modulation import ReadyModulation
from renderer.weights.store import TensorPlace

SHIFT, GATE, SHIFT_MLP, GATE_MLP = 0, 2, 3, 5
"""Where a modulation's vectors lie among the six; each scale follows its shift."""

Linear = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""An FP8 weight, its scales, its bias: views into a slot."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One of a block's two streams: the image's or the text's."""

    qkv: Linear
    norm_q: torch.Tensor
    norm_k: torch.Tensor
    out: Linear
    up: Linear
    down: Linear


_IMAGE = (("attn.to_q", "attn.to_k", "attn.to_v"), "attn.norm_q", "attn.norm_k", "attn.to_out.0", "img_mlp")
_TEXT = (
    ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "attn.norm_added_q",
    "attn.norm_added_k",
    "attn.to_add_out",
    "txt_mlp",
)


class Fp8Blocks:
    """Blocks whose slots hold FP8 weights, multiplied as they are."""

    arithmetic: ClassVar[Literal["bf16", "fp8"]] = "fp8"

    def __init__(
        self, plain: ModuleBlocks, places: Sequence[TensorPlace], heads: int, head: int, operations: ModuleType
    ) -> None:
        """`plain` computes what this cannot: entity masks, edits, caches. `operations` is one of the fp8 modules."""
        self._plain = plain
        self._places = {place.name: place for place in places}
        self._heads = heads
        self._head = head
        self._operations = operations
        self._bound: dict[int, Fp8Block] = {}

    def arrive(self, number: int, slot: torch.Tensor) -> Fp8Block:
        del number
        bound = self._bound.get(slot.data_ptr())
        if bound is None:
            image, text = self._stream(slot, *_IMAGE), self._stream(slot, *_TEXT)
            bound = self._bound[slot.data_ptr()] = Fp8Block(image, text, self, slot)
        return bound

    def forget(self) -> None:
        self._bound.clear()
        self._plain.forget()

    @property
    def operations(self) -> Any:
        return self._operations

    @property
    def products(self) -> set[tuple[int, int]]:
        """[columns, width] of the weights that are multiplied."""
        found = set()
        for qkv, _, _, out, mlp in (_IMAGE, _TEXT):
            for stems in (qkv, (out,), (f"{mlp}.net.0.proj",), (f"{mlp}.net.2",)):
                shapes = [self._places[f"{stem}.weight"].shape for stem in stems]
                found.add((sum(rows for rows, _ in shapes), shapes[0][1]))
        return found

    @property
    def shape(self) -> tuple[int, int]:
        """Heads, and a head's width."""
        return self._heads, self._head

    def otherwise(self, slot: torch.Tensor, **inputs: Any) -> Any:
        """The block in bf16, for what is asked for rarely."""
        return self._plain.arrive(0, slot)(**inputs)

    def _stream(
        self, slot: torch.Tensor, qkv: tuple[str, str, str], norm_q: str, norm_k: str, out: str, mlp: str
    ) -> Stream:
        return Stream(
            qkv=self._linear(slot, *qkv),
            norm_q=self._tensor(slot, f"{norm_q}.weight"),
            norm_k=self._tensor(slot, f"{norm_k}.weight"),
            out=self._linear(slot, out),
            up=self._linear(slot, f"{mlp}.net.0.proj"),
            down=self._linear(slot, f"{mlp}.net.2"),
        )

    def _linear(self, slot: torch.Tensor, *stems: str) -> Linear:
        weight, scale, bias = (self._side_by_side(slot, kind, stems) for kind in ("weight", "scale", "bias"))
        return weight, scale, bias

    def _side_by_side(self, slot: torch.Tensor, kind: str, stems: Sequence[str]) -> torch.Tensor:
        """The tensors of several layers as one: the store lays them next to each other."""
        places = [self._places[f"{stem}.{kind}"] for stem in stems]
        size = sum(place.bytes for place in places)
        first, last = places[0], places[-1]
        assert last.offset + last.bytes - first.offset == size, f"{stems} do not lie side by side"
        rows = sum(place.shape[0] for place in places)
        return slot[first.offset : first.offset + size].view(first.torch_dtype).view(rows, *first.shape[1:])

    def _tensor(self, slot: torch.Tensor, name: str) -> torch.Tensor:
        place = self._places[name]
        return slot[place.offset : place.offset + place.bytes].view(place.torch_dtype).view(place.shape)


class Fp8Block:
    """One block, called as DiffSynth calls its own."""

    def __init__(self, image: Stream, text: Stream, kind: Fp8Blocks, slot: torch.Tensor) -> None:
        self._image = image
        self._text = text
        self._kind = kind
        self._slot = slot

    def __call__(
        self,
        *,
        image: torch.Tensor,
        text: torch.Tensor,
        temb: ReadyModulation,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor],
        adapted: AddedTo = MappingProxyType({}),
        **rare: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`image` and `text` are 1 x tokens x width; the same come back, text first.

        `adapted` is what LoRAs add to its layers.
        """
        if any(value is not None and value is not False for value in rare.values()):
            inputs = {"image": image, "text": text, "temb": temb, "image_rotary_emb": image_rotary_emb, **rare}
            inputs[ADAPTED] = adapted
            found: tuple[torch.Tensor, torch.Tensor] = self._kind.otherwise(self._slot, **inputs)
            return found
        run = self._kind.operations
        heads, head = self._kind.shape
        pictures, words = image[0], text[0]
        image_parts, text_parts = temb.image[0], temb.text[0]
        image_turns, text_turns = (torch.view_as_real(turns) for turns in image_rotary_emb)

        rows = words.shape[0] + pictures.shape[0]
        joint = tuple(torch.empty((rows, heads, head), dtype=image.dtype, device=image.device) for _ in range(3))
        for stream, names, x, parts, turns, first in (
            (self._text, _TEXT, words, text_parts, text_turns, 0),
            (self._image, _IMAGE, pictures, image_parts, image_turns, words.shape[0]),
        ):
            qkv = self._multiply(run.modulate(x, parts, SHIFT), stream.qkv, names[0], adapted)
            run.place(qkv, stream.norm_q, stream.norm_k, turns, joint, first)
            del qkv
        query, key, value = (part.transpose(0, 1)[None] for part in joint)
        seen = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        del joint, query, key, value
        seen = seen[0].transpose(0, 1).reshape(rows, heads * head)
        words = self._rest(self._text, words, seen[: words.shape[0]], text_parts, adapted)
        pictures = self._rest(self._image, pictures, seen[text.shape[1] :], image_parts, adapted)
        return words[None], pictures[None]

    def _rest(
        self, stream: Stream, x: torch.Tensor, seen: torch.Tensor, parts: Sequence[torch.Tensor], adapted: AddedTo
    ) -> torch.Tensor:
        """What follows attention: its output layer, the residual, the MLP, the residual again."""
        run = self._kind.operations
        _, _, _, out, mlp = _TEXT if stream is self._text else _IMAGE
        update = self._multiply(run.quantise(seen), stream.out, (out,), adapted)
        x, rows = run.add_and_modulate(x, update, parts, GATE, SHIFT_MLP)
        del update
        hidden = self._multiply(rows, stream.up, (f"{mlp}.net.0.proj",), adapted)
        activated = run.activate(hidden)
        del hidden
        update = self._multiply(activated, stream.down, (f"{mlp}.net.2",), adapted)
        total: torch.Tensor = run.add(x, update, parts, GATE_MLP)
        return total

    def _multiply(self, rows: Rows, linear: Linear, stems: Sequence[str], adapted: AddedTo) -> torch.Tensor:
        """The product of rows by the layers `stems`, with what LoRAs add to it."""
        found: torch.Tensor = self._kind.operations.multiply(rows, *linear)
        add_to(found, rows, stems, adapted)
        return found
