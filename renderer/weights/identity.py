"""Which weights are these? A catalogue model is its id and revision; other files are the SHA-256 of what they hold.

Hashing 58 GB takes a minute, so each file's hash is remembered with its size and time of change. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from renderer import folders
from renderer.catalog import PARTS, TOKENIZER, Model
from renderer.errors import DiskError
from renderer.files import sha256_of, write_whole
from renderer.job import ModelIdentity

Tell = Callable[[int, int], None]
"""Hears, a few times a second, how many bytes of how many have been read; what it raises ends the reading."""

_TICK_S = 0.25


def identify(model: Model, tell: Tell | None = None) -> ModelIdentity:
    """The identity that enters a picture's fingerprint. `tell` hears of files that have to be read for it."""
    if model.folder is not None:
        return ModelIdentity(id=model.folder.name, content_sha256=content_sha256(model.folder, tell))
    if model.files:
        name = "+".join(path.stem for path in model.files.values())
        return ModelIdentity(id=name, content_sha256=_files_sha256(model, tell))
    return ModelIdentity(id=model.id, revision=model.revision)


def content_sha256(folder: Path, tell: Tell | None = None) -> str:
    """SHA-256 over the names and bytes of the files of a model folder that can change a picture."""
    files = sorted({path for part in PARTS for path in folder.glob(part.files)})
    files += sorted(path for path in (folder / TOKENIZER).rglob("*") if path.is_file())
    hashes = file_hashes(files, tell)
    lines = [f"{path.relative_to(folder).as_posix()} {found}\n" for path, found in zip(files, hashes, strict=True)]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def file_hashes(files: Sequence[Path], tell: Tell | None = None) -> list[str]:
    """The SHA-256 of each file, 64 hex digits; one that has not changed since it was last read is not read again.

    Raises `OSError` for a file that cannot be read, and what `tell` raises; what was read until then is remembered.
    """
    remembered = _Remembered()
    reading = _Reading()
    total = sum(path.stat().st_size for path in files)
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        try:
            going = [pool.submit(remembered.sha256, path, reading.heard) for path in files]
            while tell is not None and wait(going, _TICK_S).not_done:
                tell(reading.bytes, total)
            return [each.result() for each in going]
        finally:
            reading.ended = True
            pool.shutdown(cancel_futures=True)
            remembered.keep()


@dataclass(slots=True)
class _Reading:
    """How far several threads have read, and that they are to leave it."""

    bytes: int = 0
    ended: bool = False

    def heard(self, count: int) -> None:
        if self.ended:
            raise CancelledError
        self.bytes += count


def _files_sha256(model: Model, tell: Tell | None) -> str:
    """SHA-256 over single files by the part they are, and over where the other parts come from."""
    roles, files = [], []
    for role, path in model.files.items():
        for file in _within(path):
            roles.append(f"{role}/{file.relative_to(path).as_posix()}" if path.is_dir() else role)
            files.append(file)
    lines = [f"{role} {found}\n" for role, found in zip(roles, file_hashes(files, tell), strict=True)]
    lines += [f"{part.role} {part.repository}@{part.revision}\n" for part in model.parts]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _within(path: Path) -> Iterable[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


class _Remembered:
    """Hashes of files that have not changed since they were last read."""

    def __init__(self) -> None:
        self._path = folders.cache_folder() / "file-hashes.json"
        self._fresh = False
        self._hashes: dict[str, list[str | int]] = {}
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return
        if isinstance(found, dict):
            self._hashes = found

    def sha256(self, path: Path, heard: Callable[[int], None]) -> str:
        stat = path.stat()
        key = str(path.resolve())
        match self._hashes.get(key):
            case [int(size), int(changed), str(known)] if (size, changed) == (stat.st_size, stat.st_mtime_ns):
                return known
        self._hashes[key] = [stat.st_size, stat.st_mtime_ns, sha256_of(path, heard)]
        self._fresh = True
        return str(self._hashes[key][2])

    def keep(self) -> None:
        """Write them down; where the cache cannot be written, the next run reads the files again."""
        if self._fresh:
            try:
                write_whole(self._path, json.dumps(self._hashes).encode())
            except DiskError:
                return
