"""Pictures that wait, all known beforehand: in their order, each once more after the rest where it failed.

They are kept by their kind: whether one fits into the time that is left is asked once a kind, for a hundred thousand
may wait, and all of one size, steps and length of prompt take as long. Knows no workers and no clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic

from renderer.dealing.parties import Fits, ItemT


class WaitingLines(Generic[ItemT]):
    """A line for each kind of picture."""

    def __init__(
        self, items: Iterable[ItemT], kind: Callable[[ItemT], Hashable], work: Callable[[ItemT], float]
    ) -> None:
        """`kind` is what pictures have in common that take as long, `work` what one takes beside others."""
        self._kind, self._work = kind, work
        self._kinds: dict[Hashable, deque[tuple[int, ItemT]]] = {}
        self._again: list[ItemT] = []
        self._first = self._next = 0
        self.waiting, self.waiting_work = 0, 0.0
        self._append(items)

    def __bool__(self) -> bool:
        return bool(self._kinds or self._again)

    def __iter__(self) -> Iterator[ItemT]:
        """All that have a turn in this round, in order."""
        return (item for _, item in sorted((each for line in self._kinds.values() for each in line), key=_turn))

    def first(self, fits: Fits[ItemT] | None = None) -> ItemT | None:
        heads = [line[0] for line in self._kinds.values()]
        able = heads if fits is None else [head for head in heads if fits(head[1])]
        return min(able, key=_turn)[1] if able else None

    def take(self, item: ItemT) -> bool:
        """It is the first of its kind."""
        kind = self._kind(item)
        _, taken = self._kinds[kind].popleft()
        assert taken is item
        self.waiting -= 1
        self.waiting_work -= self._work(item)
        if not self._kinds[kind]:
            del self._kinds[kind]
        return True

    def put_back(self, item: ItemT) -> None:
        self._first -= 1
        self.waiting += 1
        self.waiting_work += self._work(item)
        self._kinds.setdefault(self._kind(item), deque()).appendleft((self._first, item))

    def try_again(self, items: Iterable[ItemT]) -> None:
        self._again += items

    def join(self, items: Iterable[ItemT]) -> None:
        self._append(items)

    def next_round(self) -> bool:
        if self._kinds or not self._again:
            return False
        self._append(self._again)
        self._again = []
        return True

    def give_up(self) -> list[ItemT]:
        left = [*self, *self._again]
        self._kinds.clear()
        self._again.clear()
        self.waiting, self.waiting_work = 0, 0.0
        return left

    def _append(self, items: Iterable[ItemT]) -> None:
        for item in items:
            self._kinds.setdefault(self._kind(item), deque()).append((self._next, item))
            self._next += 1
            self.waiting += 1
            self.waiting_work += self._work(item)


def _turn(waiting: tuple[int, object]) -> int:
    return waiting[0]
