"""A packed store on disk: what is in it, whether it is whole, and its files read straight into a buffer.

`open_store` compares every file's size and header with the index, which takes milliseconds; data is held against its
checksum the first time it is read; `verify` reads every byte.
Knows nothing of pipelines, slots or GPUs.
"""

from __future__ import annotations

import errno
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from renderer import families
from renderer.catalog import Role
from renderer.errors import ModelError
from renderer.families import Family
from renderer.job import Stored
from renderer.system.files import sha256_of
from renderer.weights import codecs, crc32s
from renderer.weights.dtypes import TORCH_DTYPES
from renderer.weights.headers import DATA_ALIGNMENT, ITEM_BITS, Header, read_header
from renderer.weights.index import INDEX, PROCESSOR_FOLDER, STORE_HINT, TOKENIZER_FOLDER, Index, StoredFile, read_index
from renderer.weights.layout import ALIGNMENT

FileReport = Callable[[int, int, str], None]
"""Hears of progress: bytes done, bytes of all, the file at hand. May be called from any thread, one at a time."""

_CHECK_BYTES = 2**24  # what is read at once to be checked and no more
_READ_BYTES = 2**30  # Linux reads no more than 2 GiB at once
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor of a file: `dtype` is safetensors' name; `offset` is from the beginning of the data, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int

    @property
    def torch_dtype(self) -> torch.dtype:
        return TORCH_DTYPES[self.dtype]


@dataclass(frozen=True, slots=True)
class BlockFile:
    """One file of a store: `bytes` of data, which begin at `data_offset` in the file, and the tensors in them.

    What is read of it is held against the index the first time: `sound` are the files of the store that have been. So
    every reading call raises `ModelError`, which names the file, also when its data is damaged.
    """

    path: Path
    network: Role
    kind: str
    number: int | None
    bytes: int
    data_offset: int
    tensors: tuple[TensorPlace, ...]
    entry: StoredFile
    sound: set[Path]

    @property
    def checksum(self) -> str:
        """The SHA-256 of the whole file, as the index has it."""
        return self.entry.sha256

    def read_into(self, buffer: memoryview | torch.Tensor, *, direct: bool = False) -> None:
        """Read the whole data into the first `bytes` of a buffer (a uint8 tensor of the CPU, or writable memory).

        Other threads run meanwhile, and several may call it at once. With `direct` the data goes past the page cache,
        which is for machines whose memory is short: straight from the disk where buffer and file system allow it (the
        buffer begins at a multiple of 4096), else its pages are given back after it was read.

        Raises `ModelError` when the file has less.
        """
        memory = buffer if isinstance(buffer, memoryview) else memoryview(buffer.numpy())
        memory = memory.cast("B")[: self.bytes]
        assert len(memory) == self.bytes, f"a buffer of {len(memory)} bytes for {self.bytes} of {self.path}"
        try:
            check = _Check(self) if self.path not in self.sound else None
            done = self._read_direct(memory) if direct else 0
            with _opened(self.path) as descriptor:
                if check is None:
                    self.fill(descriptor, memory[done:], done)
                else:
                    check.fill(descriptor, memory, done)
                if direct:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if check is not None:
                check.end()
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be read: {error.strerror or error}", hint=STORE_HINT) from error

    def check(self) -> None:
        """Read the whole data for nothing but to know that it is right. Raises `ModelError`."""
        if self.path not in self.sound:
            for _piece in self.pieces(memoryview(bytearray(min(self.bytes, _CHECK_BYTES)))):
                pass

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """The whole data in order, as much at a time as the buffer holds; each piece lies there until the next.

        Raises `ModelError` when the file has less; that its data is damaged, after the last piece.
        """
        try:
            check = _Check(self) if self.path not in self.sound else None
            with _opened(self.path) as descriptor:
                for begin in range(0, self.bytes, len(buffer)):
                    piece = buffer[: min(len(buffer), self.bytes - begin)]
                    self.fill(descriptor, piece, begin)
                    if check is not None:
                        check.add(piece)
                    yield piece
            if check is not None:
                check.end()
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be read: {error.strerror or error}", hint=STORE_HINT) from error

    def tensors_of(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Some of the tensors, in host memory, each with memory of its own. Raises `ModelError`."""
        self.check()
        found = {}
        try:
            with _opened(self.path) as descriptor:
                for place in self.tensors:
                    if place.name not in names:
                        continue
                    flat = torch.empty(place.bytes, dtype=torch.uint8)
                    self.fill(descriptor, memoryview(flat.numpy()), place.offset)
                    found[place.name] = flat.view(place.torch_dtype).view(place.shape)
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be read: {error.strerror or error}", hint=STORE_HINT) from error
        return found

    def fill(self, descriptor: int, memory: memoryview, begin: int) -> None:
        """Read the open file's data from `begin` on into all of `memory`. Raises `ModelError`, `OSError`."""
        if not _fill(descriptor, memory, self.data_offset + begin):
            raise ModelError(f"{self.path}: ends too early", hint=STORE_HINT)

    def _read_direct(self, memory: memoryview) -> int:
        """Read whole pages past the page cache; how many bytes that were, or 0 where it does not work."""
        size = self.bytes // DATA_ALIGNMENT * DATA_ALIGNMENT
        try:
            with _opened(self.path, os.O_DIRECT) as descriptor:
                return size if _fill(descriptor, memory[:size], self.data_offset) else 0
        except OSError as error:
            if error.errno != errno.EINVAL:  # an unaligned buffer, or a file system without
                raise
            return 0


class _Check:
    """A checksum over a file's data, as it passes: the index's CRC-32, or the SHA-256 of a store that has none."""

    def __init__(self, file: BlockFile) -> None:
        """Raises `OSError`."""
        self._file = file
        self._crc32 = 0
        self._sha256 = None
        if file.entry.crc32 is None:
            with file.path.open("rb") as stream:
                self._sha256 = hashlib.sha256(stream.read(file.data_offset))

    def add(self, piece: memoryview) -> None:
        if self._sha256 is None:
            self._crc32 = zlib.crc32(piece, self._crc32)
        else:
            self._sha256.update(piece)

    def fill(self, descriptor: int, memory: memoryview, done: int) -> None:
        """Read all of the data and sum it up, of which the first `done` bytes lie there: several parts at once."""
        if self._sha256 is not None:
            self._file.fill(descriptor, memory[done:], done)
            self._sha256.update(memory)
            return

        def part(begin: int, end: int) -> int:
            if end > done:
                self._file.fill(descriptor, memory[max(begin, done) : end], max(begin, done))
            return zlib.crc32(memory[begin:end], 0)

        self._crc32 = crc32s.of_parts(len(memory), part)

    def end(self) -> None:
        """Raise `ModelError` unless all that was added is what the index says."""
        entry = self._file.entry
        is_right = self._crc32 == entry.crc32 if self._sha256 is None else self._sha256.hexdigest() == entry.sha256
        if not is_right:
            raise ModelError(f"{self._file.path}: damaged, its data is not what {INDEX} says", hint=STORE_HINT)
        self._file.sound.add(self._file.path)


@dataclass(frozen=True, slots=True)
class Store:
    """An open store. Its files were there, with the right sizes and headers, when it was opened."""

    folder: Path
    index: Index
    files: tuple[BlockFile, ...]

    @property
    def family(self) -> Family:
        return families.find(self.index.family)

    @property
    def precision(self) -> Stored:
        return self.index.precision

    @property
    def formats(self) -> Mapping[Role, str]:
        """The forms that networks' files were in which it was made of, where that is not the hub's own."""
        return self.index.formats

    @property
    def tokenizer(self) -> Path:
        return self.folder / TOKENIZER_FOLDER

    @property
    def processor(self) -> Path | None:
        """The folder of what prepares pictures for the vision tower; None in a model that edits none."""
        return (
            self.folder / PROCESSOR_FOLDER
            if any(file.name.startswith(PROCESSOR_FOLDER) for file in self.index.copies)
            else None
        )

    def blocks(self, network: Role) -> tuple[BlockFile, ...]:
        """A network's layers in order; all have the same tensors at the same places."""
        return self.all(network, "block")

    def section(self, name: str) -> tuple[BlockFile, ...]:
        """What of a section's blocks moves in a sweep, in order; all have the same tensors at the same places."""
        network, section = self.family.section(name)
        return self.all(network.role, section.streamed.kind)

    def modulations(self) -> tuple[BlockFile, ...]:
        """What the DiT's blocks have besides: `img_mod` and `txt_mod`, one file a block."""
        return self.all("transformer", "modulation")

    def modulation(self, number: int) -> BlockFile:
        return self.modulations()[number]

    def outside(self, network: Role) -> BlockFile:
        """What stands before and after a network's blocks, by the hub's names."""
        return self.all(network, "outside")[0]

    def vision(self) -> BlockFile:
        return self.all("text_encoder", "vision")[0]

    def vae(self) -> BlockFile:
        return self.all("vae", "whole")[0]

    def verify(self, report: FileReport | None = None) -> None:
        """Read every byte. Raises `ModelError`, which names each file that is not what the index says."""
        verify(self.folder, self.index, report)

    def all(self, network: Role, kind: str) -> tuple[BlockFile, ...]:
        return tuple(file for file in self.files if file.network == network and file.kind == kind)


def open_store(folder: Path) -> Store:
    """The store in `folder`. Raises `ModelError`, naming the file, when it is not whole.

    Reads headers, and of data only the tokenizer's and the processor's.
    """
    index = read_index(folder)
    files = []
    sound: set[Path] = set()
    for entry in index.files:
        path = folder / entry.name
        header = read_header(path)
        if (header.file_bytes, header.sha256) != (entry.bytes, entry.header_sha256):
            raise ModelError(f"{path}: not the file that {INDEX} describes", hint=STORE_HINT)
        files.append(_block_file(path, entry, header, sound))
    for copied in index.copies:
        path = folder / copied.name
        if not path.is_file() or path.stat().st_size != copied.bytes:
            raise ModelError(f"{path}: missing, or not of {copied.bytes} bytes", hint=STORE_HINT)
        if sha256_or_nothing(path) != copied.sha256:  # a few megabytes, of which no header tells anything
            raise ModelError(f"{path}: damaged, its SHA-256 is not what {INDEX} says", hint=STORE_HINT)
    store = Store(folder, index, tuple(sorted(files, key=lambda file: (file.network, file.kind, file.number or 0))))
    _check_whole(store)
    return store


def verify(folder: Path, index: Index, report: FileReport | None = None) -> None:
    """Hash every file of a store, several at once. Raises `ModelError`, which names each one that is wrong."""
    files = [(folder / file.name, file.bytes, file.sha256) for file in index.files]
    files += [(folder / file.name, file.bytes, file.sha256) for file in index.copies]
    wrong = []
    done = 0
    with ThreadPoolExecutor() as pool:
        found = pool.map(sha256_or_nothing, [path for path, _, _ in files])
        for (path, size, expected), actual in zip(files, found, strict=True):
            done += size
            if report is not None:
                report(done, index.bytes, path.name)
            if actual != expected:
                wrong.append(path)
    if wrong:
        named = "\n".join(f"{path}: damaged, its SHA-256 is not what {INDEX} says" for path in wrong[:_SHOWN])
        more = f"\nand {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ModelError(named + more, hint=STORE_HINT)


def views(flat: torch.Tensor, places: Iterable[TensorPlace]) -> dict[str, torch.Tensor]:
    """A file's tensors in a flat uint8 tensor that holds its data: by name, typed, in their shapes, without a copy."""
    return {
        place.name: flat[place.offset : place.offset + place.bytes].view(place.torch_dtype).view(place.shape)
        for place in places
    }


def load(file: BlockFile, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """A file's tensors on a device, each beginning at a multiple of 16 bytes. Raises `ModelError`."""
    flat = torch.empty(file.bytes, dtype=torch.uint8)
    file.read_into(flat)
    found = views(flat.to(device), file.tensors)
    unaligned = [place.name for place in file.tensors if place.offset % ALIGNMENT]
    return found | {name: found[name].clone() for name in unaligned}


def _block_file(path: Path, entry: StoredFile, header: Header, sound: set[Path]) -> BlockFile:
    places = []
    for name, found in header.tensors.items():
        if found.dtype not in codecs.types() or 8 * found.begin % ITEM_BITS[found.dtype]:
            raise ModelError(f'{path}: tensor "{name}" is no part of a packed store', hint=STORE_HINT)
        places.append(TensorPlace(name, found.dtype, found.shape, found.begin, found.end - found.begin))
    data_bytes = header.file_bytes - header.data_offset
    where = data_bytes, header.data_offset, tuple(places)
    return BlockFile(path, entry.network, entry.kind, entry.number, *where, entry, sound)


def _check_whole(store: Store) -> None:
    """Each kind of file is there, blocks are numbered without a gap, and all of a kind have the same layout."""
    known = 0
    complete = True
    for network in store.family.networks:
        for outside in network.outside:
            found = store.all(network.role, outside.kind)
            may_lack = outside.optional and store.processor is None  # only edits look at pictures
            complete &= len(found) == 1 or (not found and bool(may_lack))
            known += len(found)
        for section in network.sections:
            parts = [store.all(network.role, part.kind) for part in section.parts]
            complete &= len({len(part) for part in parts}) == 1
            for files in parts:
                complete &= [file.number for file in files] == list(range(len(files))) != []
                known += len(files)
                for file in files:
                    if file.tensors != files[0].tensors:
                        raise ModelError(f"{file.path}: its layout is not that of block 0", hint=STORE_HINT)
    if not complete or known != len(store.files):
        raise ModelError(f"{store.folder / INDEX}: does not list all parts of a model", hint=STORE_HINT)


@contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _fill(descriptor: int, memory: memoryview, offset: int) -> bool:
    """Read into all of `memory`; False when the file ends before. Raises `OSError`."""
    done = 0
    while done < len(memory):
        count = os.preadv(descriptor, [memory[done : done + _READ_BYTES]], offset + done)
        if count == 0:
            return False
        done += count
    return True


def sha256_or_nothing(path: Path) -> str:
    """A file's SHA-256; an empty text when it cannot be read, which no file has."""
    try:
        return sha256_of(path)
    except OSError:
        return ""
