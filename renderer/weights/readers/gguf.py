"""GGUF: tensors in blocks of numbers with scales of their own, as llama.cpp and city96's tools write them.

A file is a magic and counts, keys with values, what is said of each tensor, then the tensors, each at a multiple of the
file's alignment. Read within bounds, where the `gguf` library would follow any count; the types, their sizes and their
numbers are the library's.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, ClassVar

from renderer.errors import ModelError, shorten
from renderer.families.family import Shape
from renderer.text import installing
from renderer.weights.headers import first_twice
from renderer.weights.readers.reader import Contents, TensorAt

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_BIG_ENDIAN = 0xFFFF0000
_ALIGNMENT = 32
_LARGEST_ALIGNMENT = 2**20

_MAX_HEADER_BYTES = 100_000_000
_MAX_ENTRIES = 2**20
_MAX_NAME_BYTES = 2**10
_MAX_DIMENSIONS = 8
_MAX_DEPTH = 4
_AT_A_TIME = 2**20

_STRING, _ARRAY = 8, 9
_SCALARS: Mapping[int, str] = MappingProxyType(
    {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
)
"""The types of values by their numbers in a file, as `struct` has them."""

_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
_INSTALL = f"install the library: {installing('gguf')}"

_Told = str | int | float | tuple[int | float, ...] | None
"""A value that is kept: text, a number, or a few; longer arrays, as a tokenizer's words, are passed over."""

_KEPT_NUMBERS = _MAX_DIMENSIONS


class _Gguf:
    name: ClassVar[str] = "gguf"
    dtypes: ClassVar[tuple[str, ...]] = (
        *("F32", "F16", "BF16"),
        *("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K"),
        *("IQ4_XS", "IQ4_NL", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"),
        *("TQ2_0", "TQ1_0", "MXFP4", "NVFP4"),
    )

    def is_its(self, start: bytes) -> bool:
        return start.startswith(_MAGIC)

    def read(self, path: Path) -> Contents:
        try:
            with path.open("rb") as stream:
                size = stream.seek(0, 2)
                stream.seek(0)
                header = _header(path, _Cursor(path, stream))
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
        tensors = {each.name: _place(path, each, header) for each in header.tensors}
        _check_places(path, tensors, header, size)
        metadata = {key: value for key, value in header.told.items() if isinstance(value, str)}
        return Contents(path, tensors, metadata, header.sha256)


# ---- the header ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is said of a tensor: `shape` as it is in memory, `offset` from the beginning of the data."""

    name: str
    shape: Shape
    type: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Header:
    told: Mapping[str, _Told]
    tensors: tuple[_Entry, ...]
    alignment: int
    data_offset: int
    sha256: str


@dataclass(slots=True)
class _Cursor:
    """A place in the file's beginning, which comes as it is wanted."""

    path: Path
    stream: BinaryIO
    read: bytearray = field(default_factory=bytearray)
    at: int = 0

    def bytes(self, count: int) -> bytes:
        """The next bytes. Raises `ModelError` where the file ends, or says that its header is too large."""
        end = self.at + count
        if end > _MAX_HEADER_BYTES:
            raise _damaged(self.path, f"its header is more than the {_MAX_HEADER_BYTES} bytes that are allowed")
        while len(self.read) < end:
            more = self.stream.read(max(_AT_A_TIME, end - len(self.read)))
            if not more:
                raise ModelError(
                    f"{self.path}: cut off within its header",
                    hint="fetch it again: the download did not come to its end",
                )
            self.read += more
        found = bytes(self.read[self.at : end])
        self.at = end
        return found

    def number(self, form: str) -> int:
        found: int = struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}")))[0]
        return found

    def count(self, what: str, most: int) -> int:
        found = self.number("Q")
        if found > most:
            raise _damaged(self.path, f"it says that it has {found} {what}")
        return found

    def text(self, most: int) -> str:
        length = self.count("letters in a name", most)
        try:
            return self.bytes(length).decode()
        except UnicodeDecodeError as error:
            raise _damaged(self.path, "a name in its header is not UTF-8") from error

    def passed_over(self) -> None:
        """A text that nobody asks for, of any length."""
        self.bytes(self.count("letters in a text", _MAX_HEADER_BYTES))


def _header(path: Path, cursor: _Cursor) -> _Header:
    cursor.bytes(len(_MAGIC))
    version = cursor.number("I")
    if version & _BIG_ENDIAN:
        raise ModelError(f"{path}: a GGUF file for big-endian machines", hint="take the usual, little-endian one")
    if version not in _VERSIONS:
        message = f"{path}: a GGUF file of version {version}, and {' and '.join(map(str, _VERSIONS))} are read"
        raise ModelError(message, hint="take a newer file of the model")
    tensors = cursor.count("tensors", _MAX_ENTRIES)
    keys = cursor.count("keys", _MAX_ENTRIES)
    told: dict[str, _Told] = {}
    for _ in range(keys):
        key = cursor.text(_MAX_NAME_BYTES)
        if key in told:
            raise _damaged(path, f'its header has "{shorten(key)}" twice')
        told[key] = _value(cursor, cursor.number("I"), 0)
    entries = tuple(_entry(cursor) for _ in range(tensors))
    alignment = told.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise _damaged(path, f"its alignment is {alignment}")
    end = cursor.at
    cursor.bytes(-end % alignment)
    digest = hashlib.sha256(cursor.read[: cursor.at]).hexdigest()
    return _Header(told, entries, alignment, cursor.at, digest)


def _value(cursor: _Cursor, kind: int, depth: int) -> _Told:
    """A value, if it is one that is kept; in any case the cursor stands behind it afterwards."""
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind == _STRING:
        return cursor.bytes(cursor.count("letters in a text", _MAX_HEADER_BYTES)).decode(errors="replace")
    if kind != _ARRAY or depth >= _MAX_DEPTH:
        raise _damaged(cursor.path, f"a value in its header is of the unknown type {kind}")
    inner = cursor.number("I")
    length = cursor.count("values in a list", _MAX_HEADER_BYTES)
    if form := _SCALARS.get(inner):
        raw = cursor.bytes(length * struct.calcsize(f"<{form}"))
        return struct.unpack(f"<{length}{form}", raw) if length <= _KEPT_NUMBERS else None
    for _ in range(length):
        if inner == _STRING:
            cursor.passed_over()
        else:
            _value(cursor, inner, depth + 1)
    return None


def _entry(cursor: _Cursor) -> _Entry:
    name = cursor.text(_MAX_NAME_BYTES)
    dimensions = cursor.number("I")
    if dimensions > _MAX_DIMENSIONS:
        raise _damaged(cursor.path, f'tensor "{shorten(name)}" has {dimensions} dimensions')
    shape = struct.unpack(f"<{dimensions}Q", cursor.bytes(8 * dimensions))
    return _Entry(name, tuple(reversed(shape)), cursor.number("I"), cursor.number("Q"))


# ---- tensors ---------------------------------------------------------------------------------------------------------


def _place(path: Path, entry: _Entry, header: _Header) -> TensorAt:
    """Where a tensor lies. Raises `ModelError` for one of an unknown type, or whose rows are no whole blocks."""
    where = f'tensor "{shorten(entry.name)}"'
    name, block, block_bytes = _type(path, where, entry.type)
    numbers = math.prod(entry.shape)
    if not numbers or numbers >= 2**63:
        raise _damaged(path, f"{where} has the shape {list(entry.shape)}")
    shape = _original_shape(path, entry, header.told)
    row = math.prod(shape[1:])
    if (entry.shape or (1,))[-1] % block or row % block:
        raise _damaged(path, f"{where} of {name} {list(shape)} has rows that are no whole blocks of {block}")
    if entry.offset % header.alignment:
        raise _damaged(path, f"{where} does not begin at a multiple of {header.alignment}")
    return TensorAt(path, "gguf", name, shape, header.data_offset + entry.offset, numbers // block * block_bytes)


def _type(path: Path, where: str, number: int) -> tuple[str, int, int]:
    """A type's name, how many numbers a block of it has, and how many bytes."""
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType  # noqa: PLC0415  # an extra
    except ImportError:
        raise ModelError(f"{path}: a GGUF file, and the library that reads it is not here", hint=_INSTALL) from None
    try:
        found = GGMLQuantizationType(number)
    except ValueError:
        hint = "take the bf16 file, or one of another type: a newer tool made this one, or it is damaged"
        raise ModelError(f"{path}: {where} is of the unknown type {number}", hint=hint) from None
    return (found.name, *GGML_QUANT_SIZES[found])


def _original_shape(path: Path, entry: _Entry, told: Mapping[str, _Told]) -> Shape:
    """A tensor's own shape: what has more dimensions than GGUF takes, or odd ones, is written as another."""
    key = f"{_ORIGINAL_SHAPE}{entry.name}"
    if key not in told:
        return entry.shape
    match told[key]:
        case tuple(shape) if all(type(side) is int and side > 0 for side in shape):
            found = tuple(int(side) for side in shape)
            if math.prod(found) == math.prod(entry.shape):
                return found
    message = f'tensor "{shorten(entry.name)}" of {list(entry.shape)} is said to be {told[key]}'
    raise _damaged(path, message)


def _check_places(path: Path, tensors: Mapping[str, TensorAt], header: _Header, size: int) -> None:
    """Each tensor is there once, all lie behind one another, and the file ends with the last."""
    if len(tensors) != len(header.tensors):
        twice = first_twice(each.name for each in header.tensors)
        raise _damaged(path, f'its header has "{shorten(twice)}" twice')
    reached = header.data_offset
    for name, place in sorted(tensors.items(), key=lambda item: item[1].offset):
        begin = reached + -(reached - header.data_offset) % header.alignment
        if place.offset != begin:
            what = "overlaps the one before it" if place.offset < begin else "leaves a gap before it"
            raise _damaged(path, f'tensor "{shorten(name)}" {what}')
        reached = place.offset + place.bytes
    if reached > size:
        message = (
            f"{path}: cut off: {size - header.data_offset} of {reached - header.data_offset} bytes of data are there"
        )
        raise ModelError(message, hint="fetch it again: the download did not come to its end")
    if size - reached >= header.alignment:
        raise _damaged(path, f"{size - reached} bytes too many stand after its data")


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"{path}: {what}", hint="fetch or make it again: it is damaged, or not what its name says")


READER = _Gguf()
