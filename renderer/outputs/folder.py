"""One manifest's folder, `outputs/<name>`: what lies where in it, who holds it, and how it is written into.

All names that the program uses in it stand here, and nowhere else; no picture gets one of them (`naming`). Knows
nothing of what is in the files.
"""

from __future__ import annotations

import contextlib
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from renderer.job import Format
from renderer.system import files, lock
from renderer.system.files import WriteGuard, no_guard
from renderer.system.lock import Hold

PICTURE_SUFFIXES: dict[Format, str] = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
LAYER_SUFFIX = ".png"
"""Of layers, in whatever format the picture is kept: JPEG has no transparency."""

SIDECAR_SUFFIX = ".json"
MAX_SIDECAR_BYTES = 2**20
"""A larger file is none."""


class Own(StrEnum):
    """What the program itself keeps at the top of an output folder, besides pictures and sidecars.

    A new file of the program's is a new line here: that reserves its name.
    """

    SUMMARY = "summary.json"
    JOURNAL = "journal.jsonl"
    STATUS = "running.json"
    WORKER_LOG = "worker.log"
    PAGE = "index.html"
    ASSETS = "report"
    THUMBS = "thumbs"
    CONTACT_SHEET = "contact-sheet.png"
    LOCK = ".lock"
    ASIDE = ".aside"
    TAKES = ".takes"
    PICKS = "picks.json"
    PICKS_LOCK = ".picks.lock"
    OWNER = ".owner.json"
    CHOICES = ".choices.json"
    CHOICES_LOCK = ".choices.lock"
    INPUTS = "inputs"
    TAKEN_IN = ".inputs.json"
    QUEUE = "queue.jsonl"
    BATCHES = ".batches"

    @property
    def stem(self) -> str:
        """The name up to its first dot, which no picture may have; empty for one that is hidden."""
        return self.value.partition(".")[0]


def is_reserved(component: str, *, folder: bool) -> bool:
    """Whether the first part of an output name would be in the way of the program's own files.

    A picture must not have the stem of one, a folder neither that nor the whole name.
    """
    name = component.casefold()
    return name in _STEMS or (folder and (name in _WHOLE or _MORE_LOGS.fullmatch(name) is not None))


def is_file_name(component: str) -> bool:
    """Whether a folder of this name could stand where a picture's or a sidecar's file belongs: `a.png/b` beside `a`."""
    return component.casefold().endswith((*PICTURE_SUFFIXES.values(), SIDECAR_SUFFIX))


def is_layer_name(component: str) -> bool:
    """Whether a picture of this name would be another's layer: `a.layer-1` beside `a`."""
    return _LAYER.search(component) is not None


def without_layer(component: str) -> str:
    """The name of the picture that a layer of this name is of; any other name as it is."""
    return _LAYER.sub("", component)


_LAYER = re.compile(r"\.layer-[0-9]+$", re.IGNORECASE)
_STEMS = frozenset(own.stem for own in Own) - {""}
_WHOLE = frozenset(own.value for own in Own)
_MORE_LOGS = re.compile(r"worker-\d+\.log")


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """The folder of one manifest's pictures, `outputs/<name>`.

    Whatever is written into it is written by its methods, and each asks `guard` right before: a run that has lost the
    folder to another one writes nothing more, whatever it was at.
    """

    path: Path
    guard: WriteGuard = field(default=no_guard, compare=False, repr=False)

    # -- writing: each raises `DiskError`, and what the guard raises --

    def guarded(self, guard: WriteGuard) -> OutputFolder:
        """The same folder for a run that may lose it: `guard` raises `LeaseLostError` then."""
        return replace(self, guard=guard)

    def write(self, path: Path, data: bytes, *, lasting: bool = True) -> None:
        """Write a file in it, whole or not at all; see `files.write_whole`."""
        files.write_whole(path, data, lasting=lasting, guard=self.guard)

    def append(self, path: Path, line: bytes) -> None:
        """Add a line to a file in it, which is on the disk then."""
        files.append_line(path, line, self.guard)

    def link(self, source: Path, path: Path) -> None:
        """Give a file a second name in it, or a copy."""
        files.link_whole(source, path, self.guard)

    def copy(self, source: Path, path: Path) -> None:
        """Have a copy of a file in it."""
        files.copy_whole(source, path, self.guard)

    def remove(self, path: Path) -> None:
        """Remove a file in it, if it is there."""
        files.remove(path, self.guard)

    def remove_empty(self, path: Path) -> None:
        """Remove a folder in it, if nothing is in there."""
        self.guard()
        with contextlib.suppress(OSError):
            path.rmdir()

    # -- what lies where --

    def picture(self, output: str, file_format: Format = "png") -> Path:
        return self.path / f"{output}{PICTURE_SUFFIXES[file_format]}"

    def layer(self, output: str, number: int) -> Path:
        """A picture's layer, counted from 1, the hindmost: a name that no picture has (`is_layer_name`)."""
        return self.path / f"{output}.layer-{number}{LAYER_SUFFIX}"

    def sidecar(self, output: str) -> Path:
        return self.path / f"{output}{SIDECAR_SUFFIX}"

    @property
    def summary(self) -> Path:
        """How the last run went."""
        return self.path / Own.SUMMARY

    @property
    def journal(self) -> Path:
        """What happened to the pictures that are not done."""
        return self.path / Own.JOURNAL

    @property
    def status(self) -> Path:
        """How the run stands that is on; there only while one is."""
        return self.path / Own.STATUS

    @property
    def worker_log(self) -> Path:
        """What workers printed."""
        return self.path / Own.WORKER_LOG

    @property
    def page(self) -> Path:
        return self.path / Own.PAGE

    def worker_log_of(self, number: int) -> Path:
        """What the worker on the `number`-th device printed, counted from 0: `worker.log`, then `worker-2.log`."""
        return self.path / f"worker-{number + 1}.log" if number else self.worker_log

    @property
    def worker_logs(self) -> list[Path]:
        """The logs of all workers that are there."""
        others = self.path.glob(f"{Own.WORKER_LOG.stem}-*.log")
        return [self.worker_log, *sorted(path for path in others if _MORE_LOGS.fullmatch(path.name))]

    @property
    def assets(self) -> Path:
        """The folder of the page's script and stylesheet."""
        return self.path / Own.ASSETS

    @property
    def thumbs(self) -> Path:
        """The folder of the pictures' thumbnails."""
        return self.path / Own.THUMBS

    @property
    def contact_sheet(self) -> Path:
        return self.path / Own.CONTACT_SHEET

    @property
    def owner(self) -> Path:
        """Which manifest renders into it."""
        return self.path / Own.OWNER

    @property
    def choices(self) -> Path:
        """Which precision was chosen for which model, where a manifest leaves that to the machine."""
        return self.path / Own.CHOICES

    @property
    def choices_lock(self) -> Path:
        """Held while that is written."""
        return self.path / Own.CHOICES_LOCK

    @property
    def inputs(self) -> Path:
        """The folder of the pictures that go in, by the SHA-256 over their pixels."""
        return self.path / Own.INPUTS

    @property
    def taken_in(self) -> Path:
        """Which file stood where when they were rendered last."""
        return self.path / Own.TAKEN_IN

    @property
    def queue(self) -> Path:
        """What a server has accepted."""
        return self.path / Own.QUEUE

    @property
    def batches(self) -> Path:
        """The folder of what clients of a server have uploaded, and of the batches they made of it."""
        return self.path / Own.BATCHES

    @property
    def aside(self) -> Path:
        """Where pictures are kept for a moment that are in each other's way; what a dead run left there is found."""
        return self.path / Own.ASIDE

    @property
    def picks(self) -> Path:
        """What somebody thinks of the pictures."""
        return self.path / Own.PICKS

    @property
    def picks_lock(self) -> Path:
        """Held while that is written."""
        return self.path / Own.PICKS_LOCK

    @property
    def takes(self) -> Path:
        """Where a further take of a picture is kept until it has been read, and the better one is known."""
        return self.path / Own.TAKES

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder for one run; it is made. Raises `LockedError` at once when another run holds it.

        Raises `DiskError` where it cannot be made or locked.
        """
        return lock.held(self.path / Own.LOCK)

    def hold(self) -> Hold:
        """Whether a run holds the folder now, or that this cannot be told."""
        return lock.look(self.path / Own.LOCK)
