"""What was read in a picture, held against what it is to say."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from renderer.job.request import USUALLY_FORGIVEN, Forgiven
from renderer.job.value import Value

LetterShare = Annotated[float, Field(ge=0, le=1)]


class Box(Value):
    """Where a text stands, in pixels from the picture's upper left corner."""

    left: int
    top: int
    right: int
    bottom: int


class ReadLine(Value):
    """A line as the reader saw it, and how sure it was."""

    text: str
    confidence: LetterShare
    box: Box


class TextRead(Value):
    """One wanted text: what is nearest to it of what was read, where, and how near: 1 is the same."""

    text: str
    read: str
    score: LetterShare
    box: Box | None = None


class Take(Value):
    """One try of a picture that may be retaken."""

    seed: int
    score: LetterShare


class LetteringRead(Value):
    """What was wanted and what was read. `score` is that of the text that is least well there.

    `expected` is the least score that its job was to have when it was read; null where any would do, and in earlier
    versions' sidecars. `takes` are all tries of a picture that may be retaken, in their order; the sidecar's job says
    which was kept.
    """

    texts: tuple[TextRead, ...]
    lines: tuple[ReadLine, ...] = ()
    score: LetterShare
    expected: LetterShare | None = None
    forgives: tuple[Forgiven, ...] = USUALLY_FORGIVEN
    reader: str
    takes: tuple[Take, ...] = ()
