"""EXIF: the few texts of it that tell how a picture was made. Knows nothing of what they mean.

The standard lets a comment be written in five ways, and writers disagree on each. Nothing is guessed here: every way in
which the bytes could be meant is given back, and whoever reads them tells which one makes sense.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from renderer.manifest.labels.told import MAX_TEXT

DESCRIPTION, MAKE, MODEL, EXIF_IFD, USER_COMMENT, XP_COMMENT = 0x010E, 0x010F, 0x0110, 0x8769, 0x9286, 0x9C9C
_TEXTS = frozenset({DESCRIPTION, MAKE, MODEL, USER_COMMENT, XP_COMMENT})
_TEXT_TYPES = frozenset({1, 2, 7, 129})
"""Bytes, ASCII, undefined, and Exif 3.0's UTF-8: each of them one byte an element."""

_LONG_TYPE = 4
_MAX_ENTRIES = 512
_ENTRY_BYTES = 12
_IN_PLACE_BYTES = 4
_CODE_BYTES = 8

_ANY = ("utf-8", "utf-16-be", "utf-16-le", "latin-1")
_ENCODINGS: Mapping[bytes, Sequence[str]] = {
    b"ASCII\0\0\0": ("utf-8", "latin-1", "utf-16-be", "utf-16-le"),
    b"JIS\0\0\0\0\0": ("iso2022_jp", "utf-8", "euc_jp", "shift_jis"),
    b"UNICODE\0": ("utf-8", "utf-16-be", "utf-16-le"),
    bytes(_CODE_BYTES): _ANY,
}
"""What may follow a comment's first eight bytes. Exif 3.0 writes UTF-8 after UNICODE, others UTF-16 in either order."""


@dataclass(frozen=True, slots=True)
class Exif:
    """`comments` are all ways to read the comments, the likeliest first; `tags` are plain texts by number."""

    comments: tuple[str, ...] = ()
    tags: Mapping[int, str] = field(default_factory=dict)


def read(data: bytes) -> Exif:
    """What EXIF's bytes hold, with or without their `Exif` in front. Damaged ones hold less, and never raise."""
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < _CODE_BYTES:
        return Exif()
    found, below = _directory(data, order, struct.unpack_from(f"{order}L", data, 4)[0])
    if below:
        found = {**found, **_directory(data, order, below)[0]}
    comments = dict.fromkeys(_meanings(found.get(USER_COMMENT, b"")))
    comments |= dict.fromkeys(_decode(found.get(XP_COMMENT, b""), ("utf-16-le",)))
    comments |= dict.fromkeys(_decode(found.get(DESCRIPTION, b""), _ANY))
    tags = {tag: text for tag in (MAKE, MODEL) for text in list(_decode(found.get(tag, b""), _ANY))[:1]}
    return Exif(tuple(comments), tags)


def _directory(data: bytes, order: str, at: int) -> tuple[dict[int, bytes], int]:
    """The texts of the directory at `at`, by tag, and where the one below it stands, or 0."""
    texts: dict[int, bytes] = {}
    below = 0
    if at + 2 > len(data):
        return texts, below
    (count,) = struct.unpack_from(f"{order}H", data, at)
    for number in range(min(count, _MAX_ENTRIES)):
        start = at + 2 + number * _ENTRY_BYTES
        if start + _ENTRY_BYTES > len(data):
            break
        tag, kind, length, value = struct.unpack_from(f"{order}HHLL", data, start)
        if tag == EXIF_IFD and kind == _LONG_TYPE:
            below = value
        elif tag in _TEXTS and kind in _TEXT_TYPES and length <= MAX_TEXT:
            first = start + _CODE_BYTES if length <= _IN_PLACE_BYTES else value
            texts.setdefault(tag, data[first : first + length])
    return texts, below


def _meanings(comment: bytes) -> Iterator[str]:
    """All that a comment can mean. Its first eight bytes say how the rest is written, or are text themselves."""
    encodings = _ENCODINGS.get(comment[:_CODE_BYTES])
    if encodings is not None:
        yield from _decode(comment[_CODE_BYTES:], encodings)
    yield from _decode(comment, _ANY)


def _decode(data: bytes, encodings: Sequence[str]) -> Iterator[str]:
    """A text in each encoding that it can have been written in. A mark of the order of bytes is no part of it."""
    for encoding in encodings:
        wide = encoding.startswith("utf-16")
        try:
            text = data.decode(encoding, "replace" if wide else "strict")
        except UnicodeDecodeError:
            continue
        if text := text.strip("\0").removeprefix("\ufeff"):
            yield text
