"""How much is to be done still of a batch, with the further takes that its pictures are expected to have.

Work is what `pace.weight` says. Knows no clock.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from renderer.planning import takes
from renderer.planning.pace import weight
from renderer.planning.plan import Planned
from renderer.planning.retakes import RetakeRate


@dataclass(slots=True)
class _Open:
    """A picture that is to come: how many takes it may have from here on, and whether the first of these is there."""

    most: int
    work: float
    is_rendered: bool = False


@dataclass(slots=True)
class WorkLeft:
    """A batch's. `rate` may learn while it is on its way.

    Invariant: `_by_takes` has the work of all open pictures by how many takes they may have, `_done` the part of it
    that is rendered and not read yet.
    """

    rate: RetakeRate = field(default_factory=RetakeRate)
    _open: dict[str, _Open] = field(default_factory=dict)
    _by_takes: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    _done: float = 0.0

    @property
    def total(self) -> float:
        """The work of all that is to come, as far as it is expected."""
        expected = sum(self.rate.takes(most) * work for most, work in self._by_takes.items())
        return max(0.0, expected - self._done)

    def comes(self, item: Planned) -> None:
        """A picture is to be rendered, or another take of it."""
        self.ends(item)
        found = self._open[item.picture.id] = _Open(takes.count_left(item.picture), weight(item))
        self._by_takes[found.most] += found.work

    def is_rendered(self, item: Planned) -> None:
        """One has been rendered; where it may be wrong, it is not through yet."""
        found = self._open.get(item.picture.id)
        if found is None or found.most == 1:
            self.ends(item)
        elif not found.is_rendered:
            found.is_rendered = True
            self._done += found.work

    def ends(self, item: Planned) -> None:
        """Nothing more of it will come."""
        found = self._open.pop(item.picture.id, None)
        if found is not None:
            self._by_takes[found.most] -= found.work
            self._done -= found.work if found.is_rendered else 0.0
