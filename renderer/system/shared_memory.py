"""Memory that processes of one machine share: pieces, each filled once, by whoever comes first.

Whoever owns it makes a file without a name and holds it open; others open it by the owner's number. It has no place in
any folder, so nothing of it is left when the last of them is gone, however they end. A piece is full or it is empty:
who fills it holds a lock that the kernel takes back when that process dies, and the next begins it again. Knows nothing
of what lies in it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self
from uuid import uuid4

PIECE_ALIGNMENT = 2 * 2**20
"""Where pieces begin: at a multiple of every page size, so that each may be mapped, and pinned, alone."""

FILLING_PATIENCE_S = 120.0
"""How long a piece is waited for that another process fills. Longer than any disk takes; not as long as a night."""

_LOOK_EVERY_S = 0.005
_STATES_AT, _FULL = 64, b"\1"
_STRICT = "2"


class OtherContentsError(Exception):
    """What lies in the shared memory is not what this process is to find there."""


def is_possible() -> bool:
    """Whether this system has such memory, and does not end a process that is the first to touch a page of it.

    Where the kernel promises no more memory than it has (`vm.overcommit_memory` is 2), it may.
    """
    if not (hasattr(os, "memfd_create") and hasattr(fcntl, "F_OFD_SETLK") and Path("/proc/self/fd").is_dir()):
        return False
    with suppress(OSError):
        return Path("/proc/sys/vm/overcommit_memory").read_text(encoding="ascii").strip() != _STRICT
    return True


class SharedMemory:
    """An empty piece of shared memory, which lives until it is closed here and wherever it was opened."""

    def __init__(self, name: str) -> None:
        """`name` is shown in `/proc/PID/maps`, with a mark of its own behind it. Raises `OSError`."""
        self.name = f"{name}-{uuid4().hex}"
        self._descriptor = os.memfd_create(self.name, os.MFD_CLOEXEC)

    @property
    def path(self) -> str:
        """How other processes of this user open it."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


class Pieces:
    """The pieces of a shared memory, as a process sees them that fills and reads them. For several threads."""

    def __init__(self, path: str, name: str) -> None:
        """Raises `OSError` where it cannot be opened: its owner is gone, or on another machine.

        There, the path may be another file's: it has to have the `name`.
        """
        if not Path(path).readlink().name.startswith(f"memfd:{name}"):
            raise FileNotFoundError(errno.ENOENT, "no such memory on this machine", path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._places: list[int] = []

    @property
    def descriptor(self) -> int:
        """What pieces are mapped from."""
        return self._descriptor

    @property
    def is_begun(self) -> bool:
        """Whether somebody has laid out pieces in it."""
        return os.fstat(self._descriptor).st_size > 0

    @property
    def taken_bytes(self) -> int:
        """How much memory it takes already."""
        return os.fstat(self._descriptor).st_blocks * 512

    def lay_out(self, contents: bytes, sizes: Sequence[int]) -> Self:
        """Have pieces of these sizes; `contents` says what they are to hold, in any form.

        Raises `OtherContentsError` where others have been laid out, and `OSError`.
        """
        at = _up(_STATES_AT + len(sizes))
        for size in sizes:
            self._places.append(at)
            at += _up(size)
        told = hashlib.sha256(repr((contents, tuple(sizes))).encode()).digest()
        if not self._lock(0, self._until()):
            raise OSError(errno.EBUSY, "another process is laying it out and does not get on")
        try:
            there = os.pread(self._descriptor, len(told), 0)
            if not there.strip(b"\0"):
                os.ftruncate(self._descriptor, at)
                os.pwrite(self._descriptor, told, 0)
            elif there != told:
                raise OtherContentsError
        finally:
            self._unlock(0)
        return self

    def place(self, number: int) -> int:
        """Where in the memory a piece begins, in bytes."""
        return self._places[number]

    def have(self, number: int, fill: Callable[[], None]) -> bool:
        """Have a piece full, if need be by `fill`; False where another process is at it and does not get on.

        Raises what `fill` raises; the piece is empty then.
        """
        at = _STATES_AT + number
        if not self._lock(at, self._until()):
            return False
        try:
            if os.pread(self._descriptor, 1, at) != _FULL:
                fill()
                os.pwrite(self._descriptor, _FULL, at)
        finally:
            self._unlock(at)
        return True

    def close(self) -> None:
        """Let go of it; what is mapped stays so."""
        os.close(self._descriptor)

    @staticmethod
    def _until() -> float:
        return time.monotonic() + FILLING_PATIENCE_S

    def _lock(self, at: int, until_s: float) -> bool:
        """Hold a byte alone, of all that have opened this, as long as this process lives; whether it could be had."""
        while True:
            try:
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _asked(fcntl.F_WRLCK, at))
            except (BlockingIOError, PermissionError):
                if time.monotonic() > until_s:
                    return False
                time.sleep(_LOOK_EVERY_S)
            else:
                return True

    def _unlock(self, at: int) -> None:
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _asked(fcntl.F_UNLCK, at))


def _asked(kind: int, at: int) -> bytes:
    """The kernel's `struct flock` for one byte."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, at, 1, 0)


def _up(size: int) -> int:
    return -(-max(size, 1) // PIECE_ALIGNMENT) * PIECE_ALIGNMENT
