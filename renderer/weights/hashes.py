"""SHA-256 of files and of the tensors in them, remembered for as long as a file does not change.

58 GB take a minute to read, so what has been hashed is kept in the cache folder with all that the system says of the
file: size, time of change, and its inode with the time *that* changed, which no copying tool can set. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from renderer.errors import DiskError, ModelError
from renderer.system import folders
from renderer.system.files import write_whole
from renderer.weights import readers
from renderer.weights.headers import read_header

Tell = Callable[[int, int], None]
"""Hears, a few times a second, how many bytes of how many have been read; what it raises ends the reading."""

Hashes = Mapping[str, str]
"""Hashes, 64 hex digits, by the name of what they are of."""

_TICK_S = 0.25
_AT_A_TIME = 2**24
_WHOLE, _DATA = "", "\0data"
"""Under these names a file's own hash is kept, and that of its data, beside those of its tensors: none is called so."""


def file_hashes(files: Sequence[Path], tell: Tell | None = None) -> list[str]:
    """The SHA-256 of each file; one that has not changed since it was last read is not read again.

    Raises `OSError` for a file that cannot be read, and what `tell` raises; what was read until then is remembered.
    """
    return [found[_WHOLE] for found in _hashes(files, _whole, tell)]


def tensor_hashes(files: Sequence[Path], tell: Tell | None = None) -> list[Hashes]:
    """Of each file of tensors, the SHA-256 of every tensor's type, shape and bytes, by its name in the file.

    What its metadata says of how they are meant has a hash as well, by the name of that.

    As `file_hashes`. Of a file whose header cannot be read, its own hash, under an empty name.
    """
    found = _hashes(files, _tensors, tell)
    return [{name: value for name, value in each.items() if name not in (_WHOLE, _DATA)} or each for each in found]


def data_hashes(files: Sequence[Path], tell: Tell | None = None) -> list[str]:
    """Of each safetensors file, the SHA-256 of all behind its header. As `file_hashes`; raises `ModelError` too."""
    return [found[_DATA] for found in _hashes(files, _data, tell)]


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file that has a hash of its own, over `head` and its bytes."""

    name: str
    path: Path
    offset: int
    bytes: int
    head: str = ""


def _whole(path: Path) -> Iterable[Piece]:
    return [Piece(_WHOLE, path, 0, path.stat().st_size)]


def _tensors(path: Path) -> Iterable[Piece]:
    try:
        found = readers.read(path)
    except ModelError:
        yield from _whole(path)
        return
    for name, place in found.tensors.items():
        yield Piece(name, path, place.offset, place.bytes, f"{place.dtype} {list(place.shape)}\n")
    for key in readers.MEANT_BY & found.metadata.keys():
        yield Piece(key, path, 0, 0, found.metadata[key])


def _data(path: Path) -> Iterable[Piece]:
    header = read_header(path)
    return [Piece(_DATA, path, header.data_offset, header.file_bytes - header.data_offset)]


@dataclass(slots=True)
class _Reading:
    """How far several threads have read, and that they are to leave it."""

    bytes: int = 0
    ended: bool = False

    def heard(self, count: int) -> None:
        if self.ended:
            raise CancelledError
        self.bytes += count


def sha256_of(piece: Piece, heard: Callable[[int], None]) -> str:
    """The SHA-256 of a piece. `heard` is told of bytes as they come; what it raises ends it. Raises `OSError`."""
    digest = hashlib.sha256(piece.head.encode())
    left, offset = piece.bytes, piece.offset
    descriptor = os.open(piece.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while left and (data := os.pread(descriptor, min(left, _AT_A_TIME), offset)):
            digest.update(data)
            heard(len(data))
            left, offset = left - len(data), offset + len(data)
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def _hashes(files: Sequence[Path], pieces: Callable[[Path], Iterable[Piece]], tell: Tell | None) -> list[Hashes]:
    remembered, reading = _Remembered(), _Reading()
    fresh: dict[Path, tuple[list[int], dict[str, Future[str]]]] = {}
    total = sum(path.stat().st_size for path in files)
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        try:
            known: dict[Path, Hashes] = {}
            for path in files:
                there = _stand(path)
                parts = list(pieces(path))
                found = remembered.of(path, there)
                if all(part.name in found for part in parts):
                    known[path] = found
                else:
                    fresh[path] = there, {part.name: pool.submit(sha256_of, part, reading.heard) for part in parts}
            going = [future for _, futures in fresh.values() for future in futures.values()]
            while tell is not None and wait(going, _TICK_S).not_done:
                tell(reading.bytes, total)
            made = {path: _results(futures) for path, (_, futures) in fresh.items()}
            return [known[path] if path in known else made[path] for path in files]
        finally:
            reading.ended = True
            pool.shutdown(cancel_futures=True)
            remembered.keep(fresh)


def _results(futures: Mapping[str, Future[str]]) -> Hashes:
    return {name: each.result() for name, each in futures.items()}


# ---- remembering -----------------------------------------------------------------------------------------------------


def _stand(path: Path) -> list[int]:
    """All that changes when a file does: a copy keeps size and time of change, and has another inode.

    What is written over in place and dated back has another time of its inode.
    """
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


class _Remembered:
    """Hashes of files that have not changed since they were last read."""

    def __init__(self) -> None:
        self._path = folders.cache_folder() / "file-hashes.json"
        self._known = self._read()

    def of(self, path: Path, stand: list[int]) -> Hashes:
        """What is known of a file as it stands; empty where it has changed."""
        match self._known.get(str(path.resolve())):
            case {"stand": list(before), "hashes": dict(hashes)} if before == stand:
                return hashes
        return {}

    def keep(self, fresh: Mapping[Path, tuple[list[int], Mapping[str, Future[str]]]]) -> None:
        """Write down what was hashed to its end, beside what others have meanwhile.

        A file that changed while it was read is not remembered. Where the cache cannot be written, the next run reads
        the files again.
        """
        made: dict[str, object] = {}
        for path, (stand, futures) in fresh.items():
            hashes = {name: each.result() for name, each in futures.items() if _ended_well(each)}
            try:
                if len(hashes) == len(futures) and _stand(path) == stand:
                    both: Hashes = {**self.of(path, stand), **hashes}
                    made[str(path.resolve())] = {"stand": stand, "hashes": both}
            except OSError:
                continue
        if made:
            try:
                write_whole(self._path, json.dumps(self._read() | made).encode())
            except DiskError:
                return

    def _read(self) -> dict[str, object]:
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _ended_well(future: Future[str]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
