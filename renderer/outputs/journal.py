"""What happened to the pictures that are not done: attempts, failures, workers brought down. One JSON line each.

An attempt is written down before its work begins, so that whatever the picture brings down, it is known. Sidecars say
what is done; the journal never does. Knows nothing of plans or workers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from renderer.job import Value
from renderer.outputs.folder import OutputFolder
from renderer.system import files

MAX_CRASHES = 3
"""A picture that brought down this many workers is set aside."""

_COMPACT_ABOVE_BYTES = 8 * 2**20

What = Literal["attempt", "done", "failed", "crashed", "dropped"]


@dataclass(frozen=True, slots=True)
class _Read:
    """How much of a journal has been read, and of which file: one that is written anew is another."""

    inode: int = 0
    offset: int = 0


class JournalEntry(Value):
    """One line: what happened to which picture, when (UTC). `dropped` is an attempt that was given up on request."""

    at: datetime
    what: What
    id: str
    fingerprint: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class PictureRecord:
    """What the journal holds against one fingerprint.

    `left_open` says that an attempt began and its run vanished without a word: a power cut, or the picture's doing.
    """

    attempts: int = 0
    crashes: int = 0
    left_open: bool = False
    failure: str = ""

    @property
    def set_aside(self) -> bool:
        return self.crashes >= MAX_CRASHES

    def after(self, entry: JournalEntry) -> PictureRecord:
        """This record with one more entry."""
        match entry.what:
            case "attempt":
                return PictureRecord(self.attempts + 1, self.crashes, left_open=True, failure=self.failure)
            case "crashed":
                return PictureRecord(self.attempts, self.crashes + 1, failure=entry.message)
            case "failed":
                return PictureRecord(self.attempts, self.crashes, failure=entry.message)
            case "dropped":
                return PictureRecord(max(0, self.attempts - 1), self.crashes, failure=self.failure)
            case "done":
                return PictureRecord()


@dataclass(slots=True)
class Journal:
    """The journal of one output folder."""

    folder: OutputFolder
    records: dict[str, PictureRecord] = field(default_factory=dict)
    _read: _Read = field(default_factory=_Read, repr=False, compare=False)
    _held: list[bytes] | None = field(default=None, repr=False, compare=False)

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder.journal

    @classmethod
    def read(cls, folder: OutputFolder) -> Journal:
        """Read what is there. Lines that are no entries (the last one of a dead run, say) are passed over.

        Raises `DiskError` when there is one and it cannot be read: what it holds against pictures would be forgotten.
        """
        journal = cls(folder)
        journal.read_on()
        return journal

    def read_on(self) -> Sequence[JournalEntry]:
        """Take in the entries that others have written since it was read last, and say which; for whoever only reads.

        One that was written anew is read from its beginning. Raises `DiskError` when it cannot be read.
        """
        entries, self._read, anew = _entries_since(self.path, self._read)
        if anew:
            self.records.clear()
        for entry in entries:
            self._take(entry)
        return entries

    def record(self, fingerprint: str) -> PictureRecord:
        return self.records.get(fingerprint, PictureRecord())

    def write(self, what: What, picture_id: str, fingerprint: str, message: str = "") -> None:
        """Append one entry and have it on the disk before returning.

        Raises `DiskError`, and `LeaseLostError` where the folder is another run's by now.
        """
        entry = JournalEntry(at=datetime.now(UTC), what=what, id=picture_id, fingerprint=fingerprint, message=message)
        line = entry.model_dump_json().encode()
        if self._held is not None:
            self._held.append(line)
        else:
            self._append(line)
        self._take(entry)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """What is written in here is on the disk at the end, all of it at once. Raises `DiskError` then."""
        if self._held is not None:
            yield
            return
        self._held = []
        try:
            yield
        finally:
            lines, self._held = self._held, None
            if lines:
                self._append(b"\n".join(lines))

    def _append(self, lines: bytes) -> None:
        self.folder.append(self.path, lines)
        files.reached("journal-written", self.path)

    def _take(self, entry: JournalEntry) -> None:
        """Know an entry. What nothing is held against any more takes no room: a server runs for months."""
        record = self.record(entry.fingerprint).after(entry)
        if record == PictureRecord():
            self.records.pop(entry.fingerprint, None)
        else:
            self.records[entry.fingerprint] = record

    def take_over(self) -> None:
        """Write it anew as it is: whoever had the folder before, and has the file open still, writes into none.

        Call it when the folder is this run's. Raises `DiskError`, `LeaseLostError`.
        """
        if _size(self.path):
            self.folder.copy(self.path, self.path)

    def compact(self) -> None:
        """When it has grown large, leave out the entries that hold nothing against a picture (it was done since, say).

        Those of pictures that nobody asks for now stay, for a run over a part of a manifest must not forget the rest.
        Call it with the lock held. Raises `DiskError`.
        """
        if _size(self.path) < _COMPACT_ABOVE_BYTES:
            return
        lines = [
            entry.model_dump_json()
            for entry in _entries(self.path)
            if self.record(entry.fingerprint) != PictureRecord()
        ]
        self.folder.write(self.path, "".join(f"{line}\n" for line in lines).encode())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise files.disk_error(path, error, doing="read") from error


def _entries(path: Path) -> Sequence[JournalEntry]:
    return _entries_since(path, _Read())[0]


def _entries_since(path: Path, before: _Read) -> tuple[Sequence[JournalEntry], _Read, bool]:
    """The entries behind what was read before, how much is read now, and whether it was begun again."""
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            anew = found.st_ino != before.inode or found.st_size < before.offset
            offset = 0 if anew else before.offset
            if found.st_size == offset:
                return (), _Read(found.st_ino, offset), anew
            stream.seek(offset)
            data = stream.read()
    except FileNotFoundError:
        return (), _Read(), before != _Read()
    except OSError as error:
        raise files.disk_error(path, error, doing="read") from error
    entries = []
    whole = data[: data.rfind(b"\n") + 1]  # behind it stands one that is being written, or that a dead run began
    for line in whole.splitlines():
        try:
            entries.append(JournalEntry.model_validate_json(line))
        except (ValidationError, ValueError):
            continue
    return entries, _Read(found.st_ino, offset + len(whole)), anew
