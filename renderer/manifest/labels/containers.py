"""A picture's file: the texts that stand in it, found by walking its chunks. No pixel is unpacked or even read.

So it takes a moment whatever the file's size, chunks after the pixels are found, and a file that was cut off within its
pixels still tells. PNG, JPEG and WebP. Knows nothing of what the texts mean.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from renderer.errors import UsageError, shorten
from renderer.manifest.labels import exif
from renderer.manifest.labels.told import COMMENT, MAX_TEXT, Texts, unescape
from renderer.outputs.encode import XMP_KEY

KEYS = frozenset({
    "renderer", "parameters", "prompt", "workflow", "Comment", "Description", "Software", "Source", "Dream",
    "sd-metadata", "invokeai_metadata",
})  # fmt: skip
"""The keys of PNG's texts that some reader asks for."""

_PROFILES = frozenset({"Raw profile type exif", "Raw profile type APP1"})
"""Where ImageMagick keeps EXIF in a PNG, in hexadecimal digits."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_MAX_CHUNKS = 50_000
"""A PNG of 400 MB has as many; what stands behind them is not looked for."""

_HEAD_BYTES = 8
"""Of a chunk in PNG and WebP: its length and its kind."""

_MAX_KEY_BYTES = 79
_ITXT_PARTS = 3
_MARK, _APP1, _COMMENT = 0xFF, 0xE1, 0xFE
_LAST_SEGMENTS = frozenset({0xD9, 0xDA})
"""JPEG's end, and its pixels."""

_BARE_MARKS = frozenset({0x01, *range(0xD0, 0xD9)})
"""Marks of JPEG's without a length."""

_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""The segments of JPEG's that say how large the picture is."""

_EXIF_SEGMENT, _XMP_SEGMENT = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(slots=True)
class Carried:
    """What stands in a picture's file: texts by key, all ways to read its comments, its XMP packet, its size.

    `troubles` say what could not be read.
    """

    texts: dict[str, str] = field(default_factory=dict)
    comments: dict[str, None] = field(default_factory=dict)
    xmp: str = ""
    width: int | None = None
    height: int | None = None
    troubles: list[str] = field(default_factory=list)

    def places(self) -> Iterator[Texts]:
        """The texts as readers take them: those with keys, then each comment by itself."""
        if self.texts:
            yield Texts(self.texts)
        for comment in self.comments:
            yield Texts({COMMENT: comment})


def look(path: Path) -> Carried:
    """What stands in a picture's file. Raises `UsageError` for what is no picture of a kind that is read."""
    try:
        if not path.exists():
            raise UsageError(f"there is no picture {path}")
        if not path.is_file():
            raise UsageError(f"{path} is no file", hint=f"{path}/*.png names pictures in a folder" * path.is_dir())
        with path.open("rb") as stream:
            found = _look(stream)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{path} cannot be read as a picture: {shorten(reason or 'an error')}") from error
    if found is None:
        raise UsageError(f"{path} cannot be read as a picture: it is no PNG, JPEG or WebP")
    return found


def _look(stream: BinaryIO) -> Carried | None:
    head = stream.read(24)
    found = Carried()
    if head.startswith(_PNG) and head[12:16] == b"IHDR":
        stream.seek(len(_PNG))
        _walk_png(stream, found)
    elif head.startswith(_JPEG):
        stream.seek(2)
        _walk_jpeg(stream, found)
    elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        stream.seek(12)
        _walk_webp(stream, found)
    else:
        return None
    found.comments |= dict.fromkeys(_xmp_comments(found.xmp))
    return found


# ---- PNG -------------------------------------------------------------------------------------------------------------


def _walk_png(stream: BinaryIO, found: Carried) -> None:
    seen: set[str] = set()
    for _ in range(_MAX_CHUNKS):
        head = stream.read(_HEAD_BYTES)
        if len(head) < _HEAD_BYTES or head[4:] == b"IEND":
            return
        length, kind = struct.unpack(">L4s", head)
        end = stream.tell() + length + 4
        if kind == b"IHDR":
            found.width, found.height = struct.unpack(">LL", stream.read(8).ljust(8, b"\0"))
        elif kind in {b"tEXt", b"zTXt", b"iTXt"}:
            _png_text(stream, kind, length, found, seen)
        elif kind == b"eXIf" and length <= MAX_TEXT and "eXIf" not in seen:
            seen.add("eXIf")
            _add_exif(stream.read(length), found)
        stream.seek(end)


def _png_text(stream: BinaryIO, kind: bytes, length: int, found: Carried, seen: set[str]) -> None:
    """Take over a chunk of text, if somebody asks for its key; the first of a key counts."""
    start = stream.read(min(length, _MAX_KEY_BYTES + 1))
    key = start.partition(b"\0")[0].decode("latin-1")
    if key in seen or key not in KEYS | _PROFILES | {XMP_KEY}:
        return
    seen.add(key)
    if length > MAX_TEXT:
        found.troubles.append(f'its label "{key}" takes more than {MAX_TEXT} bytes')
        return
    data = start + stream.read(length - len(start))
    checksum = stream.read(4)
    sound = len(data) == length and zlib.crc32(kind + data).to_bytes(4, "big") == checksum
    value = _unpack_text(kind, data[len(key) + 1 :]) if sound else None
    if value is None:
        found.troubles.append(f'its label "{key}" is damaged, or unpacks to more than {MAX_TEXT} bytes')
        return
    if key == XMP_KEY:
        found.xmp = value
    elif key in _PROFILES:
        digits = re.sub(r"\s", "", "".join(value.split("\n")[3:]))
        if len(digits) % 2 == 0 and re.fullmatch(r"[0-9a-fA-F]*", digits):
            _add_exif(bytes.fromhex(digits), found)
    else:
        found.texts[key] = value


def _unpack_text(kind: bytes, data: bytes) -> str | None:
    """The text of a chunk whose key was taken off; None where it is damaged or too large."""
    packed = kind == b"zTXt"
    if packed:
        data = data[1:]
    elif kind == b"iTXt":
        packed = data[:1] == b"\1"
        parts = data[2:].split(b"\0", 2)  # the language, the key in that language, the text
        data = parts[-1] if len(parts) == _ITXT_PARTS else b""
    try:
        if packed:
            data = zlib.decompressobj().decompress(data, MAX_TEXT + 1)
    except zlib.error:
        return None
    if len(data) > MAX_TEXT:
        return None
    try:
        return data.decode("utf-8")  # the standard says Latin-1 for some of them, and few writers know
    except UnicodeDecodeError:
        return data.decode("latin-1")


# ---- JPEG and WebP ---------------------------------------------------------------------------------------------------


def _walk_jpeg(stream: BinaryIO, found: Carried) -> None:
    comment = b""
    for _ in range(_MAX_CHUNKS):
        mark, kind = stream.read(2).ljust(2, b"\0")
        if mark != _MARK or kind in _LAST_SEGMENTS:
            break
        if kind == _MARK:  # a byte that fills up
            stream.seek(-1, os.SEEK_CUR)
            continue
        if kind in _BARE_MARKS:
            continue
        length = int.from_bytes(stream.read(2), "big") - 2
        if length < 0:
            break
        end = stream.tell() + length
        if kind == _APP1:
            segment = stream.read(length)
            if segment.startswith(_EXIF_SEGMENT):
                _add_exif(segment, found)
            elif segment.startswith(_XMP_SEGMENT) and not found.xmp:
                found.xmp = segment[len(_XMP_SEGMENT) :].decode("utf-8", "replace")
        elif kind == _COMMENT and not comment:
            comment = stream.read(length)
        elif kind in _FRAMES:
            _, found.height, found.width = struct.unpack(">BHH", stream.read(5).ljust(5, b"\0"))
        stream.seek(end)
    if comment:
        found.comments[comment.decode("utf-8", "replace").strip("\0")] = None


def _walk_webp(stream: BinaryIO, found: Carried) -> None:
    for _ in range(_MAX_CHUNKS):
        head = stream.read(_HEAD_BYTES)
        if len(head) < _HEAD_BYTES:
            return
        kind, length = struct.unpack("<4sL", head)
        end = stream.tell() + length + length % 2
        if kind in {b"EXIF", b"XMP "} and length > MAX_TEXT:
            found.troubles.append(f"its {kind.decode().strip()} takes more than {MAX_TEXT} bytes")
        elif kind == b"EXIF" and not found.comments:
            _add_exif(stream.read(length), found)
        elif kind == b"XMP " and not found.xmp:
            found.xmp = stream.read(length).decode("utf-8", "replace")
        elif kind == b"VP8X":
            sides = stream.read(10).ljust(10, b"\0")
            found.width = int.from_bytes(sides[4:7], "little") + 1
            found.height = int.from_bytes(sides[7:10], "little") + 1
        stream.seek(end)


# ---- what all of them hold -------------------------------------------------------------------------------------------


def _add_exif(data: bytes, found: Carried) -> None:
    """Take over EXIF's comments, and the two tags in which ComfyUI keeps what PNG keeps under keys."""
    told = exif.read(data)
    found.comments |= dict.fromkeys(told.comments)
    for text in told.tags.values():
        key, colon, value = text.partition(":")
        if colon and key.casefold() in {"prompt", "workflow"}:
            found.texts.setdefault(key.casefold(), value)


_XMP_COMMENT = re.compile(r"<exif:UserComment>(?:\s*+<rdf:Alt>\s*+<rdf:li[^<>]{0,200}+>)?([^<]++)<")


def _xmp_comments(xmp: str) -> Iterator[str]:
    found = _XMP_COMMENT.search(xmp)
    if found:
        yield unescape(found[1])
