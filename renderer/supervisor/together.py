"""The batches of a night as one, for whoever renders: a word about a picture goes to the batch that it is of.

What goes wrong with one batch costs that one: of its pictures nothing more becomes, and the others go on. Knows no
workers and no queues.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from renderer.errors import RendererError
from renderer.job import Weights
from renderer.outputs.done import Done
from renderer.planning.fitting import SizeRefusal
from renderer.planning.plan import Planned
from renderer.protocol import Failed
from renderer.supervisor import events
from renderer.supervisor.events import Watch
from renderer.supervisor.incoming import GoingIn
from renderer.supervisor.outcomes import Beside, Outcomes
from renderer.supervisor.progress import FailureRow, Flight
from renderer.supervisor.results import Result

Made = TypeVar("Made")


class Together:
    """What becomes of the pictures of several batches. Of one that has ended, nothing more does."""

    def __init__(self, row: FailureRow, watch: Watch, beside: Beside, only: Outcomes | None = None) -> None:
        """`only` is the one to which all pictures belong, where there are no others."""
        self._row = row
        self._watch = watch
        self._only = only
        self._batches: dict[str, Outcomes] = {} if only is None else {"": only}
        self.writing = beside.writing
        self.readings = beside.readings
        self.tempo = beside.tempo
        self._reads: Outcomes | None = None

    def add(self, name: str, batch: Outcomes) -> None:
        """One more batch is on its way, by its manifest's name."""
        self._batches[name] = batch

    def remove(self, name: str) -> None:
        """A batch has ended."""
        gone = self._batches.pop(name, None)
        if gone is not None and gone is self._reads:
            self._reads = None

    def of(self, item: Planned) -> Outcomes | None:
        """The batch that a picture is of; None where that has ended."""
        found = self._only or self._batches.get(item.batch)
        return found if found is not None and found.error is None else None

    def _with(self, item: Planned, do: Callable[[Outcomes], Made]) -> Made | None:
        """What a picture's batch makes of this; None where it has ended, or ends with it."""
        batch = self.of(item)
        if batch is not None:
            with batch.guard():
                return do(batch)
        return None

    # -- before it is rendered --

    def log_of(self, item: Planned | None, number: int) -> Path:
        """Where the worker on a seat prints, while it is at a picture."""
        batch = self.of(item) if item is not None else next(iter(self._batches.values()), None)
        return batch.folder.worker_log_of(number) if batch is not None else Path(os.devnull)

    def is_ready(self, item: Planned, wake: Callable[[], None]) -> bool:
        """Whether what goes into a picture has been read; if not, it is, and `wake` is called then."""
        batch = self.of(item)
        if batch is None:
            return True
        if self._reads is not None and self._reads is not batch:
            self._reads.incoming.close()
        self._reads = batch
        return batch.incoming.is_ready(item, wake)

    def inputs(self, item: Planned) -> GoingIn | None:
        """What goes into a picture that has a place; None where it has not, or has failed."""
        return self._with(item, lambda batch: batch.inputs(item) if batch.has_place(item) else None)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """What is written down in here is written at its end, all of it at once: a disk takes its time for each."""
        with contextlib.ExitStack() as held:
            for batch in list(self._batches.values()):
                held.enter_context(batch.at_once())
            yield

    def attempted(self, item: Planned) -> Flight | None:
        """It is about to be given to a worker; None where it is not to be."""
        return self._with(item, lambda batch: batch.attempted(item))

    def promote_twin(self, item: Planned) -> Planned | None:
        """One that takes a picture's part, which cannot be written."""
        return self._with(item, lambda batch: batch.heir_of(item))

    def tries(self, item: Planned) -> int:
        """How often it has been tried in this run."""
        batch = self.of(item)
        return 0 if batch is None else batch.progress.tries(item)

    @property
    def rendered(self) -> int:
        """How many have been, of the batches that are on their way."""
        return sum(batch.progress.rendered for batch in self._batches.values())

    # -- what has become of it --

    def began(self, flight: Flight) -> None:
        """Its turn has come."""
        self._with(flight.item, lambda batch: batch.began(flight))

    def stepped(self, flight: Flight, step: int, steps: int) -> None:
        """So many of its steps are done."""
        self._with(flight.item, lambda batch: batch.stepped(flight, step, steps))

    def came(self, result: Result, then: Callable[[Done], None]) -> None:
        """It has come, and is to be written."""
        self._with(result.item, lambda batch: batch.came(result, then))

    def dropped(self, item: Planned) -> None:
        """The attempt was given up, through no fault of its own."""
        self._with(item, lambda batch: batch.dropped(item))

    def failed(self, item: Planned, failure: Failed, *, again: bool) -> None:
        """It failed."""
        self._with(item, lambda batch: batch.failed(item, failure, again=again))

    def refused(self, item: Planned, refusal: SizeRefusal | RendererError) -> None:
        """It cannot be rendered here."""
        self._with(item, lambda batch: batch.refused(item, refusal))

    def crashed(
        self, flights: Sequence[Flight], reason: str, hint: str, excerpt: str, where: str = ""
    ) -> list[Planned]:
        """A worker died with these in its hands: those that are tried again, alone, for they are not set aside."""
        items = tuple(flight.item for flight in flights)
        for item in items:
            self._with(item, lambda batch, item=item: batch.crashed(item, reason))  # type: ignore[misc]
        self._watch(events.WorkerLost(reason, items, hint, excerpt, where))
        total = self._row.total + bool(flights)  # one worker, one failure, however much it held
        again = [self._lost(item, reason, hint) for item in items]
        self._row.total = total
        return [item for some in again for item in some]

    def _lost(self, item: Planned, reason: str, hint: str) -> list[Planned]:
        return self._with(item, lambda batch: batch.lost(item, reason, hint)) or []

    # -- what goes on beside --

    def take_retakes(self, weights: Weights | None = None, priority: float | None = None) -> list[Planned]:
        """Pictures that are to be rendered once more, with another seed: of these weights and priority, or all."""
        those = (batch for batch in self._batches.values() if priority in (None, batch.priority))
        return [item for batch in those for item in batch.take_retakes(weights)]

    def rewrite(self, timeout_s: float = 0.0, *, more: bool) -> bool:
        """Keep pictures another way; whether some are being written still."""
        busy = False
        for number, batch in enumerate(self._rewriting()):
            busy |= self._rewrites(batch, 0.0 if number else timeout_s, more=more)
        return busy

    def _rewriting(self) -> Iterable[Outcomes]:
        return [batch for batch in self._batches.values() if batch.error is None and batch.bringing.to_rewrite]

    def _rewrites(self, batch: Outcomes, timeout_s: float, *, more: bool) -> bool:
        with batch.guard():
            return batch.bringing.rewrite(timeout_s, more=more)
        return False

    @property
    def to_rewrite(self) -> int:
        """How many are to be kept another way still."""
        return sum(batch.bringing.to_rewrite for batch in self._rewriting())

    def close(self) -> None:
        """Nothing more is given to workers."""
        for batch in self._batches.values():
            batch.incoming.close()
