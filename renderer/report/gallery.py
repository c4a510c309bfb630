"""The page while a batch runs: what of it has changed since a browser saw it last.

Follows an output folder from outside: the journal tells which pictures have changed, the status what is in flight.
So it is the same for a run in this process, in another terminal, or for none. Knows nothing of HTTP.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from pydantic import ValidationError

from renderer import standing, words
from renderer.journal import Entry
from renderer.layout import Own
from renderer.manifest import Manifest
from renderer.plan import Plan, Planned, make_plan
from renderer.report import gather, page, thumbnails
from renderer.standing import Standing

_ASSETS = {f"{Own.ASSETS}/{name}": Path(__file__).parent / name for name in page.ASSETS}


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
class _Journal:
    """The journal, read on from where it was read last."""

    path: Path
    offset: int = 0

    def skip(self) -> None:
        self.offset = self._size()

    def read_on(self) -> set[str] | None:
        """The ids of the entries that have come; None when it has been written anew."""
        size = self._size()
        if size < self.offset:
            return None
        if size == self.offset:
            return set()
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            text = stream.read(size - self.offset)
        whole = text[: text.rfind(b"\n") + 1]
        self.offset += len(whole)
        return {found for line in whole.splitlines() if (found := _id_of(line)) is not None}

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0


def _id_of(line: bytes) -> str | None:
    try:
        return Entry.model_validate_json(line).id
    except (ValidationError, ValueError):
        return None


class Gallery:
    """One manifest's page, kept up to date. For use by several threads."""

    def __init__(self, manifest: Manifest, outputs: Path) -> None:
        """Raises what `make_plan` raises. Nothing is written, and the folder need not be there."""
        self._manifest = manifest
        self._outputs = outputs
        self._epoch = uuid4().hex[:12]
        self._plan = self._made()
        self._journal = _Journal(self._plan.folder.journal)
        self._journal.skip()
        self._pictures = [gather.describe(item) for item in self._plan.items]
        self._versions = [0] * len(self._pictures)
        self._positions = {item.picture.id: position for position, item in enumerate(self._plan.items)}
        self._standing: Standing | None = None
        self._version = 0
        self._html: tuple[int, bytes] = (-1, b"")
        self._changed = threading.Condition()
        self._closed = False

    @property
    def name(self) -> str:
        return self._manifest.name

    # -- following --

    def follow(self) -> None:
        """Look for what has changed. Raises `OSError` and `RendererError` when the folder cannot be read just now."""
        before, now = self._standing, standing.read(self._plan.folder)
        ids = self._journal.read_on()
        another = (before.began_at if before else None) != (now.began_at if now else None)
        if another or ids is None:  # a batch has begun or ended: files may have been rewritten, a summary is there
            self._journal.skip()
            fresh: Sequence[Planned] = self._made().items
        elif known := [name for name in ids if name in self._positions]:
            fresh = self._made(known).items
        else:
            fresh = ()
        changed = {self._positions[item.picture.id]: item for item in fresh}
        self._take(changed, now)

    def _made(self, only: Sequence[str] = ()) -> Plan:
        return make_plan(self._manifest, self._outputs, within=frozenset(only) if only else None)

    def _take(self, changed: Mapping[int, Planned], now: Standing | None) -> None:
        told = {position: gather.describe(item) for position, item in changed.items()}
        told = {position: one for position, one in told.items() if one != self._pictures[position]}
        with self._changed:
            if not told and now == self._standing:
                return
            self._version += 1
            items = list(self._plan.items)
            for position, one in told.items():
                items[position] = changed[position]
                self._pictures[position] = one
                self._versions[position] = self._version
            self._plan = replace(self._plan, items=tuple(items))
            self._standing = now
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will change: let those go who wait."""
        with self._changed:
            self._closed = True
            self._version += 1
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
        now = self._standing
        message = {
            "pictures": [
                (position, self._pictures[position])
                for position, version in enumerate(self._versions)
                if version > seen
            ],
            "counts": gather.describe_counts(self._plan),
            "told": words.describe_standing(now) if now else "",
            "flying": {one.id: (one.step, one.steps) for one in now.in_flight} if now else {},
            "happened": self._happened(),
            "closed": self._closed,
        }
        return json.dumps(message, ensure_ascii=False)

    def _happened(self) -> str:
        """Another text whenever what stands under "What happened" has changed enough to be read again."""
        trouble = [item.picture.id for item in self._plan.items if item.state in ("failed", "set aside")]
        began = self._standing.began_at if self._standing else None
        return f"{len(trouble)}-{began.timestamp() if isinstance(began, datetime) else 'ended'}"

    def html(self) -> bytes:
        """The page, as it is now."""
        with self._changed:
            version, plan, happened = self._version, self._plan, self._happened()
        if self._html[0] != version:
            live = page.Live(mark=f"{self._epoch}-{version}", happened=happened)
            has_sheet = plan.folder.contact_sheet.is_file()
            text = page.write_html(gather.gather(plan), has_sheet=has_sheet, live=live)
            self._html = version, text.encode()
        return self._html[1]

    def file(self, name: str) -> Served | None:
        """The file that the page calls `name`; None for any other. Nothing is looked up by its path."""
        if name in _ASSETS:
            return Served(_ASSETS[name], _ASSETS[name].parent)
        folder = self._plan.folder.path
        if name == Own.CONTACT_SHEET:
            return Served(self._plan.folder.contact_sheet, folder)
        for item in self._plan.items:
            if item.sidecar is not None and name == gather.file_name(item):
                return Served(folder / name, folder)
            if item.sidecar is not None and name == gather.thumbnail_name(item.sidecar):
                thumbnails.make_thumbnail(self._plan, item)
                return Served(folder / name, folder, lasting=True)
        return None
