"""Where the pictures come from that are to be rendered. Today: a plan's, in their order, each once more after the rest.

Whoever gives pictures to workers asks a source for the next one that may begin, and gives back what could not. Pictures
are kept by their kind: whether one fits into the time that is left is asked once a kind, for a hundred thousand may
wait, and all of one size, steps and length of prompt take as long. Knows no workers and no clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from renderer.estimate import Work
from renderer.planning.pace import weight
from renderer.planning.plan import Planned

Fits = Callable[[Planned], bool]
"""Whether a picture may begin now."""

_Kind = tuple[Work, int]


class PictureSource(Protocol):
    """Pictures to be rendered with one setup: a plan's, or what comes in while others are rendered."""

    def __bool__(self) -> bool:
        """Whether more is to come."""

    @property
    def waiting(self) -> int:
        """How many have a turn now; counted no further than helps to share them out."""

    @property
    def waiting_work(self) -> float:
        """What these take beside one another (`pace.weight`)."""

    def first(self, fits: Fits | None = None) -> Planned | None:
        """The next picture whose turn may come, or the next that `fits`; it stays until it is taken. None: not now."""

    def take(self, item: Planned) -> bool:
        """It has a worker; False where it waits no more since its turn came."""

    def put_back(self, item: Planned) -> None:
        """Nothing has happened to it, or it takes another's part: it is the next one."""

    def try_again(self, items: Iterable[Planned]) -> None:
        """They failed, and are tried again when all others are through."""

    def join(self, items: Iterable[Planned]) -> None:
        """More is to be rendered, behind what waits: other takes of pictures that had one."""

    def next_round(self) -> bool:
        """All others are through: whether those have their turn now that are tried again."""

    def give_up(self) -> list[Planned]:
        """None of what is left will be rendered: what that is, in its order."""


class PlanSource:
    """Pictures of a plan, all known beforehand."""

    def __init__(self, items: Iterable[Planned] = ()) -> None:
        self._kinds: dict[_Kind, deque[tuple[int, Planned]]] = {}
        self._again: list[Planned] = []
        self._first = self._next = 0
        self.waiting, self.waiting_work = 0, 0.0
        self._append(items)

    def __bool__(self) -> bool:
        return bool(self._kinds or self._again)

    def __iter__(self) -> Iterator[Planned]:
        """All that have a turn in this round, in order."""
        return (item for _, item in sorted((each for line in self._kinds.values() for each in line), key=_turn))

    def first(self, fits: Fits | None = None) -> Planned | None:
        heads = [line[0] for line in self._kinds.values()]
        able = heads if fits is None else [head for head in heads if fits(head[1])]
        return min(able, key=_turn)[1] if able else None

    def take(self, item: Planned) -> bool:
        """It is the first of its kind."""
        kind = _kind(item)
        _, taken = self._kinds[kind].popleft()
        assert taken is item
        self.waiting -= 1
        self.waiting_work -= weight(item)
        if not self._kinds[kind]:
            del self._kinds[kind]
        return True

    def put_back(self, item: Planned) -> None:
        self._first -= 1
        self.waiting += 1
        self.waiting_work += weight(item)
        self._kinds.setdefault(_kind(item), deque()).appendleft((self._first, item))

    def try_again(self, items: Iterable[Planned]) -> None:
        self._again += items

    def join(self, items: Iterable[Planned]) -> None:
        self._append(items)

    def next_round(self) -> bool:
        if self._kinds or not self._again:
            return False
        self._append(self._again)
        self._again = []
        return True

    def give_up(self) -> list[Planned]:
        left = [*self, *self._again]
        self._kinds.clear()
        self._again.clear()
        self.waiting, self.waiting_work = 0, 0.0
        return left

    def _append(self, items: Iterable[Planned]) -> None:
        for item in items:
            self._kinds.setdefault(_kind(item), deque()).append((self._next, item))
            self._next += 1
            self.waiting += 1
            self.waiting_work += weight(item)


def _kind(item: Planned) -> _Kind:
    return Work.of(item.picture.job), item.picture.job.num_inference_steps


def _turn(waiting: tuple[int, Planned]) -> int:
    return waiting[0]
