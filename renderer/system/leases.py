"""Leases on a folder that machines share: who does what, without locks across a network and whatever clocks say.

A lease is a file that is made exclusively, by a link, with a number: the highest is the one that counts. Its holder
renews it; where that stays out, the next number may be taken. Times are the file server's own: a file that is written
now tells what it says is now. A lease is never taken from a holder that renews it, also where that clock jumps, or
each machine writes its own time: it has to stay as it is while whoever wants it looks on. A holder that was stopped,
and wakes, finds the next number.

flock is not asked: NFS and others have it for one machine alone, or not at all. Knows nothing of what is leased.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from renderer.errors import LeaseLostError
from renderer.system.files import PART_PREFIX, disk_error, make_folder

STALE_S = 60.0
"""So long without being renewed, and a lease may be taken; it is renewed six times in that time."""

_LOOKS_ON = 1 / 3
"""Of that time, for which whoever wants it has to see it unchanged: twice as long as a renewal takes to come."""

_PROBED = 1 / 60
"""Of that time, for which what the file server has said of the time is not asked again."""

_TAKEN = frozenset({errno.ENOENT, errno.ESTALE})
"""What reading a file ends with that was removed or replaced a moment ago, here or on another machine of NFS."""

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def awake_s() -> float:
    """Seconds of a clock that nobody sets, and that goes on while a machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True)
class _Seen:
    """A lease as it was: its number, its file's mark, what it says, and when it was renewed by the server's clock."""

    number: int
    mark: tuple[int, int]
    told: Mapping[str, object]
    renewed_s: float

    @property
    def is_free(self) -> bool:
        return self.told.get("state") == "free"


class Leases:
    """The leases in a folder, as one process sees them. Every call raises `DiskError` where that cannot be used."""

    def __init__(self, folder: Path, stale_s: float = STALE_S, clock: Callable[[], float] = awake_s) -> None:
        self.folder, self.stale_s, self.clock = folder, stale_s, clock
        self.token = uuid4().hex
        self._watched: dict[str, tuple[tuple[int, int], float]] = {}
        self._probed: tuple[float, float] | None = None

    def claim(self, name: str) -> Lease | None:
        """A lease of this name, where nobody has it; it is renewed until it is released. None where somebody has."""
        try:
            make_folder(self.folder)
            before = self.latest(name)
            if before is not None and not (before.is_free or self._is_dead(name, before)):
                return None
            number = before.number + 1 if before is not None else 1
            if not self._made(self.path(name, number), self._text("held")):
                return None
            now = self.latest(name)
            if now is None or now.number != number:  # others were faster, and are through with it
                self.path(name, number).unlink(missing_ok=True)
                return None
            for older in self._numbers(name):
                if older < number:
                    self.path(name, older).unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(self.folder, error) from error
        self._watched.pop(name, None)
        return Lease(self, name, number)

    def holder(self, name: str) -> str:
        """Who has a lease, in words; empty where nobody has, or nobody renews it."""
        if not self.folder.is_dir():
            return ""
        try:
            seen = self.latest(name)
            if seen is None or seen.is_free or self._age_s(seen) > self.stale_s:
                return ""
        except OSError as error:
            raise disk_error(self.folder, error, doing="read") from error
        return f"process {seen.told.get('pid', '?')} on {seen.told.get('host', 'some machine')}"

    @property
    def looks_on_s(self) -> float:
        """For how long whoever wants a lease has to see that nobody renews it."""
        return _LOOKS_ON * self.stale_s

    def taken(self, names: Iterable[str]) -> set[str]:
        """Those of these names whose leases somebody has, or had when it died."""
        found: set[str] = set()
        try:
            make_folder(self.folder)
            there = {path.stem for path in self.folder.iterdir() if path.suffix[1:].isdecimal()}
            for name in there.intersection(names):
                seen = self.latest(name)
                if seen is not None and not seen.is_free:
                    found.add(name)
        except OSError as error:
            raise disk_error(self.folder, error, doing="read") from error
        return found

    def agree(self, name: str, text: str) -> str:
        """What stands under a name for all that share the folder: `text`, where nobody has written anything yet."""
        path = self.folder / name
        try:
            make_folder(self.folder)
            return text if self._made(path, text.encode()) else path.read_text(encoding="utf-8")
        except OSError as error:
            raise disk_error(path, error) from error

    def forget(self, name: str) -> None:
        """Let others agree anew on what stands under a name."""
        with contextlib.suppress(OSError):
            (self.folder / name).unlink(missing_ok=True)

    # -- as a lease needs it --

    def path(self, name: str, number: int) -> Path:
        """The file of a lease."""
        return self.folder / f"{name}.{number:06}"

    def latest(self, name: str) -> _Seen | None:
        """The lease that counts; None where there is none. Raises `OSError`."""
        numbers = self._numbers(name)
        if not numbers:
            return None
        path = self.path(name, max(numbers))
        try:
            data, found = path.read_bytes(), path.stat()
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            return _Seen(max(numbers), (0, 0), {}, float("inf"))
        told: object = None
        with contextlib.suppress(ValueError):
            told = json.loads(data)
        mark = (found.st_ino, found.st_mtime_ns)
        return _Seen(max(numbers), mark, told if isinstance(told, dict) else {}, found.st_mtime)

    def renew(self, name: str, number: int, state: str = "held") -> bool:
        """Write a lease anew, unless it is passed, and say whether it still counts. Raises `OSError`."""
        if self.is_passed(name, number):
            return False
        part = self.folder / f"{PART_PREFIX}{uuid4().hex}"
        try:
            self._write(part, self._text(state))
            os.replace(part, self.path(name, number))  # noqa: PTH105 - as `files` does
        finally:
            part.unlink(missing_ok=True)
        return max(self._numbers(name), default=number) == number

    def is_passed(self, name: str, number: int) -> bool:
        """Whether the next lease is there, or has been: whoever has one clears the last away. Raises `OSError`.

        Where somebody has removed the folder of all leases, others begin at 1 again: then the number may be another's.
        """
        if self.path(name, number + 1).exists():
            return True
        try:
            told = json.loads(self.path(name, number).read_bytes())
        except FileNotFoundError:
            return self.folder.is_dir()
        except ValueError:
            return True
        return not isinstance(told, dict) or told.get("token") != self.token

    # -- --

    def _numbers(self, name: str) -> list[int]:
        with os.scandir(self.folder) as entries:
            found = (entry.name.rpartition(".") for entry in entries)
            return [int(number) for before, _, number in found if before == name and number.isdecimal()]

    def _is_dead(self, name: str, seen: _Seen) -> bool:
        """Whether nobody renews it: by the server's clock for long, and unchanged since this process saw that first."""
        if self._age_s(seen) <= self.stale_s:
            self._watched.pop(name, None)
            return False
        mark, since_s = self._watched.setdefault(name, (seen.mark, self.clock()))
        if mark != seen.mark:
            del self._watched[name]
            return False
        return self.clock() - since_s >= self.looks_on_s

    def _age_s(self, seen: _Seen) -> float:
        """Seconds since it was renewed, by the clock of whoever keeps the files."""
        if self._probed is None or self.clock() - self._probed[0] > _PROBED * self.stale_s:
            probe = self.folder / f"{PART_PREFIX}{self.token}"
            try:
                self._write(probe, b"now")
                self._probed = self.clock(), probe.stat().st_mtime
            finally:
                probe.unlink(missing_ok=True)
        asked_s, answered_s = self._probed
        return answered_s + (self.clock() - asked_s) - seen.renewed_s

    def _text(self, state: str) -> bytes:
        told = {"state": state, "host": socket.gethostname(), "pid": os.getpid(), "token": self.token}
        return json.dumps({**told, "said": uuid4().hex}).encode()

    def _made(self, path: Path, data: bytes) -> bool:
        """Make a file that is not there, whole, as the only one who does; whether it was this process."""
        part = self.folder / f"{PART_PREFIX}{uuid4().hex}"
        try:
            self._write(part, data)
            try:
                os.link(part, path)
            except FileExistsError:  # a server may have made it, and its answer been lost
                return part.stat().st_nlink > 1
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return _made_without_links(path, data)
            return True
        finally:
            part.unlink(missing_ok=True)

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        with path.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())


def _made_without_links(path: Path, data: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


class Lease:
    """A lease that this process holds, renewed by a thread until it is released, or found to be another's."""

    def __init__(self, leases: Leases, name: str, number: int) -> None:
        self._leases, self.name, self._number = leases, name, number
        self._lock = threading.Lock()
        self._verified_s = leases.clock()
        self._over = threading.Event()
        self.is_lost = False
        self.is_doubtful = False
        """Whether nobody could say at some moment whose it is: the file server did not answer."""
        threading.Thread(target=self._keep, name="lease", daemon=True).start()

    def holds(self) -> bool:
        """Whether it is this process's at this moment: nobody can have taken what was renewed a moment ago.

        After a pause, the file server is asked first. Where that does not answer, nobody knows, and it does not hold.
        """
        if self.is_lost or self._over.is_set():
            return False
        try:
            if self._leases.clock() - self._verified_s < self._leases.stale_s / 2:
                if self._leases.is_passed(self.name, self._number):
                    self.is_lost = True
                return not self.is_lost
            return self._renew()
        except OSError:
            self.is_doubtful = True
            return False

    def check(self) -> None:
        """Raise `LeaseLostError` where it is another's by now, or nobody can say. For any thread."""
        if not self.holds():
            message = f"{self.name}: its lease could not be renewed in time, and another run may have taken it over"
            raise LeaseLostError(message)

    def release(self) -> None:
        """Let others have it. One that is lost stays theirs."""
        self._over.set()
        with self._lock, contextlib.suppress(OSError):
            if not self.is_lost:
                self._leases.renew(self.name, self._number, "free")

    def _renew(self) -> bool:
        with self._lock:
            if self._over.is_set() or self.is_lost:
                return False
            began_s = self._leases.clock()
            if self._leases.renew(self.name, self._number):
                self._verified_s = began_s
            else:
                self.is_lost = True
            return not self.is_lost

    def _keep(self) -> None:
        while not (self._over.wait(self._leases.stale_s / 6) or self.is_lost):
            with contextlib.suppress(OSError):  # the server may be back before it is stale
                self._renew()
