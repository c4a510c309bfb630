"""A packed store's place on the disk: a new store takes it, and whatever a crash left beside it is put right.

Where the system can exchange two names in one step (Linux, most file systems), there is a whole store in the place at
every moment. Elsewhere the old one steps aside first; a crash in between leaves two whole stores and an empty place,
and whoever looks for the store next puts one there. Knows names and folders, nothing of what a store is made of.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from contextlib import suppress
from pathlib import Path

from renderer.errors import DiskError, LockedError
from renderer.system import lock
from renderer.weights.headers import disk_error
from renderer.weights.index import INDEX

PROGRESS = "progress.json"
"""Of a store that is being made; the last thing that goes when it is in its place."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def part_of(target: Path) -> Path:
    """Where a store is made before it takes its place."""
    return target.with_name(f"{target.name}.part")


def old_of(target: Path) -> Path:
    """Where a store goes that another one has replaced, to be deleted."""
    return target.with_name(f"{target.name}.old")


def lock_of(target: Path) -> Path:
    """The lock of whoever makes a store."""
    return target.with_name(f".{target.name}.lock")


def put(target: Path) -> None:
    """Bring the whole store that was made into its place; one that was there goes, but not before.

    Call it with the lock held. Raises `DiskError`.
    """
    part, old = part_of(target), old_of(target)
    try:
        for folder in (part, *(path for path in part.iterdir() if path.is_dir())):
            _sync(folder)
        if target.exists():
            _delete(old)
            if _exchange(part, target):
                part.rename(old)
            else:
                target.rename(old)
                part.rename(target)
        else:
            part.rename(target)
        _sync(target.parent)
        (target / PROGRESS).unlink(missing_ok=True)
        _delete(old)
    except OSError as error:
        raise disk_error(target, error) from error


def recover(target: Path) -> None:
    """Put a store where none is, if a crash left one beside that place. Where somebody is at it, it is left to him."""
    if not _lacks(target):
        return
    with suppress(LockedError, DiskError, OSError), lock.held(lock_of(target)):
        _recover(target)


def settle(target: Path) -> None:
    """Put right what a crash left, and delete what is left over. Call it with the lock held. Raises `DiskError`."""
    try:
        _recover(target)
        for folder in leftovers(target):
            _delete(folder)
    except OSError as error:
        raise disk_error(target, error) from error


def sweep(target: Path) -> None:
    """Delete what a crash left beside a store. Where somebody makes one, it is left to him. Raises `DiskError`."""
    if leftovers(target):
        with suppress(LockedError), lock.held(lock_of(target)):
            settle(target)


def leftovers(target: Path) -> list[Path]:
    """What a crash left beside a store that is in its place, and nobody uses. What is being made is not among it."""
    old, part = old_of(target), part_of(target)
    found = [old] if old.is_dir() and not old.is_symlink() else []
    if _has_store(part) and not (part / PROGRESS).exists():  # it was exchanged for the store that is there
        found.append(part)
    return found if _has_store(target) else []


def _lacks(target: Path) -> bool:
    """Whether the place is empty because a crash left its store aside."""
    return not target.exists() and _has_store(old_of(target))


def _recover(target: Path) -> None:
    """The new one of the two, which was verified before the old one stepped aside."""
    if _lacks(target):
        (part_of(target) if _has_store(part_of(target)) else old_of(target)).rename(target)
        _sync(target.parent)
        (target / PROGRESS).unlink(missing_ok=True)


def _has_store(folder: Path) -> bool:
    return not folder.is_symlink() and (folder / INDEX).is_file()


def _delete(folder: Path) -> None:
    """Its index first: what is deleted by half is no store."""
    (folder / INDEX).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
