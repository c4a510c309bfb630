"""A folder into which manifests are put, to be rendered as they come: which are new, and written to their end.

A file is taken when it has not changed for a moment, and once more when it has changed since. The moment is measured
here, whatever clock has dated the file. Nothing is moved, and nothing is written down: what is done, the folders of
outputs know. Reads no manifest.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SUFFIXES = (".yaml", ".yml", ".json")
_STILL_S = 1.0
"""A file that has been seen for so long and has not changed has been written to its end."""

_AGAIN_S = 10.0
"""What could not be begun for a reason that may go by is tried again after so long."""

_Stamp = tuple[int, ...]
_NOT_THERE: _Stamp = (0, 0, 0)


@dataclass(slots=True)
class _File:
    """One file: as it was seen last, since when, and whether it was taken so."""

    stamp: _Stamp
    since_s: float
    is_taken: bool = False
    again_s: float | None = None


class WatchedFolder:
    """One folder. For one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, _File] = {}
        self._others: dict[str, tuple[Path, ...]] = {}
        self.trouble = ""
        """Why it could not be looked into the last time, if so."""

    def there(self) -> list[Path]:
        """The manifests that lie there now, written to their end or not, by their names."""
        return [self.path / name for name in sorted(self._seen() or ())]

    def stands_on(self, path: Path, others: Iterable[Path]) -> None:
        """A file that was taken is made of other files too: it is taken once more when one of these changes."""
        if (file := self._files.get(path.name)) is not None:
            own = file.stamp[: len(_NOT_THERE)]
            self._others[path.name] = tuple(others)
            file.stamp = (*own, *self._of_others(path.name))

    def look(self, now_s: float | None = None) -> list[Path]:
        """The files to be taken now, by their names. A folder that cannot be looked into has none."""
        now_s = time.monotonic() if now_s is None else now_s
        if (seen := self._seen()) is None:
            return []  # what was taken stays known: the folder may come back as it was
        self._files = {name: each for name, each in self._files.items() if name in seen}
        return [self.path / name for name in sorted(seen) if self._is_due(name, seen[name], now_s)]

    def try_again(self, path: Path, now_s: float | None = None) -> None:
        """A file that was taken could not be begun, and may be later."""
        if (file := self._files.get(path.name)) is not None:
            file.again_s = (time.monotonic() if now_s is None else now_s) + _AGAIN_S

    def _is_due(self, name: str, stamp: _Stamp, now_s: float) -> bool:
        file = self._files.get(name)
        if file is None or file.stamp != stamp:
            file = self._files[name] = _File(stamp, now_s)
        again = file.again_s is not None and now_s >= file.again_s
        due = again if file.is_taken else now_s - file.since_s >= _STILL_S
        if due:
            file.is_taken, file.again_s = True, None
        return due

    def _seen(self) -> dict[str, _Stamp] | None:
        """The manifests that lie there, each with what tells it from another.

        None where the folder cannot be looked into. A file that cannot be looked at is in no other's way.
        """
        found: dict[str, _Stamp] = {}
        try:
            with os.scandir(self.path) as entries:
                those = [entry for entry in entries if entry.name.lower().endswith(_SUFFIXES)]
        except OSError as error:
            self.trouble = f"{self.path} cannot be looked into: {error.strerror}"
            return None
        self.trouble = ""
        for entry in those:
            with contextlib.suppress(OSError):  # it went meanwhile, or is a link that leads back to itself
                if not entry.name.startswith(".") and entry.is_file():
                    found[entry.name] = (*_stamp(entry.stat()), *self._of_others(entry.name))
        return found

    def _of_others(self, name: str) -> _Stamp:
        """What tells what a file is made of, besides itself, from what it was made of before."""
        stamps: list[int] = []
        for path in self._others.get(name, ()):
            try:
                stamps += _stamp(path.stat())
            except OSError:
                stamps += _NOT_THERE
        return tuple(stamps)


def _stamp(there: os.stat_result) -> _Stamp:
    return there.st_ino, there.st_size, there.st_mtime_ns
