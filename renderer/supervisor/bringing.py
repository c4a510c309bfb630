"""Pictures that lie in the folder already, on their way to their places: moved there, copied, kept another way.

Work like any other: counted, told of, and ended when somebody asks for it. Moving comes before rendering, which would
write over what is to be moved; keeping another way goes on beside it, on threads of its own, for the processor is free
while a GPU works. Nothing is rendered here.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import Self

from renderer.errors import DiskError, RendererError
from renderer.job import Sidecar
from renderer.outputs import done, picture_files
from renderer.outputs.folder import OutputFolder, Own
from renderer.outputs.sources import Location
from renderer.planning.plan import Plan, Planned
from renderer.supervisor import moving, results

_MOST_THREADS = 4

Brought = Sidecar | DiskError
"""The sidecar of a picture that is in its place as it is to be, or why it is not."""

HaveWritten = Callable[[str, Callable[[], Sidecar], Callable[[Future[Sidecar]], None]], None]
"""Has something written under an output name, and then tells of it."""


class Bringing:
    """One plan's pictures that need no rendering of their own. `tell` hears what has become of each, once.

    Twins are copied by `write`, which has it done on a thread.
    A context: what is being written when it ends is waited for, and nothing else is begun.
    """

    def __init__(self, plan: Plan, tell: Callable[[Planned, Brought], None], write: HaveWritten) -> None:
        self._plan = plan
        self._tell = tell
        self._write = write
        self._staying = {item.picture.output for item in plan.items if item.sidecar is not None}
        self._rewriting = _Rewriting(plan.folder)
        self._twins: dict[str, list[Planned]] = {}
        for item in plan.twins():
            self._twins.setdefault(item.twin, []).append(item)
        self._to_move = [item for item in plan.to_bring() if not _is_in_place(item)]
        for item in plan.to_bring():
            if _is_in_place(item):
                self._rewriting.add(item)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rewriting.close()

    # -- moving --

    @property
    def to_move(self) -> int:
        """How many lie under another name."""
        return len(self._to_move)

    def move(self) -> Iterator[int]:
        """Move them, as long as somebody asks for the next: how many have been moved.

        Raises `DiskError` where nothing more can be written.
        """
        moved = 0
        for step in moving.arrange(self._to_move, self._staying, Own.ASIDE):
            if isinstance(step, moving.Stow):
                results.stow(self._plan.folder, step.source, step.aside)
                continue
            self._arrive(step.item, self._moved(step))
            moved += 1
            yield moved

    def clear_aside(self, marks: Collection[str]) -> None:
        """Remove what a dead run kept aside, if it is of these fingerprints: they are in their places.

        Raises `DiskError`.
        """
        folder = self._plan.folder
        if folder.aside.is_dir():
            for found in list(done.find_all(folder, below=Own.ASIDE)):
                if found.fingerprint in marks:
                    picture_files.remove(folder, found.output, found.keep.format)

    def _moved(self, step: moving.Move) -> Brought:
        folder = self._plan.folder
        try:
            return results.move(folder, step.item, step.source, leaves=step.leaves)
        except DiskError as error:
            if not error.ends_the_night and step.source not in self._staying:  # or it would be written over
                results.stow(folder, step.source, f"{Own.ASIDE}/{step.item.fingerprint}")
            return error

    def _arrive(self, item: Planned, outcome: Brought) -> None:
        """A picture lies in its place: perhaps it is to be kept another way yet."""
        if isinstance(outcome, Sidecar) and outcome.keep != item.picture.keep:
            self._rewriting.add(replace(item, source=Location(item.picture.output, outcome.keep)))
        else:
            self._tell(item, outcome)

    # -- twins --

    def place_twins(self, item: Planned) -> None:
        """A picture is on the disk: so will be those of the same fingerprint, one after the other."""
        self._copy_next(item.picture.output, iter(self.take_twins(item)))

    def _copy_next(self, source: str, twins: Iterator[Planned]) -> None:
        if twin := next(twins, None):
            copy = partial(results.move, self._plan.folder, twin, source, leaves=False)
            self._write(twin.picture.output, copy, partial(self._was_copied, source, twin, twins))

    def _was_copied(self, source: str, twin: Planned, twins: Iterator[Planned], copied: Future[Sidecar]) -> None:
        if copied.cancelled():
            return  # it is left, with those after it, and the next run finds where it lies
        self._arrive(twin, _outcome(copied))
        self._copy_next(source, twins)

    def promote_twin(self, item: Planned) -> Planned | None:
        """A picture cannot be written: one of the same fingerprint takes its part, if there is one."""
        twins = self.take_twins(item)
        if not twins:
            return None
        heir, *self._twins[twins[0].picture.id] = twins
        return heir

    def take_twins(self, item: Planned) -> list[Planned]:
        """The pictures that were to be made from this one's file, of which nobody else will hear."""
        return self._twins.pop(item.picture.id, [])

    # -- keeping another way --

    @property
    def to_rewrite(self) -> int:
        """How many are to be kept another way still."""
        return len(self._rewriting)

    def rewrite(self, timeout_s: float = 0.0, *, more: bool = True) -> bool:
        """Tell of those that are written, waiting for one at most so long; begin others if there is to be `more`.

        Whether some are being written still.
        """
        for item, outcome in self._rewriting.tend(timeout_s, more=more):
            self._tell(item, outcome)
        return self._rewriting.is_busy


def _is_in_place(item: Planned) -> bool:
    return item.source is not None and item.source.output == item.picture.output


class _Rewriting:
    """Pictures that are kept another way, a few at a time."""

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder
        self._waiting: deque[Planned] = deque()
        self._going: dict[Future[Sidecar], Planned] = {}
        self._most = max(1, min(_MOST_THREADS, (os.cpu_count() or 1) // 2))
        self._pool = ThreadPoolExecutor(self._most)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._going)

    @property
    def is_busy(self) -> bool:
        return bool(self._going)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        with contextlib.suppress(RendererError):
            self._folder.remove_empty(self._folder.aside)

    def add(self, item: Planned) -> None:
        self._waiting.append(item)

    def tend(self, timeout_s: float, *, more: bool) -> list[tuple[Planned, Brought]]:
        while more and self._waiting and len(self._going) < self._most:
            item = self._waiting.popleft()
            self._going[self._pool.submit(results.rewrite, self._folder, item)] = item
        if not self._going:
            return []
        ready, _ = wait(self._going, timeout_s, FIRST_COMPLETED)
        return [(self._going.pop(future), _outcome(future)) for future in ready]


def _outcome(future: Future[Sidecar]) -> Brought:
    try:
        return future.result()
    except DiskError as error:
        return error
