"""Safetensors files: a header read within bounds before a byte of data is touched, and files written in our own order.

A file is eight bytes of length, a header in JSON, then the tensors' bytes without a gap. safetensors' own writer sorts
tensors by type, so it cannot lay them out as a slot needs them; its reader reads what is written here. Knows nothing
of models, and imports no torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from renderer.errors import DiskError, ModelError, shorten
from renderer.families.family import Shape
from renderer.system import files
from renderer.weights import strangers

ITEM_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one element, by safetensors' name of the type (0.7). A type that is not here is refused."""

DATA_ALIGNMENT = 4096
"""In our files the data begins at a multiple of this: what direct reads from a disk ask for."""

MAX_HEADER_BYTES = 100_000_000  # safetensors' own bound

_LENGTH_BYTES = 8
_MAX_DIMENSIONS = 16


@dataclass(frozen=True, slots=True)
class HeaderEntry:
    """One tensor of a file: its type, its shape, and where it lies from the beginning of the data, in bytes."""

    dtype: str
    shape: Shape
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself, checked. Tensors are in the order of their places; the data begins at `data_offset`.

    `sha256` is that of everything before the data.
    """

    tensors: Mapping[str, HeaderEntry]
    data_offset: int
    file_bytes: int
    metadata: Mapping[str, str]
    sha256: str


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that has been written: its bytes, its SHA-256, and the SHA-256 of its header alone."""

    bytes: int
    sha256: str
    header_sha256: str


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """The bytes a tensor takes."""
    return math.prod(shape) * ITEM_BITS[dtype] // 8


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_header(path: Path) -> Header:
    """The header of a safetensors file. Raises `ModelError`, naming the file, for anything that is not whole and sane.

    Nothing is mapped, and no more than the header is read.
    """
    if strangers.named_as_pickle(path):
        raise strangers.pickled(path)
    try:
        with path.open("rb") as stream:
            file_bytes = os.fstat(stream.fileno()).st_size
            raw = _raw_header(path, stream, file_bytes)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    document = _parse(path, raw[_LENGTH_BYTES:])
    metadata = _metadata(path, document.pop("__metadata__", {}))
    entries = {name: _entry(path, name, found) for name, found in document.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)))
    _check_places(path, ordered, file_bytes - len(raw))
    return Header(ordered, len(raw), file_bytes, metadata, hashlib.sha256(raw).hexdigest())


def _raw_header(path: Path, stream: BinaryIO, file_bytes: int) -> bytes:
    """The length and the header, as they stand in the file."""
    start = stream.read(_LENGTH_BYTES + 1)
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if start[_LENGTH_BYTES:] != b"{" or length > MAX_HEADER_BYTES:
        if stranger := strangers.explain(path, start + stream.read(strangers.LOOKED_AT_BYTES), file_bytes):
            raise stranger
        if len(start) <= _LENGTH_BYTES:
            raise _damaged(path, f"{file_bytes} bytes are too short for a safetensors file")
        if start[_LENGTH_BYTES:] == b"{":
            raise _damaged(path, f"a header of {length} bytes is more than the {MAX_HEADER_BYTES} that are allowed")
        raise _damaged(path, "not a safetensors file")
    if _LENGTH_BYTES + length > file_bytes:
        raise _damaged(path, f"its header of {length} bytes reaches beyond its end at {file_bytes}")
    return start + stream.read(length - 1)


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = first_twice(name for name, _ in pairs)
            raise _damaged(path, f'its header has "{shorten(twice)}" twice')
        return found

    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is not JSON") from error
    if not isinstance(document, dict):
        raise _damaged(path, "its header is not a table of tensors")
    return document


def first_twice(names: Iterable[str]) -> str:
    """The first of them that has been there before, in one pass; one must have been."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    raise AssertionError


def _metadata(path: Path, found: object) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise _damaged(path, "its metadata is not a table of texts")
    return found


def _entry(path: Path, name: str, found: object) -> HeaderEntry:
    where = f'tensor "{shorten(name)}"'
    if not isinstance(found, dict) or found.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"{where} has no dtype, shape and data_offsets")
    dtype, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        message = f'{path}: {where} is of the unknown type "{shorten(str(dtype))}"'
        raise ModelError(message, hint="take the bf16 file: a newer tool than is known here made this one, or damage")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _damaged(path, f"{where} has no sensible shape")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:  # noqa: PLR2004  # begin and end
        raise _damaged(path, f"{where} has no sensible place")
    size = tensor_bytes(dtype, shape)
    if offsets[1] - offsets[0] != size:
        raise _damaged(path, f"{where} of {dtype} {list(shape)} takes {size} bytes, not {offsets[1] - offsets[0]}")
    return HeaderEntry(dtype, tuple(shape), offsets[0], offsets[1])


def _are_counts(found: object) -> bool:
    return isinstance(found, list) and all(type(number) is int and number >= 0 for number in found)


def _check_places(path: Path, ordered: Mapping[str, HeaderEntry], data_bytes: int) -> None:
    """Every byte of the data belongs to exactly one tensor."""
    reached = 0
    for name, entry in ordered.items():
        if entry.begin != reached:
            what = "overlaps the one before it" if entry.begin < reached else "leaves a gap before it"
            raise _damaged(path, f'tensor "{shorten(name)}" {what}')
        reached = entry.end
    if reached > data_bytes:
        message = f"{path}: cut off: {data_bytes} of {reached} bytes of data are there"
        raise ModelError(message, hint="fetch it again: the download did not come to its end")
    if reached < data_bytes:
        raise _damaged(path, f"{data_bytes - reached} bytes too many stand after its data")


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"{path}: {what}", hint="fetch or make it again: it is damaged, or not what its name says")


# ---- writing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of a file that is to be written."""

    name: str
    dtype: str
    shape: Shape


def encode_header(tensors: Sequence[PlannedTensor], metadata: Mapping[str, str]) -> bytes:
    """The length and the header of a file with these tensors, one after the other, padded to `DATA_ALIGNMENT`."""
    document: dict[str, object] = {"__metadata__": dict(metadata)}
    begin = 0
    for tensor in tensors:
        end = begin + tensor_bytes(tensor.dtype, tensor.shape)
        document[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % DATA_ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def write_file(
    path: Path, tensors: Sequence[PlannedTensor], metadata: Mapping[str, str], data: Iterable[memoryview]
) -> WrittenFile:
    """Write a safetensors file: the header, then `data`, which is all tensors' bytes in their order, piece by piece.

    Each piece is hashed and written before the next is asked for; at the end the file is on the disk. Raises
    `DiskError`, and removes what it wrote; what `data` raises goes through, and the half-written file is removed too.
    """
    header = encode_header(tensors, metadata)
    digest = hashlib.sha256()
    written = 0
    try:
        with _created(path) as descriptor:
            for piece in _all(header, data):
                digest.update(piece)
                _write_all(descriptor, piece)
                written += len(piece)
            os.fsync(descriptor)
    except OSError as error:
        _remove(path)
        raise disk_error(path, error) from error
    except BaseException:
        _remove(path)
        raise
    expected = len(header) + sum(tensor_bytes(tensor.dtype, tensor.shape) for tensor in tensors)
    assert written == expected, f"{path}: {written} bytes written, {expected} planned"
    return WrittenFile(written, digest.hexdigest(), hashlib.sha256(header).hexdigest())


def disk_error(path: Path, error: OSError) -> DiskError:
    """Why a file of a model could not be written."""
    hints = {
        errno.ENOSPC: "the disk is full: free some space and run the same command again, it goes on where it was",
        errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
        errno.EFBIG: "the file-size limit of this shell (ulimit -f) or of this file system is too small for a model",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "this user may not write there",
    }
    return files.disk_error(path, error, hints=hints)


@contextmanager
def _created(path: Path) -> Iterator[int]:
    """A new file's descriptor; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _all(header: bytes, data: Iterable[memoryview]) -> Iterator[memoryview]:
    yield memoryview(header)
    yield from data


def _write_all(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece) :]


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
