"""Locks: of an output folder, one run at a time, and an answer for those who ask whether one is on; of a model's.

It is the system's own lock (flock) and ends with its process, however that ends; the file that carries it stays. Where
the file system has no such locks (NFS without its lock service, some of FUSE), a marker file that names process and
machine stands for it: one that a dead process of this machine left is passed over, one of another machine is not.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from renderer.errors import LockedError
from renderer.system.files import disk_error, make_folder

_PATIENCE_S = 0.2  # somebody who asks whether a run is on holds the lock for a blink
_POLL_S = 0.02
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""What flock answers on a file system that has no locks."""

Hold = Literal["held", "free", "unknown"]
"""Whether a run holds a folder; `unknown` where the lock may not be looked at."""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock at `path`; its folder is made. Raises `LockedError` when another run does, or `DiskError`."""
    with contextlib.ExitStack() as stack:
        try:
            make_folder(path.parent)
            descriptor = _open(path)
            stack.callback(os.close, descriptor)
            if not _lock(descriptor):
                raise _taken(path)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise disk_error(path, error, doing="lock") from error
            stack.enter_context(_marked(path))
        yield


@contextlib.contextmanager
def waited(path: Path, patience_s: float = math.inf) -> Iterator[None]:
    """Hold the lock at `path` as soon as whoever has it lets go; its folder is made. Raises `DiskError`.

    Raises `LockedError` where nobody lets go within `patience_s` seconds.
    """
    until = time.monotonic() + patience_s
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(held(path))
            except LockedError:
                if time.monotonic() > until:
                    raise
                continue  # `held` has waited for a while
            break
        yield


def look(path: Path) -> Hold:
    """Whether a run holds the lock at `path`. Asked by a lock that may be shared, so that askers do not see each other.

    Where no run is on, this is in the way of one that begins for as long as the question takes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return "free"
    except OSError:
        return "unknown"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "held"
    except OSError as error:
        return _look_at_marker(_marker(path)) if error.errno in _NO_LOCKS else "unknown"
    finally:
        os.close(descriptor)
    return "free"


def _open(path: Path) -> int:
    """The lock's file, made if need be. One that another user made and this one may only read carries a lock too."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _lock(descriptor: int) -> bool:
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_S)
        else:
            return True


def _taken(path: Path, *, marker: Path | None = None) -> LockedError:
    hint = "wait for it, or stop it with Ctrl-C; this run changed nothing"
    if marker is not None:
        hint = f"wait for it, or stop it; if no run is on, on no machine, remove {marker}"
    return LockedError(f"another run is rendering into {path.parent}", hint=hint)


# ---- where the file system has no locks ------------------------------------------------------------------------------


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")


@contextlib.contextmanager
def _marked(path: Path) -> Iterator[None]:
    from filelock import SoftFileLock, Timeout  # noqa: PLC0415 - few file systems need it, and every command would pay

    marker = _marker(path)
    lock = SoftFileLock(marker)
    try:
        lock.acquire(timeout=_PATIENCE_S, poll_interval=_POLL_S)
    except Timeout:
        raise _taken(path, marker=marker) from None
    except OSError as error:
        raise disk_error(marker, error, doing="lock") from error
    try:
        yield
    finally:
        lock.release()


def _look_at_marker(marker: Path) -> Hold:
    """Whether the process that a marker names lives, which filelock knows how to find out."""
    from filelock import SoftFileLock, Timeout  # noqa: PLC0415 - as above

    if not marker.exists():
        return "free"
    try:
        SoftFileLock(marker).acquire(timeout=0).lock.release()
    except Timeout:
        return "held"
    except OSError:
        return "unknown"
    return "free"
