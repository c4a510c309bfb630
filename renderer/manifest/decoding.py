"""A file's bytes to text: UTF-8 alone, no more than is allowed, and no character that cheats a reader or an eye.

Knows nothing of YAML or JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from renderer.errors import Problem

MAX_BYTES = 2**26

_FORBIDDEN = "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
"""What YAML 1.2 does not print, and what YAML 1.1 readers take for line breaks or marks inside a text."""

_BLANKS = str.maketrans("", "", "\t\n\r")
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def decode(data: bytes, file: str) -> tuple[str, list[Problem]]:
    """The text of a file, and what is wrong with it: then nothing else of it can be read."""
    if len(data) > MAX_BYTES:
        return "", [Problem(file, 1, 1, "", f"the file has more than {MAX_BYTES // 2**20} MiB", "split it")]
    if data.startswith(_OTHER_ENCODINGS):
        return "", [Problem(file, 1, 1, "", "the file is UTF-16 or UTF-32", "save it as UTF-8")]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _locate(data[: error.start].decode("utf-8", "replace"))
        message = f"the byte 0x{data[error.start]:02X} is not UTF-8"
        return "", [Problem(file, line, column, "", message, "save the file as UTF-8")]
    if not text.strip():
        return "", [Problem(file, 1, 1, "", "the file is empty")]
    return text, [_refuse_character(text, found, file) for found in islice(forbidden(text), 10)]


def forbidden(text: str) -> Iterator[re.Match[str]]:
    """The characters of a text that no manifest may hold. Text of ASCII, which most is, takes next to no time."""
    if text.isascii() and text.translate(_BLANKS).isprintable():
        return iter(())
    return re.finditer(_FORBIDDEN, text)


def _refuse_character(text: str, found: re.Match[str], file: str) -> Problem:
    line, column = _locate(text[: found.start()])
    return Problem(file, line, column, "", f"the character U+{ord(found[0]):04X} is not allowed")


def _locate(before: str) -> tuple[int, int]:
    lines, column = count_lines(before)
    return lines + 1, column + 1


def count_lines(text: str) -> tuple[int, int]:
    """How many line breaks a text has, each of LF, CR LF or CR, and how many letters follow the last one."""
    breaks = text.count("\n") + text.count("\r") - text.count("\r\n")
    return breaks, len(text) - max(text.rfind("\n"), text.rfind("\r")) - 1
