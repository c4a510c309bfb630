"""Blocks whose slots hold less than is multiplied: each is unpacked once a sweep, however many ride through it.

A codec may keep its matrices in the form of another one, in fewer bits (`Codec.multiplied_as`). What comes past in the
slots is what is kept; it is unpacked into room for one block, laid out as the other codec's blocks are, and that one
block is computed with. What is unpacked is the same to the bit everywhere. Knows nothing of products and riders.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any

import torch

from renderer.engine import precision
from renderer.engine.blocks import FastBlocks
from renderer.engine.device import Device
from renderer.job import BlockArithmetic, Stored
from renderer.weights.codecs import CODECS, WEIGHT, Codec
from renderer.weights.codecs.rows import UNPACKERS, Unpacker
from renderer.weights.dtypes import TORCH_DTYPES
from renderer.weights.store import TensorPlace

LOG = logging.getLogger(__name__)

_KERNELS: Mapping[Stored, str] = MappingProxyType({"int4": "renderer.engine.int4_kernels"})
"""What unpacks a codec's matrices on a GPU, where it compiles."""


def as_multiplied(places: Sequence[TensorPlace]) -> tuple[TensorPlace, ...]:
    """Where a block's tensors lie in a slot of the codec in whose form it is multiplied: their own places, if as kept.

    The order is the same, for every store lays its blocks out alike.
    """
    kept = {name: each for name, each in precision.kept(places).items() if _is_packed(each.codec)}
    if not kept:
        return tuple(places)
    gone = {part for each in kept.values() for suffix, part in each.parts.items() if suffix in _own(each.codec)}
    found: list[TensorPlace] = []
    at = 0
    for place in places:
        if place.name in kept:
            codec = kept[place.name].codec
            shapes = {suffix: _named(places, part).shape for suffix, part in kept[place.name].parts.items()}
            part = CODECS[codec.multiplied_as].parts(codec.shape(shapes))[0]
            found.append(TensorPlace(place.name, part.dtype, part.shape, at, part.bytes))
        elif place.name not in gone:
            found.append(TensorPlace(place.name, place.dtype, place.shape, at, place.bytes))
        else:
            continue
        at += found[-1].bytes
    return tuple(found)


def unpacker(codec: Codec, device: Device) -> Unpacker:
    """What unpacks a codec's matrices here: its kernel, if that compiles and is right; plain torch elsewhere."""
    plain = UNPACKERS[codec.name]
    if device == "cpu":
        return plain
    try:
        kernels: ModuleType = importlib.import_module(_KERNELS[codec.name])
        own: Unpacker = kernels.unpack_into
        if _same(codec, own, plain, device):
            return own
        LOG.warning("the kernel that unpacks %s comes out wrong here: plain torch does it, slower", codec.name)
    except Exception as error:  # noqa: BLE001  # no Triton, no C compiler, a driver it does not know
        LOG.warning("no working compiler (%s): %s blocks are unpacked in plain torch, slower", error, codec.name)
    return plain


def _same(codec: Codec, one: Unpacker, other: Unpacker, device: Device) -> bool:
    """Whether both make the same of random bits."""
    shape = 48, 256
    dice = torch.Generator().manual_seed(0)
    parts = {
        part.suffix: torch.randint(0, 256, (part.bytes,), dtype=torch.uint8, generator=dice)
        .view(TORCH_DTYPES[part.dtype])
        .view(part.shape)
        .to(device)
        for part in codec.parts(shape)
    }
    found = [torch.empty(shape, dtype=torch.int8, device=device) for _ in range(2)]
    for values, unpack in zip(found, (one, other), strict=True):
        unpack(values, parts)
    return torch.equal(*found)


@dataclass(frozen=True, slots=True)
class _Run:
    """Matrices of one width that lie behind one another: what they are unpacked from, and to."""

    parts: Mapping[str, TensorPlace]
    values: TensorPlace


@dataclass(frozen=True, slots=True)
class _Copied:
    """Bytes that are as they are: where they lie in a slot, and where in the room."""

    source: slice
    target: slice


class UnpackedBlocks:
    """Blocks that multiply what is unpacked: `blocks` are those of a slot laid out as `as_multiplied` says."""

    def __init__(self, blocks: FastBlocks, places: Sequence[TensorPlace], unpack: Unpacker) -> None:
        """`places` are those of what is kept."""
        self._blocks = blocks
        self._unpack = unpack
        there = as_multiplied(places)
        self._bytes = sum(place.bytes for place in there)
        self._runs = tuple(_runs(places, there))
        self._copied = tuple(_copied(places, there))
        self._room: torch.Tensor | None = None

    @property
    def arithmetic(self) -> BlockArithmetic:
        return self._blocks.arithmetic

    @property
    def products(self) -> set[tuple[int, int]]:
        """Those of the blocks."""
        return self._blocks.products

    @property
    def shape(self) -> tuple[int, int]:
        """That of the blocks."""
        return self._blocks.shape

    @property
    def shares(self) -> bool:
        """Whether riders go together."""
        return self._blocks.shares

    @shares.setter
    def shares(self, value: bool) -> None:
        self._blocks.shares = value

    def arrive(self, number: int, slot: torch.Tensor) -> Any:
        """Unpack the block in `slot`: it is there until the next one arrives, wherever that lies."""
        if self._room is None:
            self._room = torch.empty(self._bytes, dtype=torch.uint8, device=slot.device)
        for run in self._runs:
            self._unpack(_view(self._room, run.values), {suffix: _view(slot, it) for suffix, it in run.parts.items()})
        for each in self._copied:
            self._room[each.target].copy_(slot[each.source])
        return self._blocks.arrive(number, self._room)

    def forget(self) -> None:
        self._blocks.forget()
        self._room = None


def _is_packed(codec: Codec) -> bool:
    return codec.multiplied_as != codec.name


def _own(codec: Codec) -> frozenset[str]:
    """The suffixes of parts that are there no more, once it is unpacked."""
    return frozenset(codec.dtypes) - frozenset(CODECS[codec.multiplied_as].dtypes)


def _named(places: Sequence[TensorPlace], name: str) -> TensorPlace:
    return next(place for place in places if place.name == name)


def _view(flat: torch.Tensor, place: TensorPlace) -> torch.Tensor:
    return flat[place.offset : place.offset + place.bytes].view(place.torch_dtype).view(place.shape)


def _runs(places: Sequence[TensorPlace], there: Sequence[TensorPlace]) -> Iterator[_Run]:
    """The matrices that are unpacked, as many at once as are of one width and side by side."""
    kept = precision.kept(places)
    last: _Run | None = None
    for values in there:
        how = kept.get(values.name)
        if how is None or not _is_packed(how.codec):
            continue
        wanted = {WEIGHT, *_own(how.codec)}
        parts = {suffix: _named(places, part) for suffix, part in how.parts.items() if suffix in wanted}
        run = _Run(parts, values)
        joined = None if last is None else _joined(last, run)
        if joined is None and last is not None:
            yield last
        last = joined or run
    if last is not None:
        yield last


def _joined(one: _Run, other: _Run) -> _Run | None:
    """Both as one, where each of their parts lies right behind the first one's."""
    if one.parts.keys() != other.parts.keys() or not _follows(one.values, other.values):
        return None
    if not all(_follows(one.parts[suffix], other.parts[suffix]) for suffix in one.parts):
        return None
    parts = {suffix: _both(part, other.parts[suffix]) for suffix, part in one.parts.items()}
    return _Run(parts, _both(one.values, other.values))


def _follows(one: TensorPlace, other: TensorPlace) -> bool:
    return (one.dtype, one.shape[1:]) == (other.dtype, other.shape[1:]) and one.offset + one.bytes == other.offset


def _both(one: TensorPlace, other: TensorPlace) -> TensorPlace:
    shape = (one.shape[0] + other.shape[0], *one.shape[1:])
    return TensorPlace(one.name, one.dtype, shape, one.offset, one.bytes + other.bytes)


def _copied(places: Sequence[TensorPlace], there: Sequence[TensorPlace]) -> Iterator[_Copied]:
    """What is the same in both, as few pieces as can be."""
    own = {place.name: place for place in places}
    found: list[_Copied] = []
    for target in there:
        source = own[target.name]
        if (source.dtype, source.shape) != (target.dtype, target.shape):
            continue
        piece = _Copied(_bytes(source), _bytes(target))
        if found and (found[-1].source.stop, found[-1].target.stop) == (piece.source.start, piece.target.start):
            before = found.pop()
            piece = _Copied(
                slice(before.source.start, piece.source.stop), slice(before.target.start, piece.target.stop)
            )
        found.append(piece)
    yield from found


def _bytes(place: TensorPlace) -> slice:
    return slice(place.offset, place.offset + place.bytes)
