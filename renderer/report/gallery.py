"""The page while a batch runs: what of it has changed since a browser saw it last.

Follows an output folder from outside: the journal tells which pictures have changed, the status what is in flight.
So it is the same for a run in this process, in another terminal, or for none. Knows nothing of HTTP.
"""

from __future__ import annotations

import bisect
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from renderer.errors import UsageError, shorten
from renderer.manifest.manifest import Manifest
from renderer.outputs import input_files, picks, status
from renderer.outputs.describe import describe_status
from renderer.outputs.folder import Own
from renderer.outputs.picks import Pick
from renderer.outputs.status import RunStatus
from renderer.planning.plan import Planned, look_again, make_plan
from renderer.report import gather, page, thumbnails

_ASSET_FILES = {f"{Own.ASSETS}/{name}": Path(__file__).parent / name for name in page.ASSETS}
_LOOK_THROUGH_S = 30.0  # how often all sidecars are looked at from outside, for those that no journal tells of
_DEAR_S = 0.1
CORE_SHARE = 0.01
"""Of a core, what following a run may take: for looking at what has changed, and for drawing what is dear."""


@dataclass(frozen=True, slots=True)
class Served:
    """A file that may be served. `lasting`: its name says what is in it. `root` is the folder that it has to lie in."""

    path: Path
    root: Path
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What has changed, as JSON, up to `mark`. After the `last` one nothing will."""

    mark: str
    text: str
    last: bool = False


@dataclass(slots=True)
class _Names:
    """The files that a page calls for, and the positions of their pictures. Pictures of the same bytes share one."""

    files: dict[str, int] = field(default_factory=dict)
    thumbs: dict[str, set[int]] = field(default_factory=dict)

    def add(self, position: int, item: Planned) -> None:
        if item.sidecar is not None:
            self.files |= dict.fromkeys((gather.file_name(item), *gather.layer_names(item)), position)
            self.thumbs.setdefault(gather.thumbnail_name(item.sidecar), set()).add(position)

    def remove(self, position: int, item: Planned) -> None:
        if item.sidecar is not None:
            for name in (gather.file_name(item), *gather.layer_names(item)):
                self.files.pop(name, None)
            there = self.thumbs.get(name := gather.thumbnail_name(item.sidecar), set())
            there.discard(position)
            if not there:
                self.thumbs.pop(name, None)

    def position(self, name: str) -> int | None:
        """The picture of a file or a thumbnail; None where the page has no such name."""
        return self.files[name] if name in self.files else next(iter(self.thumbs.get(name, ())), None)


class _Drawing:
    """A text that is made from a gallery, once for all who ask; where that is dear, at most a hundredth of the time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version = -1
        self._text = b""
        self._due_at = 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self._due_at

    def get(self, version: int, draw: Callable[[], tuple[int, bytes]]) -> bytes:
        """The text of this version, or an older one while another is not due."""
        with self._lock:
            if self._version < 0 or (self._version < version and self.is_due()):
                began = time.thread_time()
                self._version, self._text = draw()
                took_s = time.thread_time() - began
                self._due_at = time.monotonic() + (took_s / CORE_SHARE if took_s > _DEAR_S else 0.0)
            return self._text


def _stamp(path: str) -> tuple[int, int, int]:
    """What tells a file from one that was written in its place, without opening it; zeros for none."""
    try:
        found = os.stat(path)  # noqa: PTH116  (ten thousand of them: a Path costs more than the question)
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns


class Gallery:
    """One manifest's page, kept up to date. For use by several threads.

    A look costs what has changed, not what there is: the journal is read on from where it ended, and of the sidecars
    those are opened that are others than before. What the whole page costs is spent seldom (`_Drawing`).
    """

    def __init__(self, manifest: Manifest, outputs: Path) -> None:
        """Raises what `make_plan` raises. Nothing is written, and the folder need not be there."""
        self._name = manifest.name
        self._epoch = uuid4().hex[:12]
        self._plan = make_plan(manifest, outputs)
        folder = self._plan.folder
        self._places = [str(folder.sidecar(item.picture.output)) for item in self._plan.items]
        self._stamps = [_stamp(place) for place in self._places]
        self._marks_stamp = _stamp(str(folder.picks))
        self._marks = gather.read_marks(folder)
        self._pictures = [self._describe(item) for item in self._plan.items]
        self._positions = {item.picture.id: position for position, item in enumerate(self._plan.items)}
        self._inputs = {input_files.kept_name(each) for item in self._plan.items for each in item.picture.inputs}
        self._names = _Names()
        for position, item in enumerate(self._plan.items):
            self._names.add(position, item)
        self._counts = gather.count_states(self._plan.items)
        self._status: RunStatus | None = None
        self._looked_through_at = time.monotonic()
        self._changes: list[tuple[int, int]] = []  # which version changed which picture, in order
        self._version = 0
        self._happened = self._what_happened()
        self._html, self._section = _Drawing(), _Drawing()
        self._thumbnailing = threading.Lock()
        self._changed = threading.Condition()
        self._closed = False

    @property
    def name(self) -> str:
        return self._name

    def is_of(self, manifest: Manifest) -> bool:
        """Whether it shows this manifest's pictures, and not those of one that has grown."""
        return self._plan.manifest.pictures == manifest.pictures

    # -- following --

    def follow(self) -> None:
        """Look for what has changed. Raises `OSError` and `RendererError` when the folder cannot be read just now."""
        before, now = self._status, status.read(self._plan.folder)
        entries = self._plan.journal.read_on()
        positions = {self._positions[entry.id] for entry in entries if entry.id in self._positions}
        another = (before.began_at if before else None) != (now.began_at if now else None)
        if another or time.monotonic() - self._looked_through_at > _LOOK_THROUGH_S:
            self._looked_through_at = time.monotonic()
            positions |= {
                position for position, place in enumerate(self._places) if _stamp(place) != self._stamps[position]
            }
        changed = self._look_at(sorted(positions))
        changed |= {position: self._plan.items[position] for position in self._marked() if position not in changed}
        self._take(changed, now, another=another)

    def _describe(self, item: Planned) -> Mapping[str, Any]:
        return gather.describe(item, self._marks.get(item.fingerprint))

    def _marked(self) -> list[int]:
        """The positions of pictures that somebody has marked otherwise since the last look."""
        stamp = _stamp(str(self._plan.folder.picks))
        if stamp == self._marks_stamp:
            return []
        before, self._marks_stamp = self._marks, stamp
        self._marks = gather.read_marks(self._plan.folder)
        marks = [item.fingerprint for item in self._plan.items]
        return [place for place, mark in enumerate(marks) if before.get(mark) != self._marks.get(mark)]

    def mark(self, wanted: Mapping[str, Pick | None]) -> None:
        """Mark pictures by their ids, or unmark them. Raises `UsageError` for one that is not there; `DiskError`."""
        with self._changed:
            items = {name: self._plan.items[self._positions[name]] for name in wanted if name in self._positions}
        if absent := [name for name in wanted if name not in items or items[name].sidecar is None]:
            raise UsageError(f"there is no picture {shorten(absent[0])}")
        picks.mark(self._plan.folder, {items[name].fingerprint: mark for name, mark in wanted.items()})

    def _look_at(self, positions: Sequence[int]) -> dict[int, Planned]:
        for position in positions:
            self._stamps[position] = _stamp(self._places[position])  # first: what comes meanwhile is seen next time
        return dict(zip(positions, look_again(self._plan, positions), strict=True))

    def _take(self, changed: Mapping[int, Planned], now: RunStatus | None, *, another: bool) -> None:
        told = {position: self._describe(item) for position, item in changed.items()}
        told = {position: one for position, one in told.items() if one != self._pictures[position]}
        with self._changed:
            if not told and now == self._status:
                return
            self._version += 1
            self._status = now
            if told:
                items = list(self._plan.items)
                for position, one in told.items():
                    self._counts[items[position].state] -= 1
                    self._counts[changed[position].state] += 1
                    self._names.remove(position, items[position])
                    self._names.add(position, changed[position])
                    items[position], self._pictures[position] = changed[position], one
                    self._changes.append((self._version, position))
                self._plan = replace(self._plan, items=tuple(items))
            if another or self._section.is_due():
                self._happened = self._what_happened()
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will change: let those go who wait."""
        with self._changed:
            self._closed = True
            self._version += 1
            self._happened = self._what_happened()
            self._changed.notify_all()

    # -- what a browser gets --

    def since(self, mark: str, timeout_s: float | None) -> Change | None:
        """What has changed since `mark`; None when nothing does within `timeout_s` seconds.

        A `timeout_s` of None asks how things stand, whether anything has changed or not. To a mark of another gallery's
        the answer is only that the page is of another time.
        """
        epoch, _, seen = mark.partition("-")
        with self._changed:
            if epoch != self._epoch or not seen.isdecimal():
                return Change(f"{self._epoch}-{self._version}", json.dumps({"stale": True}))
            if timeout_s is not None and not self._changed.wait_for(
                lambda: self._closed or self._version > int(seen), timeout_s
            ):
                return None
            return Change(f"{self._epoch}-{self._version}", self._message(int(seen)), last=self._closed)

    def _message(self, seen: int) -> str:
        now = self._status
        fresh = self._changes[bisect.bisect(self._changes, (seen, len(self._pictures))) :]
        message = {
            "pictures": [(position, self._pictures[position]) for position in sorted({place for _, place in fresh})],
            "counts": gather.describe_counts(self._counts),
            "told": describe_status(now) if now else "",
            "flying": {one.id: (one.step, one.steps) for one in now.in_flight} if now else {},
            "happened": self._happened,
            "closed": self._closed,
        }
        return json.dumps(message, ensure_ascii=False)

    def _what_happened(self) -> str:
        """Another text whenever what stands under "What happened" has changed enough to be read again."""
        began = self._status.began_at if self._status else None
        trouble = self._counts["failed"] + self._counts["set aside"]
        return f"{trouble}-{began.timestamp() if isinstance(began, datetime) else 'ended'}"

    def html(self) -> bytes:
        """The page: as it is now, or, where it is costly, as it was a while ago; `since` tells what is missing."""
        return self._html.get(self._version, lambda: self._draw(whole=True))

    def happened(self) -> bytes:
        """What stands under "What happened", as HTML, and as old as the page may be."""
        return self._section.get(self._version, lambda: self._draw(whole=False))

    def _draw(self, *, whole: bool) -> tuple[int, bytes]:
        with self._changed:
            version, plan, described, happened = self._version, self._plan, tuple(self._pictures), self._happened
        gathered = gather.gather(plan, described)
        if not whole:
            return version, page.write_happened(gathered).encode()
        live = page.Live(mark=f"{self._epoch}-{version}", happened=happened)
        return version, page.write_html(gathered, has_sheet=plan.folder.contact_sheet.is_file(), live=live).encode()

    def file(self, name: str) -> Served | None:
        """The file that the page calls `name`; None for any other. Nothing is looked up by its path."""
        if name in _ASSET_FILES:
            return Served(_ASSET_FILES[name], _ASSET_FILES[name].parent)
        folder = self._plan.folder.path
        if name == Own.CONTACT_SHEET:
            return Served(self._plan.folder.contact_sheet, folder)
        if name in self._inputs:
            return Served(folder / name, folder, lasting=True)
        with self._changed:
            is_file, position = name in self._names.files, self._names.position(name)
        if position is None:
            return None
        if not is_file:
            with self._thumbnailing:  # one at a time: whoever looks takes one core from the run, and no more
                thumbnails.make_thumbnail(self._plan, self._plan.items[position])
        return Served(folder / name, folder, lasting=not is_file)
