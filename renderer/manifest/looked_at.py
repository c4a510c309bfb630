"""Files that go in, each looked at once, and what was seen of them remembered for as long as they do not change.

A picture is known by its pixels, so it has to be decoded: 0.4 s for a photo of 24 megapixels, in every command that
reads the manifest. Several are looked at side by side, and whoever waits hears how many. What is remembered lies in the
cache folder, a file for each folder of pictures, with all that the system says of each of them. It decides nothing: a
picture that is not as it was fails by its bytes when it goes to a worker. What has gone is what the output folder has
on record. Knows no jobs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renderer.errors import DiskError, PictureError
from renderer.job import Input, InputFile
from renderer.system import folders
from renderer.system.files import write_whole

if TYPE_CHECKING:
    from renderer.outputs.input_files import Purpose
    from renderer.outputs.taken_in import InputRecord, TakenIn

Found = tuple[Input, InputFile]

HeardLooks = Callable[[int, int], None]
"""Hears how many of how many files have been looked at."""


def unheard(done: int, total: int) -> None:
    """Nobody waits to hear it."""


SETTLED_NS = 2 * 10**9
"""A file that has changed since may change again within what its times tell apart: it is looked at again."""

WORTH_S = 1.0
"""Of looking, together: a manifest of one picture, of which there may be thousands, writes nothing down."""

_READING = 1
"""Goes up when the same file is read as other pixels."""

_MOST_FOLDERS = 200

_MOST_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file that a manifest names: where it is, and what it goes in for.

    `called` is what messages call it, `at` how it is written, from the manifest's folder.
    """

    path: Path
    purpose: Purpose
    called: str
    at: str

    @property
    def key(self) -> tuple[Path, Purpose]:
        """What it is looked at as, once."""
        return self.path, self.purpose


class LookedAt:
    """What was seen of files; what is not well is an error that is kept as well, but not remembered."""

    def __init__(
        self, record: InputRecord | None = None, heard: HeardLooks = unheard, *, remembers: bool = True
    ) -> None:
        """Where nothing is remembered, each is looked at once all the same; `record` knows those that have gone."""
        self._heard = heard
        self._remembers = remembers
        self._record = record
        self._found: dict[tuple[Path, Purpose], Found | PictureError] = {}
        self._named: dict[tuple[Purpose, str], tuple[Path, Purpose]] = {}
        self._memories: dict[Path, _Memory] = {}
        self._took_s = 0.0

    def look(self, wanted: WantedFile) -> Found | PictureError:
        """What a job has of a file."""
        self._named[wanted.purpose, wanted.at] = wanted.key
        if not self._is_known(wanted):
            with self._timed():
                self._found[wanted.key] = self._seen(wanted)
        return self._found[wanted.key]

    def look_at_all(self, wanted: Iterable[WantedFile]) -> None:
        """Look at files side by side, so that each is known when it is asked for."""
        each_once = {each.key: each for each in wanted}.values()
        left = [each for each in each_once if not self._is_known(each)]
        if len(left) <= 1:
            return
        from concurrent.futures import ThreadPoolExecutor, as_completed  # noqa: PLC0415  # most manifests have none

        pool = ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_AT_ONCE), "looking")
        try:
            with self._timed():
                keys = {pool.submit(self._seen, each): each.key for each in left}
                for done, look in enumerate(as_completed(keys), start=1):
                    self._found[keys[look]] = look.result()
                    self._heard(done, len(left))
        finally:
            pool.shutdown(cancel_futures=True)

    def remember(self) -> None:
        """Write down what was seen, if it took long. Where that cannot be, it takes as long the next time."""
        if self._took_s >= WORTH_S:
            for memory in self._memories.values():
                memory.keep()

    def taken_in(self, name: str, patterns: Mapping[str, tuple[str, ...]]) -> TakenIn:
        """What there is to write down of a manifest of this name, whose patterns fitted these files."""
        from renderer.outputs.taken_in import FileSeen, TakenIn, key_of  # noqa: PLC0415  # most manifests have none

        files = {}
        for (purpose, at), key in self._named.items():
            if not isinstance(found := self._found[key], PictureError):
                known, file = found
                files[key_of(purpose, at)] = FileSeen.of(
                    sha256=known.sha256, file_sha256=file.file_sha256, width=known.width, height=known.height
                )
        return TakenIn(name=name, files=files, patterns=patterns)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._took_s += time.monotonic() - began

    def _is_known(self, wanted: WantedFile) -> bool:
        """Whether a file need not be decoded: it has been, or it is as it was then, or it is on record and has gone."""
        if wanted.key in self._found:
            return True
        path, stand = wanted.path, _stand(wanted.path)
        found = self._memory(path).of(path, wanted.purpose, stand) if self._remembers else None
        if not stand and self._record is not None:
            found = self._record.file(*wanted.key, wanted.at)
        if found is not None:
            self._found[wanted.key] = found
        return found is not None

    def _seen(self, wanted: WantedFile) -> Found | PictureError:
        """What is seen of a file. For several threads."""
        from renderer.outputs import input_files  # noqa: PLC0415  # most manifests have none

        path, purpose = wanted.path, wanted.purpose
        before = _stand(path)
        try:
            seen = input_files.identify(path, wanted.called, purpose)
        except PictureError as error:
            return error
        if self._remembers and before == _stand(path):
            self._memory(path).add(path, purpose, before, seen)
        return seen

    def _memory(self, path: Path) -> _Memory:
        folder = path.parent
        if folder not in self._memories:
            self._memories[folder] = _Memory(folder)
        return self._memories[folder]


class _Memory:
    """What is remembered of the files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        whole = hashlib.sha256(os.path.realpath(folder).encode(errors="surrogateescape")).hexdigest()
        self._path = folders.cache_folder() / "inputs" / f"{whole[:32]}.json"
        self._by = f"{version('pillow')} {_READING}"
        self._known = self._read()
        self._fresh: dict[str, Any] = {}

    def of(self, path: Path, purpose: Purpose, stand: list[int]) -> Found | None:
        """What was seen of a file that stands as it did then."""
        match self._known.get(f"{purpose} {path.name}"):
            case {"stand": before, "sha256": str(mark), "size": [int(width), int(height)], "file": str(file)} if (
                stand and before == stand
            ):
                return Input(sha256=mark, width=width, height=height), InputFile(
                    sha256=mark, path=str(path), file_sha256=file
                )
        return None

    def add(self, path: Path, purpose: Purpose, stand: list[int], seen: Found) -> None:
        """Remember what was seen of one, if it has stood like this for long enough."""
        if stand and time.time_ns() - max(stand[:2]) > SETTLED_NS:
            known, file = seen
            size = [known.width, known.height]
            told = {"stand": stand, "sha256": known.sha256, "size": size, "file": file.file_sha256}
            self._fresh[f"{purpose} {path.name}"] = told

    def keep(self) -> None:
        """Write down what is new, beside what was known of files that are there still."""
        if not self._fresh:
            return
        known = self._read().items()
        there = {key: told for key, told in known if _stand(self._folder / key.partition(" ")[2])}
        data = json.dumps({"by": self._by, "files": there | self._fresh}).encode()
        with contextlib.suppress(DiskError):
            write_whole(self._path, data, lasting=False)
            _trim(self._path.parent)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        match found:
            case {"by": by, "files": dict(files)} if by == self._by:
                return files
        return {}


def _stand(path: Path) -> list[int]:
    """All that changes when a file does, its times first; empty where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return []
    return [found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev]


def _trim(folder: Path) -> None:
    """Forget the folders that were written of longest ago."""
    with contextlib.suppress(OSError):
        paths = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in paths[:-_MOST_FOLDERS]:
            path.unlink(missing_ok=True)
