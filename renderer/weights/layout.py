"""Which tensor of a checkpoint goes into which file of a packed store, in which order and by which codec.

Data and arithmetic. In a block's file the tensors lie in the order of a slot: the large weights first, those that can
be multiplied as one side by side; then what their codec has besides, as scales; then their biases, then the norms.
Names in a block's file are relative to the block; elsewhere they are the hub's. Knows nothing of files' bytes, and
imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from renderer.errors import ModelError
from renderer.job import Stored
from renderer.weights.codecs import CODECS, PLAIN, WEIGHT, Codec, Part
from renderer.weights.headers import Planned, Shape
from renderer.weights.shapes import Network

Kind = Literal["block", "modulation", "outside", "vision", "whole"]
"""What a file is of: a layer, a layer's modulation, what stands outside the layers, the vision tower, a network."""

ALIGNMENT = 16
"""Each tensor of a streamed file takes a multiple of this, so that each view into a slot begins at one."""

BLOCK_PREFIX: Mapping[Network, str] = {"transformer": "transformer_blocks.", "text_encoder": "model.layers."}

SLOT_ORDER: Mapping[tuple[Network, Kind], tuple[str, ...]] = {
    ("transformer", "block"): (
        *("attn.to_q", "attn.to_k", "attn.to_v"),  # one product of [3 * width, width]
        *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),  # another
        "attn.to_out.0",
        "attn.to_add_out",
        "img_mlp.net.0.proj",
        "img_mlp.net.2",
        "txt_mlp.net.0.proj",
        "txt_mlp.net.2",
    ),
    ("transformer", "modulation"): ("img_mod.1", "txt_mod.1"),
    ("text_encoder", "block"): (
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.o_proj",
        *("mlp.gate_proj", "mlp.up_proj"),
        "mlp.down_proj",
    ),
}
"""The linear layers of a streamed file, in the order of their weights."""

NORMS: Mapping[tuple[Network, Kind], tuple[str, ...]] = {
    ("transformer", "block"): tuple(f"attn.norm_{name}.weight" for name in ("q", "k", "added_q", "added_k")),
    ("transformer", "modulation"): (),
    ("text_encoder", "block"): ("input_layernorm.weight", "post_attention_layernorm.weight"),
}


@dataclass(frozen=True, slots=True)
class Staying:
    """Tensors that stay bf16 in every store, by a pattern over the hub's names, and why."""

    network: Network
    pattern: str
    reason: str


STAYS_BF16: tuple[Staying, ...] = (
    Staying("transformer", r"\.bias$", "added, not multiplied; a vector a layer, so nothing would be saved"),
    Staying("transformer", r"\.norm_(added_)?[qk]\.weight$", "scales every query and key; 128 numbers"),
    Staying(
        "transformer",
        r"^(img_in|txt_in|txt_norm|time_text_embed|norm_out|proj_out)\.",
        "every value of every layer passes here, and an error here reaches every pixel; 0.2 % of the weights",
    ),
    Staying("text_encoder", r"\.bias$", "added, not multiplied; a vector a layer, so nothing would be saved"),
    Staying("text_encoder", r"norm\.weight$", "scales every value that passes; a vector a layer"),
    Staying("text_encoder", r"^model\.embed_tokens\.", "looked up, not multiplied: an error would stay in every layer"),
    Staying("text_encoder", r"^visual\.", "only edits use it; its widths (3420) are none that FP8 products take"),
    Staying("vae", r"", "convolutions, which have no FP8 kernels, and the last to touch a pixel; 0.25 GB"),
)


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """One tensor of a packed file: its name there, the checkpoint's tensor it comes from, its codec, and which part."""

    name: str
    source: str
    codec: Codec
    part: Part

    @property
    def is_first(self) -> bool:
        """Whether it is its source's first part: each source has one."""
        return self.part.suffix == WEIGHT

    @property
    def bytes(self) -> int:
        return self.part.bytes

    @property
    def planned(self) -> Planned:
        return self.part.planned(self.name)


@dataclass(frozen=True, slots=True)
class PackedFile:
    """One file of a packed store: its path in the store, what it is of, and its tensors in their order."""

    name: str
    network: Network
    kind: Kind
    number: int | None
    tensors: tuple[PackedTensor, ...]


def reason_to_stay(network: Network, source: str) -> str:
    """Why a tensor stays bf16 in every store, or an empty string."""
    return next((row.reason for row in STAYS_BF16 if row.network == network and re.search(row.pattern, source)), "")


def plan_files(shapes: Mapping[Network, Mapping[str, Shape]], precision: Stored) -> tuple[PackedFile, ...]:
    """All files of a store, from the names and shapes of its networks' tensors; each tensor is in exactly one.

    A text encoder without its vision tower has no file for one.

    Raises `ModelError` where a streamed tensor would leave the next one unaligned.
    """
    sees = any(_kind_of("text_encoder", name) == "vision" for name in shapes["text_encoder"])
    files = (
        *_streamed("transformer", "block", shapes["transformer"], precision),
        *_streamed("transformer", "modulation", shapes["transformer"], precision),
        _apart("transformer/outside", "transformer", "outside", shapes["transformer"]),
        *_streamed("text_encoder", "block", shapes["text_encoder"], precision),
        _apart("text_encoder/outside", "text_encoder", "outside", shapes["text_encoder"]),
        *((_apart("text_encoder/vision", "text_encoder", "vision", shapes["text_encoder"]),) if sees else ()),
        _apart("vae", "vae", "whole", shapes["vae"]),
    )
    placed = sorted((file.network, each.source) for file in files for each in file.tensors if each.is_first)
    assert placed == sorted((network, name) for network, names in shapes.items() for name in names)
    return files


def _streamed(network: Network, kind: Kind, shapes: Mapping[str, Shape], precision: Stored) -> Iterator[PackedFile]:
    prefix = BLOCK_PREFIX[network]
    numbers = {int(name.removeprefix(prefix).partition(".")[0]) for name in shapes if name.startswith(prefix)}
    for number in sorted(numbers):
        block = f"{prefix}{number}."
        name = f"{network}/{kind}-{number:03}.safetensors"
        file = PackedFile(name, network, kind, number, tuple(_in_slot_order(network, kind, block, shapes, precision)))
        for tensor in file.tensors:
            if tensor.bytes % ALIGNMENT:
                message = f'tensor "{tensor.source}" would take {tensor.bytes} bytes as {tensor.codec.name}'
                hint = "take another model: this one's width cannot be streamed"
                raise ModelError(f"{message}, not a multiple of {ALIGNMENT}", hint=hint)
        yield file


def _in_slot_order(
    network: Network, kind: Kind, block: str, shapes: Mapping[str, Shape], precision: Stored
) -> Iterator[PackedTensor]:
    stems = SLOT_ORDER[network, kind]
    besides: dict[str, list[PackedTensor]] = {}
    for stem in stems:
        source = f"{block}{stem}.{WEIGHT}"
        codec = PLAIN if reason_to_stay(network, source) else CODECS[precision]
        first, *others = codec.parts(shapes[source])
        yield PackedTensor(f"{stem}.{WEIGHT}", source, codec, first)
        for part in others:
            besides.setdefault(part.suffix, []).append(PackedTensor(f"{stem}.{part.suffix}", source, codec, part))
    for tensors in besides.values():
        yield from tensors
    rest = (*(f"{stem}.bias" for stem in stems), *NORMS[network, kind])
    for name in rest:
        if block + name in shapes:
            yield _plain(name, block + name, shapes[block + name])


def _plain(name: str, source: str, shape: Shape) -> PackedTensor:
    (part,) = PLAIN.parts(shape)
    return PackedTensor(name, source, PLAIN, part)


def _apart(stem: str, network: Network, kind: Kind, shapes: Mapping[str, Shape]) -> PackedFile:
    """A file outside the blocks, always plain. Tensors that would leave the next one unaligned come last."""
    names = [name for name in shapes if _kind_of(network, name) == kind]
    tensors = [_plain(name, name, shapes[name]) for name in names]
    ordered = sorted(tensors, key=lambda tensor: (tensor.bytes % ALIGNMENT > 0, tensor.name))
    return PackedFile(f"{stem}.safetensors", network, kind, None, tuple(ordered))


def _kind_of(network: Network, name: str) -> Kind:
    """What kind of file a tensor belongs to; "block" stands for a layer's modulation too."""
    if network == "vae":
        return "whole"
    if name.startswith(BLOCK_PREFIX[network]):
        return "block"
    return "vision" if name.startswith("visual.") else "outside"
