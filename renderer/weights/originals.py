"""The files a store is made of: hashed beside the packing, so that its index says what it was made of, and discarded.

Packing reads tensors in the store's order and not all of them, so this reads for itself: what has just been fetched was
hashed then and is remembered, all else comes from the page cache. Imports no torch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from renderer.catalog import Role
from renderer.errors import DiskError, UsageError
from renderer.weights.adapters.fusing import ToFuse
from renderer.weights.hashes import file_hashes
from renderer.weights.index import SourceFile
from renderer.weights.vouched import damaged


class Hashing:
    """In a thread of its own while this context lasts; whoever leaves before the end stops it."""

    def __init__(self, source: Mapping[Role, Sequence[Path]]) -> None:
        self._names = {path: f"{network}/{path.name}" for network, paths in source.items() for path in paths}
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._going: Future[list[str]] | None = None

    def __enter__(self) -> Self:
        self._going = self._pool.submit(file_hashes, list(self._names), self._go_on)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._pool.shutdown()

    def sources(self, said: Mapping[Path, str]) -> tuple[SourceFile, ...]:
        """The files with their hashes. Raises `ModelError`, which names the first that is not what was `said` of it."""
        assert self._going is not None
        found = dict(zip(self._names, self._going.result(), strict=True))
        for path, actual in found.items():
            check(path, actual, said)
        return tuple(
            SourceFile(name=name, bytes=path.stat().st_size, sha256=found[path]) for path, name in self._names.items()
        )

    def _go_on(self, _done: int, _total: int) -> None:
        if self._stopped.is_set():
            raise _StoppedError


def sources_of_fused(fused: ToFuse, said: Mapping[Path, str]) -> tuple[SourceFile, ...]:
    """The LoRAs that went into a store, with their hashes, when all has been read of them.

    Raises `ModelError`, which names the first that is not what it was when it was found, or not what was `said` of it.
    """
    hashes = file_hashes([each.path for each in fused])
    for each, actual in zip(fused, hashes, strict=True):
        each.check()
        check(each.path, actual, said)
    return tuple(
        SourceFile(name=f"lora/{each.path.name}", bytes=each.path.stat().st_size, sha256=actual)
        for each, actual in zip(fused, hashes, strict=True)
    )


class _StoppedError(Exception):
    """Nobody waits for the hashes any more."""


def discard_source(files: Iterable[Path], folder: Path) -> int:
    """Delete a source's files, for whom the verified store is enough, and return the bytes that were freed.

    Nothing outside `folder` is ever deleted: raises `UsageError`, before anything is, when a file or what its link
    leads to lies elsewhere. Call it after `Store.verify`.
    """
    root = folder.resolve()
    doomed: dict[Path, None] = {}
    for file in files:
        link, real = file.parent.resolve() / file.name, file.resolve()
        for path in (link, real):
            if not path.is_relative_to(root):
                raise UsageError(f"{file} lies outside {folder}, and is not deleted")
            doomed[path] = None
    freed = sum(path.stat().st_size for path in doomed if path.is_file() and not path.is_symlink())
    try:
        for path in doomed:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(f"cannot delete {path}: {error.strerror or error}") from error
    return freed


def check(path: Path, actual: str, said: Mapping[Path, str]) -> None:
    """Raise `ModelError` where something else was said of a file."""
    if actual != said.get(path, actual):
        raise damaged(path, actual, said[path])
