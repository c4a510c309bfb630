"""Words for numbers, and lines that fit a terminal. Knows nothing of what they are about."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal

COLUMNS = 80
"""The width that texts are written for."""

MIB, GIB = 2**20, 2**30
_MB, _GB = 10**6, 10**9


def installing(extra: str) -> str:
    """The command that installs an extra, from the checkout: a package of this name may be somebody else's."""
    return f".venv/bin/python -m pip install -c constraints.txt -e '.[{extra}]'"


def counted(number: int, noun: str) -> str:
    """1 picture, 2 pictures."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 20 s, 7 h 05 min. Fewer than none are none: a clock was put back."""
    seconds = max(0.0, seconds)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def decimal(number: float) -> str:
    """The shortest text that reads as exactly this number, without an exponent: 0.8, 1, 0.00001."""
    return format(Decimal(repr(number)), "f").removesuffix(".0")


def gib(count: int | None) -> str:
    """Bytes of memory in GiB (2^30), all in one unit; a question mark where they are not known."""
    return "?" if count is None else f"{count / GIB:.1f} GiB"


def amount(count: int) -> str:
    """Bytes of memory in GiB, small amounts in MiB."""
    return gib(count) if count >= GIB else f"{count / MIB:.0f} MiB"


def gb(count: int) -> str:
    """Bytes of files in GB (10^9), as disks and hubs count them; small amounts in MB or kB."""
    if count >= _GB // 10:
        return f"{count / _GB:.1f} GB"
    return f"{count / _MB:.1f} MB" if count >= _MB else f"{count / 1000:.0f} kB"


AMOUNT = r"[0-9]+(\.[0-9]+)?\s?([kKMGT]i?)?B"
"""Bytes as people write them, as a regular expression."""

_LONGEST_AMOUNT = 100
_FACTORS = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip


def bytes_in(text: str) -> int | None:
    """How many bytes a text like 10GiB, 512 MB or 100B says; None where it says none, or more than 2^63 - 1."""
    found = re.fullmatch(AMOUNT, text) if len(text) <= _LONGEST_AMOUNT else None
    if found is None:
        return None
    unit = found[2] or ""
    count = round(float(text.removesuffix("B").removesuffix(unit)) * _FACTORS[unit.replace("K", "k")])
    return count if 1 <= count < 2**63 else None


# ---- lines that fit --------------------------------------------------------------------------------------------------


def width(text: str) -> int:
    """How many columns of a terminal a text takes; Chinese letters take two each."""
    return len(text) if text.isascii() else sum(map(_width, text))


def cut(text: str, columns: int) -> str:
    """A text that takes at most so many columns of a terminal."""
    return text if width(text) <= columns else f"{_fitting(text, max(0, columns - 1))}…"


def _fitting(text: str, columns: int) -> str:
    """As much of a text's beginning as so many columns hold."""
    taken = 0
    for number, letter in enumerate(text):
        taken += _width(letter)
        if taken > columns:
            return text[:number]
    return text


def _width(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "FW" else 1


def wrap(text: str, indent: str) -> Iterator[str]:
    """A text in lines of at most 80 columns, whatever its own are; all but the first begin with `indent`."""
    text = re.sub(r"\s*[\r\n]\s*", " ", text)
    first, *rest = text.lstrip().split(" ")
    line = text[: len(text) - len(text.lstrip())] + first
    for word in [*rest, None]:
        while width(line) > COLUMNS:  # a word that is wider, or letters without spaces between them
            part = _fitting(line, COLUMNS)
            yield part
            line = indent + line[len(part) :]
        if word is None:
            yield line
        elif width(f"{line} {word}") > COLUMNS:
            yield line
            line = indent + word
        else:
            line = f"{line} {word}"
