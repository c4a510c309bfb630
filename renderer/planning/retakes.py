"""How many takes a picture will have: from what became of earlier ones in its folder, and until there are any, a guess.

Reads no files; knows no seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from renderer.planning import takes
from renderer.planning.plan import Planned

GUESS = 0.1
"""The share of takes whose lettering is wrong, where nothing is known: more than the demo model's words of six to eight
letters have, 8 of 150 (docs/decisions.md), for what people letter is longer."""

_TAKES_OF_THE_GUESS = 4.0
"""It counts as much as so many takes that were read."""


@dataclass(slots=True)
class RetakeRate:
    """Of so many takes that were read, so many were wrong."""

    read: int = 0
    wrong: int = 0

    @classmethod
    def of(cls, items: Iterable[Planned]) -> RetakeRate:
        """Those that the sidecars of these pictures tell."""
        rate = cls()
        for item in items:
            told = item.sidecar.lettering if item.sidecar is not None else None
            if item.picture.lettering is None:
                continue
            for score in takes.scores(told) if told is not None else item.scores:
                rate.learn(wrong=takes.is_wrong(item.picture, score))
        return rate

    def learn(self, *, wrong: bool) -> None:
        """One more was read."""
        self.read += 1
        self.wrong += wrong

    @property
    def share(self) -> float:
        """How likely it is that one is wrong."""
        return (self.wrong + GUESS * _TAKES_OF_THE_GUESS) / (self.read + _TAKES_OF_THE_GUESS)

    def takes(self, most: int) -> float:
        """How many a picture is expected to have that may have so many."""
        return sum(self.share**number for number in range(most))
