"""Nights that are on, and what others ask of them: files in `outputs/.nights`, for programs of this user and machine.

    <machine>-<process>/.lock              held as long as the night is on
    <machine>-<process>/night.json         what it is
    <machine>-<process>/<wish>.wish        what somebody asks, until the night has taken it
    <machine>-<process>/<wish>.answer      what it says to that

All of it goes with the night; what one left behind that was killed, the next one removes. Knows nothing of rendering.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from renderer.errors import DiskError
from renderer.job import AskedPrecision, Value
from renderer.system import lock
from renderer.system.files import write_whole

NIGHTS = ".nights"
_LOCK = ".lock"
_MAX_BYTES = 2**20
_YOUNG_S = 60.0
"""A night that begins has no lock for a moment."""


class NightFile(Value):
    """One night: its process, where that runs, since when, and the manifests that it renders, by their names."""

    night_version: Literal[1] = 1
    pid: int
    machine: str
    began_at: datetime
    names: tuple[str, ...]
    paused: bool = False


class Wish(Value):
    """What somebody asks of a night; `add` gives it another manifest, with what a command line says of that."""

    what: Literal["pause", "resume", "stop", "add"]
    manifest: str = ""
    model: str | None = None
    precision: AskedPrecision | None = None
    proof: bool = False
    defaults: str | None = None
    fields: tuple[tuple[str, str], ...] = ()
    only: tuple[str, ...] = ()
    priority: float | None = None


class NightAnswer(Value):
    """What a night says to a wish; an `error` where it cannot be."""

    text: str
    hint: str = ""
    error: bool = False


def this_machine() -> str:
    """The name that tells machines apart which share a disk."""
    return socket.gethostname()


@dataclass(frozen=True, slots=True)
class NightFolder:
    """Where one night says what it is, and hears what is asked of it."""

    path: Path

    @classmethod
    def of_process(cls, outputs: Path, pid: int) -> NightFolder:
        return cls(outputs / NIGHTS / f"{_folder_name(this_machine())}{pid}")

    # -- the night's side --

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Be there for others as long as this lasts. Raises `DiskError` where nothing can be written."""
        with lock.held(self.path / _LOCK):
            try:
                self._forget()
                yield
            finally:
                shutil.rmtree(self.path, ignore_errors=True)
                with contextlib.suppress(OSError):
                    self.path.parent.rmdir()

    def post(self, night: NightFile) -> None:
        """Say what it is. Raises `DiskError`."""
        write_whole(self.path / "night.json", night.model_dump_json().encode() + b"\n", lasting=False)

    def _forget(self) -> None:
        """What was asked of a dead night, whose process had the same number, is asked no more."""
        for path in (*self.path.glob("*.wish"), *self.path.glob("*.answer")):
            with contextlib.suppress(OSError):
                path.unlink()

    def wishes(self) -> list[tuple[str, Wish]]:
        """What this user has asked since the last look, and it is asked no more: each with its mark.

        What cannot be heard is answered at once: whoever asks waits for as long as nothing is said.
        """
        found: list[tuple[str, Wish]] = []
        paths: list[Path] = []
        with contextlib.suppress(OSError):
            paths = sorted(self.path.glob("*.wish"), key=_written_at)
        for path in paths:
            wish: Wish | NightAnswer | None = None
            with contextlib.suppress(OSError):
                read = _read_wish(path)
                path.unlink()
                wish = read  # else it has been taken back meanwhile, and is not asked
            if isinstance(wish, NightAnswer):
                self.answer(path.stem, wish)
            elif wish is not None:
                found.append((path.stem, wish))
        return found

    def answer(self, mark: str, answer: NightAnswer) -> None:
        """Answer a wish; whoever asked may have gone."""
        with contextlib.suppress(DiskError):
            write_whole(self.path / f"{mark}.answer", answer.model_dump_json().encode() + b"\n", lasting=False)

    # -- others' side --

    def ask(self, wish: Wish) -> str:
        """Ask something of it: the wish's mark. Raises `DiskError`."""
        mark = uuid.uuid4().hex
        write_whole(self.path / f"{mark}.wish", wish.model_dump_json().encode() + b"\n", lasting=False)
        return mark

    def is_taken(self, mark: str) -> bool:
        """Whether it has heard a wish."""
        return not (self.path / f"{mark}.wish").exists()

    def withdraw(self, mark: str) -> bool:
        """Ask it no more; whether it had not heard it yet."""
        try:
            (self.path / f"{mark}.wish").unlink()
        except OSError:
            return False
        return True

    def take_answer(self, mark: str) -> NightAnswer | None:
        """What it said to a wish; None where it has not yet."""
        path = self.path / f"{mark}.answer"
        try:
            found = NightAnswer.model_validate_json(path.read_bytes())
        except (OSError, ValidationError, ValueError):
            return None
        path.unlink(missing_ok=True)
        return found

    @property
    def is_on(self) -> bool:
        """Whether the night is: its process holds the lock."""
        return lock.look(self.path / _LOCK) == "held"

    def read(self) -> NightFile | None:
        """What it says that it is; None where it is none, or not on any more."""
        path = self.path / "night.json"
        try:
            if not self.is_on or path.stat().st_size > _MAX_BYTES:
                return None
            return NightFile.model_validate_json(path.read_bytes())
        except (OSError, ValidationError, ValueError):
            return None


def find(outputs: Path) -> list[tuple[NightFolder, NightFile]]:
    """The nights that are on in a folder of outputs, the first begun first."""
    folders = [NightFolder(path) for path in _listed(outputs) if path.is_dir()]
    found = [(folder, night) for folder in folders if (night := folder.read()) is not None]
    return sorted(found, key=lambda each: each[1].began_at)


def _listed(outputs: Path, pattern: str = "*") -> list[Path]:
    """The folders of nights, by name; none where the outputs may not be looked into: whoever writes there says so."""
    try:
        return sorted((outputs / NIGHTS).glob(pattern))
    except OSError:
        return []


def sweep(outputs: Path, after_s: float = _YOUNG_S) -> None:
    """Remove what nights of this machine have left behind that were killed, and that is older than so many seconds."""
    mine = _folder_name(this_machine())
    for path in _listed(outputs, f"{glob.escape(mine)}*"):
        if not path.name.removeprefix(mine).isdecimal():  # a machine whose name begins as this one's does
            continue
        if time.time() - _written_at(path) >= after_s and lock.look(path / _LOCK) == "free":
            shutil.rmtree(path, ignore_errors=True)


def _read_wish(path: Path) -> Wish | NightAnswer:
    """A wish, or the answer to what is none that is fulfilled. Raises `OSError`."""
    there = path.stat()
    if there.st_uid not in (os.getuid(), 0):
        return NightAnswer(text="the run belongs to another user", error=True)
    try:
        if there.st_size <= _MAX_BYTES:
            return Wish.model_validate_json(path.read_bytes())
    except (ValidationError, ValueError):
        pass
    hint = "it may be of another version of the renderer; Ctrl-C stops it"
    return NightAnswer(text="the run does not understand what was asked", hint=hint, error=True)


def _folder_name(machine: str) -> str:
    """What a night's folder is called, before its process."""
    return "".join(letter if letter.isalnum() else "-" for letter in machine) + "-"


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
