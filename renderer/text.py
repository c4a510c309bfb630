"""Words for numbers, and lines that fit a terminal. Knows nothing of what they are about."""

from __future__ import annotations

import re
from collections.abc import Iterator

COLUMNS = 80
"""The width that texts are written for."""

MIB, GIB = 2**20, 2**30
_MB, _GB = 10**6, 10**9


def counted(number: int, noun: str) -> str:
    """1 picture, 2 pictures."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 20 s, 7 h 05 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


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


def cut(text: str, columns: int) -> str:
    """A text that takes at most so many columns of a terminal, Chinese letters taking two each."""
    from tqdm.utils import disp_len, disp_trim  # noqa: PLC0415  (slow to import, and only lists need it)

    if disp_len(text) <= columns:
        return text
    return f"{disp_trim(text, max(0, columns - 1))}…"


def wrap(text: str, indent: str) -> Iterator[str]:
    """A text in lines of at most 80 columns, whatever its own are; all but the first begin with `indent`."""
    from tqdm.utils import disp_len, disp_trim  # noqa: PLC0415

    text = re.sub(r"\s*[\r\n]\s*", " ", text)
    first, *rest = text.lstrip().split(" ")
    line = text[: len(text) - len(text.lstrip())] + first
    for word in [*rest, None]:
        while disp_len(line) > COLUMNS:  # a word that is wider, or letters without spaces between them
            part = disp_trim(line, COLUMNS)
            yield part
            line = indent + line[len(part) :]
        if word is None:
            yield line
        elif disp_len(f"{line} {word}") > COLUMNS:
            yield line
            line = indent + word
        else:
            line = f"{line} {word}"
