"""Pictures and sidecars on disk: written whole or not at all, verified, swept up after dead runs; the folder's lock.

A file is written under a temporary name in its own folder, synced, and renamed; the sidecar comes last, and is the mark
that the picture is done. Knows jobs and sidecars; nothing of manifests, plans or workers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import uuid4

from filelock import FileLock, Timeout
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import ValidationError

from renderer.errors import DiskError, LockedError
from renderer.job import FileFacts, Format, Keep, Sidecar, Value

PICTURE_SUFFIXES: Mapping[Format, str] = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
SIDECAR_SUFFIX = ".json"
PART_PREFIX = ".part-"
_CHANGE_PREFIX = f"{PART_PREFIX}change-"
_LOCK_NAME = ".lock"
_LOCK_PATIENCE_S = 0.2  # somebody who asks whether a run is on holds the lock for a blink
_PNG_COMPRESSION = 4  # zlib level 4 is three times as fast as 6 on photographs, and 2 % larger
_WEBP_EFFORT = 2  # of 6; the higher ones take seconds a picture, and save 3 %
_JPEG_QUALITY = 95
_JPEG_SEGMENT_BYTES = 65_000  # JPEG keeps metadata in segments of at most 64 KiB
_MAX_SIDECAR_BYTES = 2**20
_NO_DISK = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),  # full, used up, read-only
        *(errno.ENODEV, errno.ENXIO, errno.ENOMEDIUM, errno.ESTALE),  # taken out, unmounted, its server forgot it
        *(errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT),  # its server is away
        *(errno.ENOMEM, errno.EMFILE, errno.ENFILE),  # nothing can be opened any more
    }
)
"""Errors after which the disk takes no file at all; any other is about the one path."""

XMP_KEY = "XML:com.adobe.xmp"
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286

WritePoint = Literal["part-opened", "part-written", "part-synced", "renamed", "folder-synced", "journal-written"]


def reached(_point: WritePoint, _path: Path) -> None:
    """Mark a point between two writes. Nothing happens here; the torture test replaces it and dies there."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """A rendered picture: `height * width * 3` bytes of RGB, row by row."""

    width: int
    height: int
    rgb: bytes


@dataclass(frozen=True, slots=True)
class Labels:
    """What a picture's file says of itself: text keys for PNG, a comment for EXIF, and an XMP packet; all may be empty.

    What they mean is `metadata`'s business; here they are put where each format has room for them.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    comment: str = ""
    xmp: str = ""


NO_LABELS = Labels()


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """The folder of one manifest's pictures, `outputs/<name>`."""

    path: Path

    def picture(self, output: str, file_format: Format = "png") -> Path:
        return self.path / f"{output}{PICTURE_SUFFIXES[file_format]}"

    def sidecar(self, output: str) -> Path:
        return self.path / f"{output}{SIDECAR_SUFFIX}"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one run. Raises `LockedError` at once when another run holds it.

        The lock is the system's own and ends with the process, however it ends; the file that carries it may stay.
        """
        _make_folder(self.path)
        lock = FileLock(self.path / _LOCK_NAME)
        try:
            lock.acquire(timeout=_LOCK_PATIENCE_S, poll_interval=0.02)
        except Timeout:
            message = f"another run is rendering into {self.path}"
            raise LockedError(message, hint="wait for it, or stop it with Ctrl-C; this run changed nothing") from None
        try:
            yield
        finally:
            lock.release()

    def is_locked(self) -> bool:
        """Whether a run holds the folder now. Asked by a lock that may be shared, so that askers do not see each other.

        Where no run is on, this is in the way of one that begins for as long as the question takes.
        """
        try:
            descriptor = os.open(self.path / _LOCK_NAME, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def sweep(self) -> int:
        """Remove what dead runs left: temporary files, and pictures on the way from one format to another.

        Says how many temporary files there were. Call it with the lock held.
        """
        parts = list(self.path.rglob(f"{PART_PREFIX}*"))
        for part in parts:
            if part.name.startswith(_CHANGE_PREFIX):
                _finish_change(part)
            part.unlink(missing_ok=True)
        return len(parts)


# ---- what is finished ------------------------------------------------------------------------------------------------


def read_sidecar(path: Path) -> Sidecar | None:
    """The sidecar at `path`; None when there is none, or when it is no sidecar of this version."""
    try:
        if path.stat().st_size > _MAX_SIDECAR_BYTES:
            return None
        return Sidecar.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ValueError):
        return None


def finished(
    folder: OutputFolder, output: str, fingerprint: str, *, thorough: bool, keep: Keep | None = None
) -> Sidecar | None:
    """The sidecar of a picture that is done: same fingerprint, kept the same way, and the file is what it says.

    `keep` of None takes every way of keeping.

    `thorough` compares the file's SHA-256; otherwise its size has to do, which is enough to say what is there but not
    to skip it.
    """
    sidecar = read_sidecar(folder.sidecar(output))
    if sidecar is None or sidecar.fingerprint != fingerprint or (keep is not None and sidecar.keep != keep):
        return None
    picture = folder.picture(output, sidecar.keep.format)
    try:
        if picture.stat().st_size != sidecar.file.bytes:
            return None
        if thorough and sha256_of(picture) != sidecar.file.sha256:
            return None
    except OSError:
        return None
    return sidecar


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---- writing ---------------------------------------------------------------------------------------------------------


def encode(pixels: Pixels, file_format: Format = "png", labels: Labels = NO_LABELS) -> bytes:
    """The picture as a file's bytes: the same for the same pixels and labels, always.

    PNG text that is not ASCII becomes iTXt, which is UTF-8. A label too long for JPEG's segments is left out.
    """
    image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.rgb)
    buffer = io.BytesIO()
    if file_format == "png":
        image.save(buffer, "PNG", compress_level=_PNG_COMPRESSION, pnginfo=_png_chunks(labels))
        return buffer.getvalue()
    limit = _JPEG_SEGMENT_BYTES if file_format == "jpeg" else None
    parts = {"exif": _exif(labels.comment), "xmp": labels.xmp.encode()}
    written = {name: part for name, part in parts.items() if part and (limit is None or len(part) <= limit)}
    if file_format == "webp":
        image.save(buffer, "WEBP", lossless=True, exact=True, method=_WEBP_EFFORT, **written)
    else:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0, **written)
    return buffer.getvalue()


def _png_chunks(labels: Labels) -> PngInfo:
    chunks = PngInfo()
    if labels.xmp:
        chunks.add_itxt(XMP_KEY, labels.xmp)
    for key, text in labels.texts.items():
        if text.isascii():
            chunks.add_text(key, text)
        else:
            chunks.add_itxt(key, text)
    return chunks


def _exif(comment: str) -> bytes:
    """EXIF with one UserComment, big-endian and of type "undefined": Pillow writes another type, which is not read."""
    if not comment:
        return b""
    text = b"UNICODE\0" + comment.encode("utf-16-be")
    first = struct.pack(">HHHLLL", 1, EXIF_IFD, 4, 1, 26, 0)  # one entry, a long: where the next directory stands
    second = struct.pack(">HHHLLL", 1, USER_COMMENT, 7, len(text), 44, 0)  # one entry, bytes: how many, and where
    return b"Exif\0\0MM\0\x2a\0\0\0\x08" + first + second + text


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
    before = read_sidecar(folder.sidecar(output))
    changing = None
    if before is not None and before.keep.format != file_format:
        changing = _begin_change(path.parent, _Change(name=path.stem, formats=(before.keep.format, file_format)))
    data = encode(pixels, file_format, labels)
    write_whole(path, data)
    facts = FileFacts(
        name=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        width=pixels.width,
        height=pixels.height,
    )
    sidecar = describe(facts, time.monotonic() - began)
    write_whole(folder.sidecar(output), sidecar.model_dump_json(indent=2).encode() + b"\n")
    if changing is not None:
        _finish_change(changing)
    return sidecar


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
    note.unlink(missing_ok=True)


def rewrite(folder: OutputFolder, output: str, before: Sidecar, keep: Keep, labels: Labels) -> Sidecar:
    """Keep a finished picture another way, from the pixels in its file. Raises `DiskError`."""
    with Image.open(folder.picture(output, before.keep.format)) as image:
        pixels = Pixels(image.width, image.height, image.convert("RGB").tobytes())

    def describe(file: FileFacts, _save_s: float) -> Sidecar:
        return before.model_copy(update={"file": file, "keep": keep})

    return save(folder, output, pixels, describe, file_format=keep.format, labels=labels)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that `path` holds its old bytes or all of the new ones, whatever happens. Raises `DiskError`."""
    part = path.parent / f"{PART_PREFIX}{uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as stream:
            reached("part-opened", path)
            stream.write(data)
            reached("part-written", path)
            stream.flush()
            os.fsync(stream.fileno())
        reached("part-synced", path)
        part.replace(path)
        reached("renamed", path)
        _sync_folder(path.parent)
        reached("folder-synced", path)
    except OSError as error:
        with contextlib.suppress(OSError):  # what is wrong is said, not that the part cannot be removed either
            part.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def disk_error(path: Path, error: OSError) -> DiskError:
    """What went wrong with a file, in words that help."""
    hints = {
        errno.ENOSPC: "the disk is full: free some space and run the same command again",
        errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
        errno.EFBIG: "the file-size limit of this shell (ulimit -f) is too small for a picture",
        errno.EROFS: "the file system is read-only: choose another folder with --outputs",
        errno.EACCES: "this user may not write there: change the folder's owner, or choose another with --outputs",
        errno.EISDIR: "a folder stands in its place: move it away, or change the picture's id or the manifest's output",
        errno.ENOTDIR: "a file stands in the place of its folder: move it away, or change the manifest's output",
        errno.EEXIST: "a file stands in the place of its folder: move it away, or change the manifest's output",
        errno.ENAMETOOLONG: "this file system takes no name so long: give the picture a shorter id or output",
    }
    message = f"cannot write {path}: {error.strerror or error}"
    return DiskError(message, hint=hints.get(error.errno or 0, ""), ends_the_night=error.errno in _NO_DISK)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(path, error) from error


def _stay_inside(folder: Path, path: Path) -> None:
    """Refuse a path whose folder, links resolved, lies outside the output folder."""
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise DiskError(
            f"{path} leads out of {folder} through a link", hint="remove the link, or change the manifest's output"
        )


def _sync_folder(path: Path) -> None:
    """Make a rename last: the folder's own entry has to reach the disk too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
