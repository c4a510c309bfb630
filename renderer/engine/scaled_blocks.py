"""A DiT block with scaled products: weights of eight bits a number as they lie in the slot, and activations as well.

The same operations in the same order as DiffSynth's block; between two products everything is fused into one pass over
the rows (`scaled_kernels`, or `scaled_reference` where there is no compiler). Each weight has a scale a row, each
activation one a token; what a number is, and how products are made, the operations know: `fp8_kernels`, `int8_kernels`.
Queries, keys and values are one product, and so are the rows of several riders: a rider alone goes the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from renderer.engine.blocks import ATTENTION_MASK, MODULATE_INDEX, ModuleBlocks, is_rare, size_of
from renderer.engine.scaled_adapted import Wearers, add_to, wearers
from renderer.engine.scaled_reference import FEWEST_ROWS, Rows
from renderer.engine.side_by_side import (
    ALIGNED,
    IMAGE,
    TEXT,
    Arranged,
    Arrangement,
    Places,
    Sizes,
    Streams,
    side_by_side,
)
from renderer.job import BlockArithmetic
from renderer.weights.store import TensorPlace

SHIFT, GATE, SHIFT_MLP, GATE_MLP = 0, 2, 3, 5
"""Where a modulation's vectors lie among the six; each scale follows its shift."""

Linear = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""A scaled weight, its scales, its bias: views into a slot."""


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

_OUT = _TEXT[3], _IMAGE[3]
_UP = f"{_TEXT[4]}.net.0.proj", f"{_IMAGE[4]}.net.0.proj"
_DOWN = f"{_TEXT[4]}.net.2", f"{_IMAGE[4]}.net.2"
"""Layers behind attention, the text's and the image's."""


class ScaledBlocks:
    """Blocks whose slots hold scaled weights, multiplied as they are."""

    def __init__(
        self, plain: ModuleBlocks, places: Sequence[TensorPlace], heads: int, head: int, operations: ModuleType
    ) -> None:
        """`plain` computes what this cannot: caches. `operations` know how products are made."""
        self.arithmetic: BlockArithmetic = operations.ARITHMETIC
        self._plain = plain
        self._places = {place.name: place for place in places}
        self._heads = heads
        self._head = head
        self._operations = operations
        self._bound: dict[int, ScaledBlock] = {}
        self._arranged: dict[Sizes, Arranged] = {}
        self._used: dict[Sizes, Arranged] = {}
        self.shares = True
        """Whether riders go together; not where a row's product depends on how many there are."""

    def arrive(self, number: int, slot: torch.Tensor) -> ScaledBlock:
        if number == 0:  # what the last sweep had no riders of is let go
            self._arranged, self._used = self._used, {}
        bound = self._bound.get(slot.data_ptr())
        if bound is None:
            image, text = self._stream(slot, *_IMAGE), self._stream(slot, *_TEXT)
            bound = self._bound[slot.data_ptr()] = ScaledBlock(image, text, self, slot)
        return bound

    def forget(self) -> None:
        self._bound.clear()
        self._arranged.clear()
        self._used.clear()
        self._plain.forget()

    def arrange(self, sizes: Sizes, device: torch.device) -> Arranged:
        """How riders of these sizes lie: products begin where cuBLAS takes them, and have as many rows as it wants."""
        found = self._used.get(sizes) or self._arranged.get(sizes)
        if found is None:
            order = Arrangement(sizes, aligned=ALIGNED, fewest=FEWEST_ROWS if device.type == "cuda" else 1)
            found = Arranged(order, Places.of(order, device))
        self._used[sizes] = found
        return found

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
        """The block with decoded weights, for what is asked for rarely."""
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


class ScaledBlock:
    """One block, called as DiffSynth calls its own; by several riders at once, too."""

    def __init__(self, image: Stream, text: Stream, kind: ScaledBlocks, slot: torch.Tensor) -> None:
        self._image = image
        self._text = text
        self._kind = kind
        self._slot = slot

    def __call__(self, **inputs: Any) -> Streams:
        """`image` and `text` are 1 x tokens x width; the same come back, text first."""
        if is_rare({**inputs, MODULATE_INDEX: None, ATTENTION_MASK: None}):
            found: Streams = self._kind.otherwise(self._slot, **inputs)
            return found
        (found,) = self.together([inputs])
        return found

    def size(self, inputs: Mapping[str, Any]) -> tuple[int, int] | None:
        """Tokens of a rider's image and text, if it can go together with others."""
        if is_rare(inputs) or not self._kind.shares:
            return None
        return size_of(inputs)

    def arrange(self, sizes: Sizes, device: torch.device) -> Arranged:
        """How riders of these sizes lie; the same for the rest of a sweep, and for whoever keeps it."""
        return self._kind.arrange(sizes, device)

    def together(self, riders: Sequence[Mapping[str, Any]]) -> list[Streams]:
        """What each rider would be given alone, bit by bit; nobody's inputs are rare, but of one that goes alone.

        Rows of all go through each product as one, and through what lies between two products. Attention is of riders
        alike at once. What LoRAs add is added to their riders' own rows.
        """
        arranged = self.arrange(tuple(map(size_of, riders)), riders[0]["image"].device)
        order, places = arranged.order, arranged.places
        assert places is not None
        if (index := riders[0].get(MODULATE_INDEX)) is not None:
            places = places.split(order, index[0])
        x = order.together([(rider["text"], rider["image"]) for rider in riders])
        vectors = side_by_side([rider["temb"].both for rider in riders])
        turns = [side_by_side([rider["image_rotary_emb"][stream] for rider in riders]) for stream in (TEXT, IMAGE)]
        loras = wearers(riders, order.spans, together=self._kind.operations.rows_are_alike())
        mask = riders[0].get(ATTENTION_MASK)
        x = self._rest(order, places, x, self._attend(order, places, x, vectors, turns, loras, mask), vectors, loras)
        return order.apart(x)

    def _attend(
        self,
        order: Arrangement,
        places: Places,
        x: torch.Tensor,
        vectors: torch.Tensor,
        turns: Sequence[torch.Tensor],
        loras: Sequence[Wearers],
        mask: torch.Tensor | None,
    ) -> Rows:
        """What the riders' attention gives, scaled; `turns` are texts' and images', a `mask` is of one alone."""
        run = self._kind.operations
        heads, head = self._kind.shape
        there = len(places.back)
        joint = tuple(torch.empty((there, heads, head), dtype=x.dtype, device=x.device) for _ in range(3))
        rows = run.modulate(x, vectors, places.whose, SHIFT)
        added = [each.terms(run, rows, (_TEXT[0], _IMAGE[0])) for each in loras]
        for stream, names, complex_turns, first, last in (
            (self._text, _TEXT[0], turns[0], 0, order.first_image),
            (self._image, _IMAGE[0], turns[1], order.first_image, order.rows),
        ):
            part = rows.part(first, last)
            qkv = run.multiply(part, *stream.qkv, out=x.new_empty((part.count, len(stream.qkv[0]))))
            for each, (in_text, in_image) in zip(loras, added, strict=True):
                own, terms = (each.image, in_image) if stream is self._image else (each.text, in_text)
                add_to(run, qkv[own.start - first : own.stop - first], terms, len(names))
            turn = torch.view_as_real(complex_turns)
            run.place(qkv, stream.norm_q, stream.norm_k, turn, joint, places.attended[first : first + len(turn)])
            del qkv
        del rows, added
        found = run.room_for(x)
        for first, riders, length in places.alike:
            last = first + riders * length
            query, key, value = (part[first:last].view(riders, length, heads, head).transpose(1, 2) for part in joint)
            seen = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            seen = seen.transpose(1, 2).reshape(riders * length, heads * head)
            run.quantise_into(seen, found, places.back[first:last])
            del query, key, value, seen
        return found

    def _rest(
        self,
        order: Arrangement,
        places: Places,
        x: torch.Tensor,
        seen: Rows,
        vectors: torch.Tensor,
        loras: Sequence[Wearers],
    ) -> torch.Tensor:
        """What follows attention: its output layer, the residual, the MLP, the residual again."""
        run, whose = self._kind.operations, places.whose
        update = self._multiply(order, seen, (self._text.out, self._image.out), _OUT, loras, x.dtype)
        del seen
        x, rows = run.add_and_modulate(x, update, vectors, whose, GATE, SHIFT_MLP)
        del update
        hidden = self._multiply(order, rows, (self._text.up, self._image.up), _UP, loras, x.dtype)
        del rows
        activated = run.activate(hidden)
        del hidden
        update = self._multiply(order, activated, (self._text.down, self._image.down), _DOWN, loras, x.dtype)
        del activated
        total: torch.Tensor = run.add(x, update, vectors, whose, GATE_MLP)
        return total

    def _multiply(
        self,
        order: Arrangement,
        rows: Rows,
        layers: tuple[Linear, Linear],
        stems: tuple[str, str],
        loras: Sequence[Wearers],
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """All rows by the text's or the image's layer, with what LoRAs add to these."""
        run, first = self._kind.operations, order.first_image
        text, image = layers
        found = torch.empty((order.rows, len(text[0])), dtype=dtype, device=rows.values.device)
        run.multiply(rows.part(0, first), *text, out=found[:first])
        run.multiply(rows.part(first, order.rows), *image, out=found[first:])
        for each in loras:
            in_text, in_image = each.terms(run, rows, ((stems[0],), (stems[1],)))
            add_to(run, found[each.text], in_text)
            add_to(run, found[each.image], in_image)
        return found
