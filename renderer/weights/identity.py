"""Which weights are these? A catalogue model is its id and revision; a local folder is the SHA-256 of what it holds.

Hashing 58 GB takes a minute, so each file's hash is remembered with its size and time of change. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from renderer import artifacts, machine
from renderer.catalog import PARTS, TOKENIZER, Model
from renderer.errors import DiskError
from renderer.job import ModelIdentity


def identify(model: Model) -> ModelIdentity:
    """The identity that enters a picture's fingerprint."""
    if model.folder is None:
        return ModelIdentity(id=model.id, revision=model.revision)
    return ModelIdentity(id=model.folder.name, content_sha256=content_sha256(model.folder))


def content_sha256(folder: Path) -> str:
    """SHA-256 over the names and bytes of the files of a model folder that can change a picture."""
    files = sorted({path for part in PARTS for path in folder.glob(part.files)})
    files += sorted(path for path in (folder / TOKENIZER).rglob("*") if path.is_file())
    remembered = _Remembered()
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        hashes = pool.map(remembered.sha256, files)
        lines = [f"{path.relative_to(folder).as_posix()} {found}\n" for path, found in zip(files, hashes, strict=True)]
    remembered.keep()
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class _Remembered:
    """Hashes of files that have not changed since they were last read."""

    def __init__(self) -> None:
        self._path = machine.cache_folder() / "file-hashes.json"
        self._fresh = False
        self._hashes: dict[str, list[str | int]] = {}
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return
        if isinstance(found, dict):
            self._hashes = found

    def sha256(self, path: Path) -> str:
        stat = path.stat()
        key = str(path.resolve())
        match self._hashes.get(key):
            case [int(size), int(changed), str(known)] if (size, changed) == (stat.st_size, stat.st_mtime_ns):
                return known
        self._hashes[key] = [stat.st_size, stat.st_mtime_ns, artifacts.sha256_of(path)]
        self._fresh = True
        return str(self._hashes[key][2])

    def keep(self) -> None:
        """Write them down; where the cache cannot be written, the next run reads the files again."""
        if self._fresh:
            try:
                artifacts.write_whole(self._path, json.dumps(self._hashes).encode())
            except DiskError:
                return
