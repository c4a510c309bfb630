"""How near what was read in a picture is to what was wanted: a share from 0 to 1, of edits in texts that are forgiven.

A text is looked for among all runs of words, in one line or in several that stand one after the other, for a reader may
see it either way. What else is written in a picture is not held against it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from renderer.job import Box, Forgiven, Lettering, LetteringRead, ReadLine, TextRead

_MOST_LINES = 200
_MOST_WANTED, _MOST_READ = 500, 2_000
"""Characters that are compared: a picture full of letters costs a bounded time."""

_EDIT = 2**16
"""What an edit counts, beside where a run begins: more than any place in what is compared."""

_EASTERN = 0x2E80
"""From here on scripts set no spaces between words: a text may begin anywhere in a line."""


@dataclass(frozen=True, slots=True)
class _Word:
    """A word as it was read, as it is compared, and the line that it stands in."""

    read: str
    plain: str
    line: ReadLine


def compare(lettering: Lettering, lines: Sequence[ReadLine], reader: str) -> LetteringRead:
    """What of the wanted texts is there."""
    seen = tuple(lines[:_MOST_LINES])
    words = [
        _Word(word, _plain(word, lettering.forgives), line)
        for line in seen
        for word in (line.text.split() or [line.text])
    ]
    texts = tuple(_find(text, words, lettering.forgives) for text in lettering.texts)
    return LetteringRead(
        texts=texts,
        lines=seen,
        score=min((each.score for each in texts), default=1.0),
        forgives=lettering.forgives,
        reader=reader,
    )


def _plain(text: str, forgives: Sequence[Forgiven]) -> str:
    """A text without what makes no difference. Wide and narrow forms of a letter never do."""
    plain = unicodedata.normalize("NFKC", text)
    if "case" in forgives:
        plain = plain.casefold()
    if "punctuation" in forgives:
        plain = "".join(letter for letter in plain if not unicodedata.category(letter).startswith("P"))
    return "".join(plain.split()) if "spaces" in forgives else " ".join(plain.split())


def _find(text: str, words: Sequence[_Word], forgives: Sequence[Forgiven]) -> TextRead:
    wanted = _plain(text, forgives)[:_MOST_WANTED]
    if not wanted:  # nothing but what is forgiven
        return TextRead(text=text, read="", score=1.0)
    page = _Page.of(words, "" if "spaces" in forgives else " ", _is_eastern(wanted))
    edits, begin, end = page.nearest(wanted)
    run = page.words[page.owners[begin] : page.owners[end - 1] + 1] if begin < end else ()
    if not run or edits >= len(wanted):
        return TextRead(text=text, read="", score=0.0)
    score = 1 - edits / len(wanted)
    return TextRead(text=text, read=" ".join(word.read for word in run), score=score, box=_around(run))


def _is_eastern(text: str) -> bool:
    return any(ord(letter) >= _EASTERN for letter in text)


@dataclass(frozen=True, slots=True)
class _Page:
    """All words as one text: where a run may begin and end in it, and whose each letter is."""

    words: Sequence[_Word]
    text: str
    owners: Sequence[int]
    begins: frozenset[int]
    ends: frozenset[int]

    @classmethod
    def of(cls, words: Sequence[_Word], between: str, anywhere: bool) -> _Page:  # noqa: FBT001
        """`anywhere`: a run may begin and end within a word."""
        text, owners, begins, ends = "", list[int](), set[int](), set[int]()
        for number, word in enumerate(words):
            if not word.plain:
                continue
            text += between if text else ""
            owners += [number] * (len(text) - len(owners))
            begins.add(len(text))
            text += word.plain
            owners += [number] * len(word.plain)
            ends.add(len(text))
            if len(text) > _MOST_READ:
                break
        if anywhere:
            begins, ends = set(range(len(text))), set(range(1, len(text) + 1))
        return cls(words, text, owners, frozenset(begins), frozenset(ends))

    def nearest(self, wanted: str) -> tuple[int, int, int]:
        """The run that is nearest to a text: its edits (letters put in, left out or changed), its begin and its end.

        Levenshtein's table, of which a row is kept; a run may begin at each of its beginnings for nothing. Edits and
        begin are one number, of which the least has the fewest edits, and of those the shortest run to a place.
        """
        import numpy as np  # noqa: PLC0415  # a third of a second, and most runs read nothing

        if not self.ends:
            return len(wanted), 0, 0
        places = np.arange(len(self.text) + 1)
        letters = np.array([ord(letter) for letter in self.text])
        least = np.array([-at if at in self.begins else at * _EDIT for at in places.tolist()])
        for number, letter in enumerate(("", *wanted)):
            if letter:
                kept, left_out = least[:-1] + _EDIT * (letters != ord(letter)), least[1:] + _EDIT
                least = np.concatenate(([number * _EDIT], np.minimum(kept, left_out)))
            # Letters of the page that are passed over cost an edit each.
            least = np.minimum.accumulate(least - _EDIT * places) + _EDIT * places
        edits = -(-least // _EDIT)
        return min((int(edits[at]), int(edits[at] * _EDIT - least[at]), at) for at in self.ends)


def _around(run: Sequence[_Word]) -> Box:
    boxes = [word.line.box for word in run]
    return Box(
        left=min(box.left for box in boxes),
        top=min(box.top for box in boxes),
        right=max(box.right for box in boxes),
        bottom=max(box.bottom for box in boxes),
    )
