"""`{{red|blue}}` in a text: one of them is drawn for each picture, also one within another.

A backslash before a choice makes text of it. Braces without a bar between them are none of this room's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from renderer.errors import RendererError, shorten
from renderer.manifest import draws, naming
from renderer.manifest.naming import Template

MOST_NESTED = 5
MOST_CHOICES = 500
"""In one text."""

_TOKEN = re.compile(r"\{\{|\}\}|\{\w+\}|\|")


class ChoiceError(RendererError):
    """A choice that does not end, has nothing to choose from, or is nested too deep."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Options, as texts with names and choices in them and as they were written."""

    options: tuple[Wording, ...]
    written: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wording:
    """A text with names in braces and choices."""

    pieces: tuple[Template | Choice, ...]

    @property
    def is_drawn(self) -> bool:
        """Whether there is a choice in it."""
        return any(isinstance(piece, Choice) for piece in self.pieces)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names it mentions, in any option."""
        found: dict[str, None] = {}
        for piece in self.pieces:
            for part in (piece,) if isinstance(piece, Template) else piece.options:
                found.update(dict.fromkeys(part.fields))
        return tuple(found)

    def fill(self, values: Mapping[str, str], key: str = "", drawn: list[str] | None = None) -> str:
        """The text with each name's value, and what is drawn of each choice; `drawn` takes the words of these."""
        text, number = [], 0
        for piece in self.pieces:
            if isinstance(piece, Template):
                text.append(piece.fill(values))
                continue
            here = draws.key_of(key, str(number))
            place = draws.pick(piece.written, here)
            text.append(piece.options[place].fill(values, draws.key_of(here, piece.written[place])))
            number += 1
            if drawn is not None:
                drawn.append(text[-1])
        return "".join(text)

    def measure(self, lengths: Mapping[str, int]) -> int:
        """How many characters `fill` would give at most."""
        return sum(
            piece.measure(lengths)
            if isinstance(piece, Template)
            else max(option.measure(lengths) for option in piece.options)
            for piece in self.pieces
        )

    def skeleton(self, values: Mapping[str, str]) -> str:
        """What stands around the choices."""
        return "".join(piece.fill(values) if isinstance(piece, Template) else "{{|}}" for piece in self.pieces)


def may_have(text: str) -> bool:
    """Whether there may be a choice in a text: in most there is none, which takes no time to see."""
    return "{{" in text and "|" in text


def parse(text: str, read: Callable[[str], Template]) -> Wording:
    """A text taken apart; `read` makes templates of what is no choice. Raises `ChoiceError`, and what `read` does."""
    if not may_have(text):
        return Wording((read(text),))
    found = _scan(text)
    if len(found) > MOST_CHOICES:
        raise ChoiceError(f"there are {len(found):,} choices", hint=f"at most {MOST_CHOICES:,}")
    if wrong := [each for each in found if not each.ends and not each.is_escaped]:
        begun = shorten(text[wrong[0].begins :], 40)
        hint = "write }} behind its last word; a backslash before {{ makes text of it"
        raise ChoiceError(f"the choice {begun} does not end", hint=hint)
    return _Builder(text, found, read).build()


@lru_cache(maxsize=4096)
def of_value(text: str) -> Wording:
    """A value that stays as it was written, but for its choices. Raises `ChoiceError`."""
    return parse(text, naming.literal)


def escape(text: str) -> str:
    """The text with a backslash before all that would be a choice, so that it is text again when it is read."""
    if not may_have(text):
        return text
    end, parts = 0, []
    for each in sorted(_scan(text), key=lambda found: found.begins):
        parts.append(text[end : each.begins] + "\\" * (each.slashes + 1))
        end = each.begins
    return "".join([*parts, text[end:]])


def as_text(text: str, *, filled: bool) -> str:
    """A text in which nothing is drawn or filled in when it is read; `filled`: names stand in braces there."""
    return escape(text.replace("{", "{{").replace("}", "}}") if filled else text)


# ---- where choices are -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Span:
    """From `{{` to behind `}}`, or to nowhere: 0. Before it stand so many backslashes."""

    begins: int
    slashes: int
    bars: list[int] = field(default_factory=list)
    ends: int = 0

    @property
    def is_escaped(self) -> bool:
        return self.slashes % 2 == 1


def _scan(text: str) -> list[_Span]:
    """All that has bars between its braces: choices, what is escaped, and what does not end."""
    found: list[_Span] = []
    still_open: list[_Span] = []
    for token in _TOKEN.finditer(text):
        if token[0] == "{{":
            before = text[: token.start()]
            still_open.append(_Span(token.start(), len(before) - len(before.rstrip("\\"))))
        elif token[0] == "|" and still_open:
            still_open[-1].bars.append(token.start())
        elif token[0] == "}}" and still_open:
            span = still_open.pop()
            if span.bars:
                span.ends = token.end()
                found.append(span)
    return found + [span for span in still_open if span.bars]


class _Builder:
    """Puts a text's choices together, the outer ones around the inner ones."""

    def __init__(self, text: str, found: list[_Span], read: Callable[[str], Template]) -> None:
        self._text = text
        self._read = read
        self._spans = sorted((span for span in found if not span.is_escaped), key=lambda span: span.begins)
        taken = ((span.begins - (span.slashes + 1) // 2, span.begins) for span in found)
        self._left_out = {place for begins, ends in taken for place in range(begins, ends)}

    def build(self) -> Wording:
        return self._wording(0, len(self._text), 0)

    def _wording(self, begins: int, ends: int, depth: int) -> Wording:
        pieces: list[Template | Choice] = []
        for span in self._outermost(begins, ends):
            pieces.append(self._plain(begins, span.begins))
            pieces.append(self._choice(span, depth + 1))
            begins = span.ends
        return Wording((*pieces, self._plain(begins, ends)))

    def _choice(self, span: _Span, depth: int) -> Choice:
        if depth > MOST_NESTED:
            raise ChoiceError(f"choices are nested more than {MOST_NESTED} deep", hint="leave some of the braces out")
        parts = list(zip([span.begins + 2, *(bar + 1 for bar in span.bars)], [*span.bars, span.ends - 2], strict=True))
        written = tuple(self._text[begins:ends] for begins, ends in parts)
        if not any(each.strip() for each in written):
            raise ChoiceError(f"{shorten(self._text[span.begins : span.ends], 40)} has nothing to choose from")
        return Choice(tuple(self._wording(begins, ends, depth) for begins, ends in parts), written)

    def _outermost(self, begins: int, ends: int) -> Iterator[_Span]:
        for span in self._spans:
            if begins <= span.begins and span.ends <= ends:
                yield span
                begins = span.ends

    def _plain(self, begins: int, ends: int) -> Template:
        if not self._left_out:
            return self._read(self._text[begins:ends])
        return self._read("".join(self._text[place] for place in range(begins, ends) if place not in self._left_out))
