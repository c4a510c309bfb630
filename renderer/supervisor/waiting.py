"""Pictures that wait for their turn, by their kind: whether one fits into the time that is left is asked once a kind.

A hundred thousand may wait, and all of one size, steps and length of prompt take as long. Knows no clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from renderer.estimate import Work
from renderer.planning.plan import Planned

_Kind = tuple[Work, int]


class Waiting:
    """Pictures in the order of their turns."""

    def __init__(self, items: Iterable[Planned] = ()) -> None:
        self._kinds: dict[_Kind, deque[tuple[int, Planned]]] = {}
        self._first = self._next = 0
        for item in items:
            self.append(item)

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def __iter__(self) -> Iterator[Planned]:
        """All of them, in order."""
        return (item for _, item in sorted((each for line in self._kinds.values() for each in line), key=_turn))

    def append(self, item: Planned) -> None:
        """Put one behind the others."""
        self._kinds.setdefault(_kind(item), deque()).append((self._next, item))
        self._next += 1

    def put_back(self, item: Planned) -> None:
        """Put one before the others."""
        self._first -= 1
        self._kinds.setdefault(_kind(item), deque()).appendleft((self._first, item))

    def first(self, fits: Callable[[Planned], bool] | None = None) -> Planned | None:
        """The first one, or the first of a kind that `fits`."""
        heads = [line[0] for line in self._kinds.values()]
        able = heads if fits is None else [head for head in heads if fits(head[1])]
        return min(able, key=_turn)[1] if able else None

    def take(self, item: Planned) -> None:
        """Take out one that is the first of its kind."""
        kind = _kind(item)
        _, taken = self._kinds[kind].popleft()
        assert taken is item
        if not self._kinds[kind]:
            del self._kinds[kind]

    def clear(self) -> None:
        self._kinds.clear()


def _kind(item: Planned) -> _Kind:
    return Work.of(item.picture.job), item.picture.job.num_inference_steps


def _turn(waiting: tuple[int, Planned]) -> int:
    return waiting[0]
