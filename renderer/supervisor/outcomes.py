"""What follows from what happened to a batch's pictures: a result is written, a failure goes for all its names.

Decides, and tells the batch's sinks: journal, plan, counts, watchers. Knows no workers, no queues and no clocks:
whoever renders says what has happened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

from renderer.errors import DiskError, LeaseLostError, PictureError, RendererError
from renderer.job import Sidecar, Weights
from renderer.outputs import done, picture_files
from renderer.outputs.done import Done
from renderer.outputs.folder import OutputFolder
from renderer.planning import plan as plans
from renderer.planning import takes
from renderer.planning.fitting import SizeRefusal
from renderer.planning.plan import Plan, Planned
from renderer.protocol import Failed
from renderer.supervisor import events, results
from renderer.supervisor.bringing import Bringing, Brought
from renderer.supervisor.events import Watch
from renderer.supervisor.incoming import GoingIn, Incoming
from renderer.supervisor.progress import BatchProgress, FailureRow, Flight
from renderer.supervisor.readings import Readings
from renderer.supervisor.results import Result
from renderer.supervisor.sinks import (
    Attempted,
    Crashed,
    Dropped,
    JournalSink,
    Misread,
    Missing,
    PictureOutcome,
    PlanSink,
    Present,
    Sink,
    Taken,
    WatchSink,
)
from renderer.supervisor.tempo import Tempo
from renderer.supervisor.writing import Writing


@dataclass(frozen=True, slots=True)
class Beside:
    """What the batches of a night have in common: `writing` has pictures that came and are not on the disk yet.

    `readings` has those whose lettering is read; whoever renders tends both, and so hears of them. `spares` says of a
    batch and what ended it whether others go on.
    """

    writing: Writing = field(default_factory=Writing)
    readings: Readings = field(default_factory=Readings)
    tempo: Tempo = field(default_factory=Tempo)
    spares: Callable[[Outcomes, DiskError], bool] = lambda _outcomes, _error: False


class Outcomes:
    """One batch's. `progress` counts them, `bringing` has the pictures that need no rendering of their own.

    `beside` is what it shares with others of its night, `incoming` has what goes into the next one. `error` is what has
    ended the batch, where the others go on: nothing more becomes of its pictures. `mark` stands before its pictures'
    ids where workers have those of several.
    """

    error: DiskError | None = None

    def __init__(self, plan: Plan, row: FailureRow, watch: Watch, beside: Beside | None = None, mark: str = "") -> None:
        self.beside = beside = beside or Beside()
        self._plan = plan
        self._row = row
        self._watch = watch
        self._spares = beside.spares
        self._mark = mark
        self._pending = 0
        self._now = PlanSink(plan)
        self.progress = BatchProgress(plan, row, beside.tempo)
        self.writing = beside.writing
        self.incoming = Incoming(plan.folder)
        self.readings = beside.readings
        self._retakes: list[Planned] = []
        self.bringing = Bringing(plan, self._was_brought, self._have_written)
        self._sinks: tuple[Sink, ...] = (
            JournalSink(plan.journal),
            self._now,
            self.progress,
            WatchSink(watch),
        )

    @property
    def folder(self) -> OutputFolder:
        """Where its pictures go."""
        return self._plan.folder

    @property
    def priority(self) -> float:
        """Its manifest's."""
        return self._plan.manifest.priority

    @property
    def is_through(self) -> bool:
        """Whether nothing more becomes of its pictures: all have come or failed, and what they need is done."""
        busy = self.progress.open_ids or self._pending or self._retakes or self.bringing.to_rewrite
        return self.error is not None or not busy

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """What the disk does not take in here costs this batch, where others of its night go on."""
        try:
            yield
        except DiskError as error:
            if self.error is None and not self._spares(self, error):
                raise
            self.error = self.error or error

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """What is written down in here is written at its end, all of it at once."""
        with self.guard(), self._plan.journal.at_once():
            yield

    def begin(self, todo: Sequence[Planned]) -> None:
        """The batch's turn has come: these are to be rendered."""
        self.progress.begin(todo)
        self._watch(events.BatchBegan(self._plan, len(todo)))

    def plan_now(self) -> Plan:
        """The plan, with what has become of its pictures."""
        return self._now.plan_now()

    def _tell(self, outcome: PictureOutcome) -> None:
        for sink in self._sinks:
            sink.hear(outcome)

    # -- on its way --

    def has_place(self, item: Planned) -> bool:
        """Whether its files can be written, as far as that is plain before it is rendered; where not, it has failed.

        Raises `DiskError` for what ends the night.
        """
        try:
            picture_files.check_place(self._plan.folder, item.picture.output, item.picture.keep.format)
        except DiskError as error:
            self._cannot_write(item, error)
            return False
        return True

    def attempted(self, item: Planned) -> Flight:
        """It is about to be given to a worker. The journal knows before the worker does.

        Raises `LeaseLostError` where the folder is another run's by now.
        """
        self._tell(Attempted(item))
        key = self._mark + item.picture.id
        return Flight(item, self._plan.journal.record(item.fingerprint).attempts, key=key)

    def inputs(self, item: Planned) -> GoingIn | None:
        """The files of what goes in, which are ready (`incoming`); None where they cannot be had, and it has failed.

        Raises `DiskError` for what ends the night.
        """
        try:
            return self.incoming.of(item)
        except DiskError as error:
            self._cannot_write(item, error)
        except PictureError as error:
            failure = Failed(key=item.picture.id, kind=type(error).__name__, message=error.message, hint=error.hint)
            self.failed(item, failure, again=False)
        return None

    def heir_of(self, item: Planned) -> Planned | None:
        """A picture cannot be written: the one of the same fingerprint that is rendered in its place."""
        heir = self.bringing.promote_twin(item)
        if heir is not None:
            self.progress.takes_part(heir)
        return heir

    def began(self, flight: Flight) -> None:
        """Its turn has come."""
        self.progress.began(flight)
        self._watch(events.PictureBegan(flight.item, flight.attempt))

    def stepped(self, flight: Flight, step: int, steps: int) -> None:
        """So many of its steps are done."""
        self.progress.stepped(flight, step)
        self._watch(events.PictureStepped(flight.item, step, steps))

    def dropped(self, item: Planned) -> None:
        """The attempt was given up, through no fault of its own."""
        self._tell(Dropped(item))

    # -- its end --

    def came(self, result: Result, then: Callable[[Done], None]) -> None:
        """It has come, and is to be written under its name; or where that cannot be written, under another that it has.

        That is `writing`'s business from now on. When it is on the disk, that is told, and `then` hears it last.
        """
        self._write(result, self._row.total, then)

    def failed(self, item: Planned, failure: Failed, *, again: bool) -> None:
        """It failed: it is tried `again`, or it fails for good, under all its names."""
        message, hint = failure.message, failure.hint
        self._tell(Missing(item, message, hint, again=again, kind=failure.kind, detail=failure.detail))
        if not again:
            self._fail_twins(item, message, hint)

    def refused(self, item: Planned, refusal: SizeRefusal | RendererError) -> None:
        """It cannot be rendered here. That costs nothing, and the others go on."""
        for each in (item, *self.bringing.take_twins(item)):
            self._tell(Missing(each, refusal.message, refusal.hint, "refused", tried=False))

    def crashed(self, item: Planned, reason: str) -> None:
        """A worker died with it in its hands: it is known, before anybody hears of it."""
        self._tell(Crashed(item, reason))

    def lost(self, item: Planned, reason: str, hint: str) -> list[Planned]:
        """What follows for it: as it is tried again, alone; nothing where it is set aside."""
        set_aside = self._plan.journal.record(item.fingerprint).set_aside
        self._tell(Missing(item, reason, hint, "crashed", again=not set_aside, set_aside=set_aside))
        if set_aside:
            self._fail_twins(item, reason, hint, set_aside=True)
            return []
        return [replace(item, suspect=True)]

    # -- what follows --

    def _write(self, result: Result, failed_before: int, then: Callable[[Done], None]) -> None:
        def save() -> Sidecar:
            self._plan.folder.guard()  # before it is encoded
            return results.save(self._plan.folder, result)

        tell = partial(self._was_written, result, failed_before, then)
        self._have_written(result.item.picture.output, save, tell, len(result.payload))

    def _have_written(
        self, output: str, write: Callable[[], Sidecar], tell: Callable[[Future[Sidecar]], None], size: int = 0
    ) -> None:
        """Have something written in the folder under an output name; `tell` hears of its end, in the loop."""
        self._pending += 1
        self.writing.begin(str(self._plan.folder.path / output), write, partial(self._ends, tell), size)

    def _ends(self, tell: Callable[[Future[Sidecar]], None], future: Future[Sidecar]) -> None:
        """Something has been written or read on a thread."""
        self._pending -= 1
        with self.guard():
            tell(future)

    def _was_written(
        self, result: Result, failed_before: int, then: Callable[[Done], None], saved: Future[Sidecar]
    ) -> None:
        """It is on the disk, or could not be written, or was given up. Raises what ends the night."""
        item = result.item
        if saved.cancelled():
            self.dropped(item)
            return
        error = saved.exception()
        if isinstance(error, DiskError) and not error.ends_the_night:
            self._cannot_write(item, error)
            if not item.retake and (heir := self.heir_of(item)):
                self._write(replace(result, item=heir), failed_before, then)
            return
        if error is not None:
            with contextlib.suppress(DiskError, LeaseLostError):
                self.dropped(item)
            raise error
        self._row.broken(failed_before)
        sidecar = saved.result()
        if item.picture.lettering is None:
            known = self._is_present(item, sidecar, rendered=True)
            self.bringing.place_twins(item)
        else:
            known = done.of_sidecar(sidecar, item.picture.output, item.picture.job)
            self._tell(Taken(item, sidecar))
            self._read(item, item.output, rendered=True)
        then(known)

    def _cannot_write(self, item: Planned, error: DiskError, *, tried: bool = True) -> None:
        """One path cannot be written: it fails, and rendering it again would not help. Raises what ends the night."""
        if error.ends_the_night:
            raise error
        self._tell(Missing(item, error.message, error.hint, tried=tried, kind=type(error).__name__))

    def _is_present(self, item: Planned, sidecar: Sidecar, *, rendered: bool) -> Done:
        known = done.of_sidecar(sidecar, item.picture.output, item.picture.job)
        self._tell(Present(item, sidecar, known, rendered))
        return known

    def _was_brought(self, item: Planned, outcome: Brought) -> None:
        """It is in its place and was not rendered for it, or could not be brought there."""
        if isinstance(outcome, Sidecar) and item.picture.lettering is not None and self._plan.is_chosen(item):
            self._has_come(item, outcome, rendered=False)
        elif isinstance(outcome, Sidecar):
            self._is_present(item, outcome, rendered=False)
        elif self._plan.is_chosen(item) or outcome.ends_the_night:
            self._cannot_write(item, outcome, tried=False)

    def _fail_twins(self, item: Planned, message: str, hint: str, *, set_aside: bool = False) -> None:
        """It will not come in this run, and none of the same fingerprint."""
        for twin in self.bringing.take_twins(item):
            self._tell(Missing(twin, message, hint, "twin", set_aside=set_aside, tried=False))

    # -- lettering --

    def read_what_is_there(self) -> None:
        """Have those read that lie in the folder and are not read yet."""
        for item in self._plan.to_read():
            assert item.source is not None
            self._read(item, item.source.output, rendered=False)

    def goes_on(self, item: Planned) -> bool:
        """Whether a take of a picture lies where it would be written, whole and perhaps unread: it goes on from there.

        For whoever has no plan that knows of it: a picture that was asked for, before the last server was stopped.
        """
        folder = self._plan.folder
        found, sidecar = done.find(folder, item.output), picture_files.read_sidecar(folder.sidecar(item.output))
        if found is None or sidecar is None or takes.take_of(item.picture, item.identity, found.fingerprint) is None:
            return False
        if not found.is_whole(folder, thorough=True):
            return False
        if item.retake:
            self._read(item, item.output, rendered=True)
        else:
            self._has_come(item, sidecar, rendered=True)
        return True

    def take_retakes(self, weights: Weights | None = None) -> list[Planned]:
        """Pictures that are to be rendered once more, with another seed: of these weights, or all; each once."""
        found = [item for item in self._retakes if weights in (None, Weights.of(item.picture.job))]
        self._retakes = [item for item in self._retakes if item not in found]
        return found

    def _read(self, item: Planned, output: str, *, rendered: bool) -> None:
        self._pending += 1
        self.readings.begin(
            self._plan.folder, item, output, partial(self._ends, partial(self._was_read, item, rendered))
        )

    def _was_read(self, item: Planned, rendered: bool, read: Future[Sidecar]) -> None:  # noqa: FBT001  # partial's
        """It has been read, or cannot be, or was given up: then it lies there unread. Raises what ends the night."""
        if read.cancelled():
            return
        error = read.exception()
        if isinstance(error, DiskError):
            self._cannot_write(item, error, tried=False)
            self._fail_twins(item, error.message, error.hint)
        elif isinstance(error, PictureError):
            self._tell(Missing(item, error.message, error.hint, tried=False, kind=type(error).__name__))
            self._fail_twins(item, error.message, error.hint)
        elif error is not None:
            raise error
        else:
            self._has_come(item, read.result(), rendered=rendered)

    def _has_come(self, item: Planned, sidecar: Sidecar, *, rendered: bool) -> None:
        """A picture with lettering is in its place: it is read, or taken once more, or that is how it ends."""
        take = takes.take_of(item.picture, item.identity, sidecar.fingerprint)
        lettering = item.picture.lettering
        assert take is not None
        assert lettering is not None
        now = replace(item, picture=take, fingerprint=sidecar.fingerprint, retake=False)
        if sidecar.lettering is None or not takes.is_read(sidecar.lettering, lettering):
            self._read(now, take.output, rendered=rendered)
        elif (seed := takes.next_seed(take, sidecar.lettering)) is not None:
            self._begin_again(plans.retaken(now, seed), rendered=rendered)
        elif message := takes.complaint(takes.expected_of(take), sidecar.lettering):
            self._tell(Misread(now, done.of_sidecar(sidecar, take.output, take.job), message))
            self.bringing.place_twins(now)
        else:
            self._is_present(now, sidecar, rendered=rendered)
            self.bringing.place_twins(now)

    def _begin_again(self, item: Planned, *, rendered: bool) -> None:
        record = self._plan.journal.record(item.fingerprint)
        if record.set_aside:
            self._tell(Missing(item, record.failure, tried=False, set_aside=True, how="crashed"))
            self._fail_twins(item, record.failure, "", set_aside=True)
            return
        self.progress.is_retaken(item, rendered=rendered)
        self._retakes.append(item)
