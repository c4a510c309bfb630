"""What stands between quotation marks in a prompt: the texts that a picture is to show.

An apostrophe is no quotation mark: a straight one or a closing one that stands between two letters never is, and an
inch mark behind a figure opens nothing.
"""

from __future__ import annotations

import re

MOST_TEXTS = 64
"""Texts of one picture that are looked for."""

_PAIRS = {
    '"': '"',
    "\N{LEFT DOUBLE QUOTATION MARK}": "\N{RIGHT DOUBLE QUOTATION MARK}",
    "\N{DOUBLE LOW-9 QUOTATION MARK}": "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}",
    "\N{LEFT SINGLE QUOTATION MARK}": "\N{RIGHT SINGLE QUOTATION MARK}",
    "\N{LEFT CORNER BRACKET}": "\N{RIGHT CORNER BRACKET}",
    "\N{LEFT WHITE CORNER BRACKET}": "\N{RIGHT WHITE CORNER BRACKET}",
    "\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}": "\N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK}",
    "\N{FULLWIDTH QUOTATION MARK}": "\N{FULLWIDTH QUOTATION MARK}",
}
_OPENS = re.compile("[" + re.escape("".join(_PAIRS)) + "]")


def quoted(prompt: str) -> tuple[str, ...]:
    """The texts between quotation marks, each once, in their order; a mark that nothing closes is none."""
    found: list[str] = []
    at = 0
    while opening := _OPENS.search(prompt, at):
        at = opening.end()
        if opening[0] == '"' and _is_inch(prompt, opening.start()):
            continue
        end = _close(prompt, at, _PAIRS[opening[0]])
        if end is None:
            continue
        text = " ".join(prompt[at:end].split())
        at = end + 1
        if text:
            found.append(text)
    return tuple(dict.fromkeys(found))[:MOST_TEXTS]


def _is_inch(prompt: str, at: int) -> bool:
    """Whether a mark stands behind a figure, and nothing but a space, an end or a stop behind it: 24" wide."""
    return prompt[at - 1 : at].isdigit() and not prompt[at + 1 : at + 2].strip(" ,.;)")


def _close(prompt: str, begin: int, marks: str) -> int | None:
    """Where a quotation ends that began before `begin`; a mark between two letters is an apostrophe."""
    for at in range(begin, len(prompt)):
        if prompt[at] in marks and not (
            prompt[at] == "\N{RIGHT SINGLE QUOTATION MARK}"
            and prompt[at - 1 : at].isalpha()
            and prompt[at + 1 : at + 2].isalpha()
        ):
            return at
    return None
