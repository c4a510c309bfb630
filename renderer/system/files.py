"""Files that last: written whole or not at all, and on the disk before anybody says so.

A file is written under a temporary name in its own folder, synced, and renamed; then the folder is synced, for the new
name stands in it, and so is every folder above it that this process has not seen to yet. What is not synced, a power
cut may lose, in any order: `tests/system/test_power.py` cuts everywhere. Whatever the system answers becomes a
`DiskError` in words. Whoever may lose a folder to others gives a guard, which is asked right before each write takes
place. Knows nothing of pictures.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal
from uuid import uuid4

from renderer.errors import DiskError, RendererError

PART_PREFIX = ".part-"
"""Of a file that is being written; what is left of one when its run dies begins with it."""

REMOVING_PREFIX = f"{PART_PREFIX}removing-"
"""Of a file on its way to be removed, where the folder may be another's by now: a mark and its own name follow."""

_MANY_OPEN = 65536

_NO_DISK = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),  # full, used up, read-only
        *(errno.ENODEV, errno.ENXIO, errno.ENOMEDIUM, errno.ESTALE),  # taken out, unmounted, its server forgot it
        *(errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT),  # its server is away
        *(errno.ENOMEM, errno.EMFILE, errno.ENFILE),  # nothing can be opened any more
    }
)
"""Errors after which the disk takes no file at all; any other is about the one path."""

_NO_SYNC = frozenset({errno.EINVAL, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EISDIR})
"""What file systems answer that cannot sync a folder: shares of virtual machines, some of FUSE, 9p and CIFS."""

_HINTS: Mapping[int, str] = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
    errno.EFBIG: "the file-size limit of this shell (ulimit -f) is too small for a picture",
    errno.EROFS: "the file system is read-only: choose another folder with --outputs",
    errno.EACCES: "change who owns the folder (chown), or choose another with --outputs",
    errno.EPERM: "the file or its folder is protected (chattr, another owner): choose another with --outputs",
    errno.EISDIR: "a folder stands in its place: move it away, or change the picture's id or the manifest's output",
    errno.ENOTDIR: "a file stands in the place of its folder: move it away, or change the manifest's output",
    errno.EEXIST: "a file stands in the place of its folder: move it away, or change the manifest's output",
    errno.ENAMETOOLONG: "this file system takes no name so long: give the picture a shorter id or output",
    errno.ELOOP: "a link leads back to itself: remove it",
    errno.EIO: "the disk reports a fault: look at dmesg, and at the disk",
    errno.ESTALE: "the server of this folder has forgotten it: mount it again",
    errno.ENOTCONN: "the server of this folder is away: mount it again",
    errno.EMFILE: "this process may open no more files: raise ulimit -n",
}

WriteGuard = Callable[[], None]
"""Asked right before a write takes place: raises where it is not to. For any thread."""


def no_guard() -> None:
    """The folder is the writer's own, whatever happens."""


WritePoint = Literal[
    "part-opened",
    "part-written",
    "part-synced",
    "renamed",
    "folder-synced",
    "line-ready",
    "journal-written",
    "linked",
    "removed",
]


def reached(_point: WritePoint, _path: Path) -> None:
    """Mark a point between two writes. Nothing happens here; the torture test replaces it and dies there."""


def write_whole(path: Path, data: bytes, *, lasting: bool = True, guard: WriteGuard = no_guard) -> None:
    """Write a file so that `path` holds its old bytes or all of the new ones, whatever happens.

    Without `lasting` nothing is synced: for what nobody needs after a power cut. Raises `DiskError`, and what `guard`
    raises; then nothing was written. It is asked when the part is whole: whoever takes the folder over sweeps parts
    away, so one who stops between the question and the renaming finds nothing to rename.
    """
    part = path.parent / f"{PART_PREFIX}{uuid4().hex}"
    with _writing(path, guard, part):
        make_folder(path.parent, lasting=lasting)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            reached("part-opened", path)
            _write_all(descriptor, data)
            reached("part-written", path)
            if lasting:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        reached("part-synced", path)
        guard()
        os.replace(part, path)  # noqa: PTH105 - as it is called everywhere here: the power cut's recorder listens
        reached("renamed", path)
        if lasting:
            sync_folder(path.parent)
        reached("folder-synced", path)


@contextlib.contextmanager
def _writing(path: Path, guard: WriteGuard, part: Path | None = None, doing: str = "write") -> Iterator[None]:
    """What the system answers in here becomes a `DiskError`, and no `part` stays.

    Where the folder is another's by now, that is the reason, and `guard` says it.
    """
    try:
        yield
    except BaseException as error:
        if part is not None:
            with contextlib.suppress(OSError):  # what is wrong is said, not that the part cannot be removed either
                part.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        guard()
        raise disk_error(path, error, doing=doing) from error


def allow_many_open() -> None:
    """Let this process have many files open, as far as it may: a night holds a lock for each of its folders."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_OPEN if hard == resource.RLIM_INFINITY else min(hard, _MANY_OPEN)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # the system has a limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def link_whole(source: Path, path: Path, guard: WriteGuard = no_guard) -> None:
    """Give a file a second name, whole or not at all; where the file system knows no such thing, a copy of it.

    What stood at `path` stands there until then. Raises as `write_whole`.
    """
    part = path.parent / f"{PART_PREFIX}{uuid4().hex}"
    with _writing(path, guard, part):
        make_folder(path.parent)
        linked = False
        if not source.is_symlink():  # it may lead nowhere from another folder
            with contextlib.suppress(OSError):
                os.link(source, part)
                linked = True
        if not linked:
            write_whole(path, source.read_bytes(), guard=guard)
            return
        reached("linked", path)
        guard()
        os.replace(part, path)  # noqa: PTH105
        reached("renamed", path)
        part.unlink(missing_ok=True)  # both names may have been one file's: then nothing was renamed
        sync_folder(path.parent)
        reached("folder-synced", path)


def copy_whole(source: Path, path: Path, guard: WriteGuard = no_guard) -> None:
    """Write a copy of a file, whole or not at all. Raises as `write_whole`."""
    with _writing(source, guard, doing="read"):
        data = source.read_bytes()
    write_whole(path, data, guard=guard)


def append_line(path: Path, line: bytes, guard: WriteGuard = no_guard) -> None:
    """Add a line to the end of a file and have it on the disk before returning. Raises as `write_whole`.

    Where the last run died in the middle of a line, this one stands on its own all the same. The file is open before
    `guard` is asked: whoever takes the folder over writes the file anew, and a line of one who stopped in between is
    the old file's.
    """
    with _writing(path, guard):
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            reached("line-ready", path)
            guard()
            _write_all(descriptor, b"\n" * torn + line + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if size == 0:
            sync_folder(path.parent)


def remove(path: Path, guard: WriteGuard = no_guard) -> None:
    """Remove a file, if it is there. Raises as `write_whole`."""
    with _writing(path, guard, doing="remove"):
        guard()
        if guard is no_guard:
            path.unlink(missing_ok=True)
        else:
            _remove_own(path, guard)
    reached("removed", path)


def _remove_own(path: Path, guard: WriteGuard) -> None:
    """Remove a file, and ask once more: who stops right before it, and wakes too late, puts back what is another's.

    What cannot be put back stays under the name that it was given, and the guard's error says so: whoever has the
    folder tries again (`put_back`).
    """
    part = path.with_name(f"{REMOVING_PREFIX}{uuid4().hex[:8]}-{path.name}")
    try:
        os.replace(path, part)  # noqa: PTH105
    except FileNotFoundError:
        return
    try:
        guard()
    except RendererError as lost:
        try:
            put_back(part)
        except OSError as error:
            reason = error.strerror or error
            lost.message += f"; {path} could not be put back, and lies as {part.name} beside its place: {reason}"
            lost.args = (lost.message,)
        raise
    part.unlink(missing_ok=True)


def put_back(part: Path) -> None:
    """Give a file that was on its way to be removed its name back, unless there is a newer one. Raises `OSError`."""
    path = part.with_name(part.name.removeprefix(REMOVING_PREFIX).partition("-")[2])
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    except FileNotFoundError:  # somebody else has put it back
        return
    except OSError:  # no file has two names there
        if not path.exists():
            os.replace(part, path)  # noqa: PTH105
            return
    part.unlink(missing_ok=True)


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all of it: a disk that is nearly full takes a part, and only the next call says why."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---- folders ---------------------------------------------------------------------------------------------------------

_lasting: set[Path] = set()
"""Folders whose own entry, and every one above it, this process has seen to the disk."""


def make_folder(path: Path, *, lasting: bool = True) -> None:
    """Make a folder and those above it, and see to it that their entries last. Raises `OSError`.

    Also where the folders are there already: a run that died may have made them and not come to syncing them. One file
    system is as far as it goes up, and each folder is seen to once.
    """
    whole = path.absolute()
    if whole in _lasting and whole.is_dir():
        return
    missing = [each for each in (whole, *whole.parents) if not each.is_dir()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
    _lasting.difference_update(missing)
    if not lasting:
        return
    for each in (whole, *whole.parents):
        if each in _lasting or each.is_mount():
            break
        sync_folder(each.parent)
    _lasting.update({whole, *whole.parents})


def sync_folder(path: Path) -> None:
    """Make names in a folder last: they stand in it, not in the files. Raises `OSError`.

    Where the file system knows no such thing, or this user may not look into the folder, there is nothing to be done.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def disk_error(path: Path, error: OSError, *, doing: str = "write", hints: Mapping[int, str] = _HINTS) -> DiskError:
    """What went wrong with a file or folder, in words that help; and whether anything else can still be written."""
    if (link := _broken_link(path)) is not None:
        message = f"cannot {doing} {path}: {link} is a link to {link.readlink()}, which is not there"
        return DiskError(message, hint="mount or make what it leads to, or remove the link", ends_the_night=True)
    message = f"cannot {doing} {path}: {error.strerror or error}"
    return DiskError(message, hint=hints.get(error.errno or 0, ""), ends_the_night=error.errno in _NO_DISK)


def _broken_link(path: Path) -> Path | None:
    """The folder above `path`, or itself, that is a link to nowhere."""
    with contextlib.suppress(OSError):
        return next((each for each in (path, *path.parents) if each.is_symlink() and not each.exists()), None)
    return None
