"""Which tensor of a checkpoint goes into which file of a packed store, in which order and by which codec.

Data and arithmetic. In a block's file the tensors lie in the order of a slot: the large weights first, those that can
be multiplied as one side by side; then what their codec has besides, as scales; then their biases, then the norms.
Names in a block's file are relative to the block; elsewhere they are the hub's. Knows nothing of files' bytes, and
imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from renderer.catalog import Role
from renderer.errors import ModelError
from renderer.families import BlockPart, Family, Network, Outside, Section
from renderer.families.family import Shape
from renderer.job import Stored
from renderer.weights.codecs import CODECS, PLAIN, WEIGHT, Codec, CodecPart
from renderer.weights.headers import PlannedTensor

ALIGNMENT = 16
"""Each tensor of a streamed file takes a multiple of this, so that each view into a slot begins at one."""


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """One tensor of a packed file: its name there, the checkpoint's tensor it comes from, its codec, and which part."""

    name: str
    source: str
    codec: Codec
    part: CodecPart

    @property
    def is_first(self) -> bool:
        """Whether it is its source's first part: each source has one."""
        return self.part.suffix == WEIGHT

    @property
    def bytes(self) -> int:
        return self.part.bytes

    @property
    def planned(self) -> PlannedTensor:
        return self.part.planned(self.name)


@dataclass(frozen=True, slots=True)
class PackedFile:
    """One file of a packed store: its path in the store, what it is of, and its tensors in their order."""

    name: str
    network: Role
    kind: str
    number: int | None
    tensors: tuple[PackedTensor, ...]


def plan_files(family: Family, shapes: Mapping[Role, Mapping[str, Shape]], precision: Stored) -> tuple[PackedFile, ...]:
    """All files of a store, from the names and shapes of its networks' tensors; each tensor is in exactly one.

    What is optional in the family, and not there, has no file.

    Raises `ModelError` where a streamed tensor would leave the next one unaligned.
    """
    files = tuple(file for network in family.networks for file in _of_network(network, shapes[network.role], precision))
    placed = sorted((file.network, each.source) for file in files for each in file.tensors if each.is_first)
    assert placed == sorted((role, name) for role, names in shapes.items() for name in names)
    return files


def _of_network(network: Network, shapes: Mapping[str, Shape], precision: Stored) -> Iterator[PackedFile]:
    for section in network.sections:
        for part in section.parts:
            yield from _streamed(network, section, part, shapes, precision)
    lacking = network.lacking(shapes)
    for outside in network.outside:
        if outside not in lacking:
            yield _apart(network, outside, shapes)


def _streamed(
    network: Network, section: Section, part: BlockPart, shapes: Mapping[str, Shape], precision: Stored
) -> Iterator[PackedFile]:
    for number in section.numbers(shapes):
        block = f"{section.prefix}{number}."
        name = f"{network.role}/{part.kind}-{number:03}.safetensors"
        tensors = tuple(_in_slot_order(network, part, block, shapes, precision))
        for tensor in tensors:
            if tensor.bytes % ALIGNMENT:
                message = f'tensor "{tensor.source}" would take {tensor.bytes} bytes as {tensor.codec.name}'
                hint = "take another model: this one's width cannot be streamed"
                raise ModelError(f"{message}, not a multiple of {ALIGNMENT}", hint=hint)
        yield PackedFile(name, network.role, part.kind, number, tensors)


def _in_slot_order(
    network: Network, part: BlockPart, block: str, shapes: Mapping[str, Shape], precision: Stored
) -> Iterator[PackedTensor]:
    besides: dict[str, list[PackedTensor]] = {}
    for stem in part.layers:
        source = f"{block}{stem}.{WEIGHT}"
        codec = PLAIN if network.reason_to_stay(source) else CODECS[precision]
        first, *others = codec.parts(shapes[source])
        yield PackedTensor(f"{stem}.{WEIGHT}", source, codec, first)
        for other in others:
            besides.setdefault(other.suffix, []).append(PackedTensor(f"{stem}.{other.suffix}", source, codec, other))
    for tensors in besides.values():
        yield from tensors
    rest = (*(f"{stem}.bias" for stem in part.layers), *part.norms)
    for name in rest:
        if block + name in shapes:
            yield _plain(name, block + name, shapes[block + name])


def _plain(name: str, source: str, shape: Shape) -> PackedTensor:
    (part,) = PLAIN.parts(shape)
    return PackedTensor(name, source, PLAIN, part)


def _apart(network: Network, outside: Outside, shapes: Mapping[str, Shape]) -> PackedFile:
    """A file outside the blocks, always plain. Tensors that would leave the next one unaligned come last."""
    own = (name for name in shapes if network.section_of(name) is None and network.outside_of(name) == outside)
    ordered = sorted(
        (_plain(name, name, shapes[name]) for name in own),
        key=lambda tensor: (tensor.bytes % ALIGNMENT > 0, tensor.name),
    )
    return PackedFile(f"{outside.file}.safetensors", network.role, outside.kind, None, tuple(ordered))
