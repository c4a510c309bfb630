"""Pictures on their way to the disk, each on a thread: encoded and written there, while the loop goes on with others.

zlib, libwebp, libjpeg and the disk let other threads run meanwhile. What is to follow is told on the loop's own thread,
when the loop asks for it: nobody hears of a picture before it is on the disk. How much waits is bounded. Knows nothing
of what a picture is; what writes it and what follows are given.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Self, TypeVar

_MOST_THREADS = 8
_EACH = 2
"""So many writings a thread, and nobody waits: one is under way while the loop brings the next."""

_MOST_BYTES = 256 * 2**20
"""Pixels that wait, besides one picture's."""

_LOOK_S = 0.25

Written = TypeVar("Written")


def cores() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class _Going:
    """A writing that has been begun; `tell` hears of its end, on the loop's thread."""

    name: str
    size: int
    tell: Callable[[Future[Any]], None]


class Writing:
    """What is being written. For one loop; only `write` functions run elsewhere.

    A context: what a thread has begun when it ends is waited for, and nothing else is begun.
    """

    def __init__(self, threads: int | None = None) -> None:
        """`threads` is how many are written at once (None: one a core, eight at most)."""
        self._threads = threads or max(1, min(_MOST_THREADS, cores()))
        self._pool = ThreadPoolExecutor(self._threads, "writing")
        self._going: dict[Future[Any], _Going] = {}
        self._last: dict[str, Future[Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        """How many have been begun whose end has not been told."""
        return len(self._going)

    @property
    def is_full(self) -> bool:
        """Whether so much waits that no more is to be brought."""
        held = sum(each.size for each in self._going.values())
        return len(self._going) >= _EACH * self._threads or held >= _MOST_BYTES

    def begin(
        self, name: str, write: Callable[[], Written], tell: Callable[[Future[Written]], None], size: int = 0
    ) -> None:
        """Have `write` called on a thread, behind all others of this name; `tend` then tells `tell` what came of it.

        What is given up is told as cancelled. `size` is the bytes that it holds meanwhile.
        """
        mark = name.casefold()  # as some file systems see it
        before = self._last.get(mark)

        def in_turn() -> Written:
            if before is not None:
                wait([before])  # threads take what was begun first: it has one, or has ended
            return write()

        future = self._pool.submit(in_turn)
        self._last[mark] = future
        self._going[future] = _Going(mark, size, tell)

    def wait(self, timeout_s: float) -> None:
        """Until one has ended, or for so long."""
        wait(self._going, timeout_s, FIRST_COMPLETED)

    @property
    def has_ended_one(self) -> bool:
        """Whether there is something to tell."""
        return any(future.done() for future in self._going)

    def tend(self) -> None:
        """Tell of one that has ended, if there is one: telling takes its time too. What telling raises is raised."""
        future = next((each for each in self._going if each.done()), None)
        if future is None:
            return
        going = self._going.pop(future)
        if self._last[going.name] is future:
            del self._last[going.name]
        going.tell(future)

    def finish(self, at_once: Callable[[], bool]) -> None:
        """Have all of it written and told of; what no thread has begun is given up as soon as `at_once` says so.

        It is given up too when telling raises something; that is raised when nothing is left.
        """
        trouble: Exception | None = None
        while self._going:
            if trouble or at_once():
                for future in self._going:
                    future.cancel()
            self.wait(_LOOK_S)
            try:
                self.tend()
            except Exception as error:  # noqa: BLE001 - of whatever kind: the others are still to be told of
                trouble = trouble or error
        if trouble is not None:
            raise trouble
