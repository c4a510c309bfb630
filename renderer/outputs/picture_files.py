"""Pictures and sidecars on disk: written whole or not at all, verified, swept up after dead runs.

The sidecar comes last, and is the mark that the picture is done. Knows jobs and sidecars; nothing of manifests, plans
or workers.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from PIL import Image
from pydantic import ValidationError

from renderer.errors import DiskError
from renderer.job import FileFacts, Format, Keep, Sidecar, Value
from renderer.outputs.encode import NO_LABELS, Labels, Pixels, encode
from renderer.outputs.folder import MAX_SIDECAR_BYTES, PICTURE_SUFFIXES, SIDECAR_SUFFIX, OutputFolder
from renderer.system import files
from renderer.system.files import PART_PREFIX, copy_whole, disk_error, link_whole, sync_folder, write_whole

_CHANGE_PREFIX = f"{PART_PREFIX}change-"


def sweep(folder: OutputFolder) -> int:
    """Put a folder in order after runs that died: temporary files go, and pictures on the way to another format.

    What those runs renamed and did not come to syncing is made to last. Links are not followed, and what cannot be
    looked into or removed is left. Says how many temporary files there were. Call it with the lock held.
    """
    parts = 0
    for place, _, names in os.walk(folder.path):
        for name in names:
            if name.startswith(PART_PREFIX):
                parts += 1
                _sweep_one(Path(place, name))
        with contextlib.suppress(OSError):
            sync_folder(Path(place))
    return parts


def _sweep_one(part: Path) -> None:
    with contextlib.suppress(OSError):
        if part.name.startswith(_CHANGE_PREFIX):
            _finish_change(part)
        part.unlink(missing_ok=True)


# ---- what is finished ------------------------------------------------------------------------------------------------


def read_sidecar(path: Path) -> Sidecar | None:
    """The sidecar at `path`; None when there is none, or when it is no sidecar of this version."""
    try:
        if path.stat().st_size > MAX_SIDECAR_BYTES:
            return None
        return Sidecar.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ValueError):
        return None


def write_sidecar(folder: OutputFolder, output: str, sidecar: Sidecar) -> None:
    """Write down what is known of the picture in its place, whole or not at all. Raises `DiskError`."""
    write_whole(folder.sidecar(output), sidecar.model_dump_json(indent=2).encode() + b"\n")


# ---- writing ---------------------------------------------------------------------------------------------------------


def save(
    folder: OutputFolder,
    output: str,
    pixels: Pixels,
    describe: Callable[[FileFacts, float], Sidecar],
    *,
    file_format: Format = "png",
    labels: Labels = NO_LABELS,
) -> Sidecar:
    """Write a picture, then its sidecar, each whole or not at all.

    `describe` makes the sidecar from the file's facts and the seconds that encoding and writing took. Old files of the
    same name stay until the new ones are whole; one of another format goes then. Raises `DiskError`.
    """
    began = time.monotonic()
    path = folder.picture(output, file_format)
    _stay_inside(folder.path, path)
    try:
        data = encode(pixels, file_format, labels)
    except (OSError, ValueError) as error:  # a side that the format has no number for
        hint = "" if file_format == "png" else "say format: png in the manifest"
        raise DiskError(f"cannot keep {path.name} as {file_format}: {error}", hint=hint) from error
    before = read_sidecar(folder.sidecar(output))
    changing = None
    if before is not None and before.keep.format != file_format:
        changing = _begin_change(path.parent, _Change(name=path.stem, formats=(before.keep.format, file_format)))
    write_whole(path, data)
    facts = FileFacts(
        name=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        width=pixels.width,
        height=pixels.height,
    )
    sidecar = describe(facts, time.monotonic() - began)
    write_sidecar(folder, output, sidecar)
    if changing is not None:
        _finish_change(changing)
    return sidecar


def carry(
    folder: OutputFolder,
    source: str,
    output: str,
    describe: Callable[[Sidecar], Sidecar],
    *,
    leaves: bool,
    into: OutputFolder | None = None,
) -> Sidecar:
    """Give a finished picture another output name, with a sidecar of its own; if it `leaves`, the old name goes then.

    It stays in its folder, or goes `into` another. Picture and sidecar are whole under one of the names at every
    moment. `describe` makes the new sidecar from the old.
    Raises `DiskError`.
    """
    told = read_sidecar(folder.sidecar(source))
    if told is None:
        raise DiskError(f"cannot read {folder.sidecar(source)}, which was there a moment ago")
    into = into or folder
    path = into.picture(output, told.keep.format)
    _stay_inside(into.path, path)
    before = read_sidecar(into.sidecar(output))
    changing = None
    if before is not None and before.keep.format != told.keep.format:
        changing = _begin_change(path.parent, _Change(name=path.stem, formats=(before.keep.format, told.keep.format)))
    old = folder.picture(source, told.keep.format)
    alias = _is_alias(old, path)
    if leaves and not alias:
        link_whole(old, path)
    elif not alias:
        copy_whole(old, path)
    named = told.model_copy(update={"file": told.file.model_copy(update={"name": path.name})})
    sidecar = describe(named)
    write_sidecar(into, output, sidecar)
    if changing is not None:
        _finish_change(changing)
    if leaves and not alias:
        remove(folder, source, told.keep.format)
    return sidecar


def _is_alias(one: Path, other: Path) -> bool:
    """Whether two names are one file's only name: where case tells nothing apart, or one's folder links to the other's.

    A file with a second link is none: there each name can go without the other.
    """
    try:
        return one.samefile(other) and one.stat().st_nlink == 1
    except OSError:
        return False


def remove(folder: OutputFolder, output: str, file_format: Format) -> None:
    """Remove a picture and then its sidecar, so that what is left of it is never a picture without one.

    Raises `DiskError`.
    """
    for path in (folder.picture(output, file_format), folder.sidecar(output)):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(path, error, doing="remove") from error
        files.reached("removed", path)
    if (parent := folder.picture(output).parent) not in (folder.path, folder.takes):  # another take may be coming there
        with contextlib.suppress(OSError):
            parent.rmdir()  # if it is empty now


def check_place(folder: OutputFolder, output: str, file_format: Format) -> None:
    """Raise `DiskError` where it is plain that a picture's files cannot be written, before it is rendered in vain."""
    for path in (folder.picture(output, file_format), folder.sidecar(output)):
        _stay_inside(folder.path, path)
        try:
            if stat.S_ISDIR(path.lstat().st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise disk_error(path, error) from error


class _Change(Value):
    """A picture's way from one format to another, noted beside it while it lasts: for then both files may be there."""

    name: str
    formats: tuple[Format, Format]


def _begin_change(folder: Path, change: _Change) -> Path:
    note = folder / f"{_CHANGE_PREFIX}{uuid4().hex}"
    write_whole(note, change.model_dump_json().encode())
    return note


def _finish_change(note: Path) -> None:
    """Remove, of the two files that a note tells of, the one that the sidecar does not; then the note."""
    with contextlib.suppress(OSError, ValueError):
        change = _Change.model_validate_json(note.read_bytes())
        kept = read_sidecar(note.with_name(f"{change.name}{SIDECAR_SUFFIX}"))
        for file_format in change.formats:
            if kept is not None and kept.keep.format != file_format and "/" not in change.name:
                note.with_name(f"{change.name}{PICTURE_SUFFIXES[file_format]}").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        note.unlink(missing_ok=True)


def rewrite(folder: OutputFolder, output: str, before: Sidecar, keep: Keep, labels: Labels) -> Sidecar:
    """Keep a finished picture another way, from the pixels in its file. Raises `DiskError`."""
    path = folder.picture(output, before.keep.format)
    try:
        with Image.open(path) as image:
            pixels = Pixels(image.width, image.height, image.convert("RGB").tobytes())
    except OSError as error:
        raise disk_error(path, error, doing="read") from error

    def describe(file: FileFacts, _save_s: float) -> Sidecar:
        return before.model_copy(update={"file": file, "keep": keep})

    return save(folder, output, pixels, describe, file_format=keep.format, labels=labels)


def _stay_inside(folder: Path, path: Path) -> None:
    """Refuse a path whose folder, links resolved, lies outside the output folder."""
    root = os.path.realpath(folder)
    if os.path.commonpath((root, os.path.realpath(path.parent))) != root:
        raise DiskError(
            f"{path} leads out of {folder} through a link", hint="remove the link, or change the manifest's output"
        )
