"""What has become of a batch's pictures: written into the journal, counted, told, and known under all their names.

Knows no workers, no queues and no clocks: whoever renders says what has happened, and hears what follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from renderer.errors import DiskError, RendererError
from renderer.job import Sidecar
from renderer.outputs import done
from renderer.outputs.done import Done
from renderer.planning.placement import SizeRefusal
from renderer.planning.plan import Plan, Planned, State
from renderer.protocol import Failed
from renderer.supervisor import events, results
from renderer.supervisor.bringing import Bringing
from renderer.supervisor.events import Watch
from renderer.supervisor.progress import BatchProgress, Flight, Row
from renderer.supervisor.results import Result


class Outcomes:
    """One batch's. `progress` counts them, `bringing` has the pictures that need no rendering of their own."""

    def __init__(self, plan: Plan, row: Row, watch: Watch) -> None:
        self._plan = plan
        self._row = row
        self._watch = watch
        self._changed: dict[str, Planned] = {}
        self.progress = BatchProgress(plan, (), row=row)
        self.bringing = Bringing(plan, self._was_brought)

    def begin(self, todo: Sequence[Planned]) -> None:
        """The batch's turn has come: these are to be rendered."""
        self.progress = BatchProgress(self._plan, todo, row=self._row)
        self._watch(events.BatchBegan(self._plan, len(todo)))

    def plan_now(self) -> Plan:
        """The plan, with what has become of its pictures."""
        return self._plan.updated(self._changed)

    # -- what happens to a picture --

    def attempted(self, item: Planned) -> Flight:
        """It is about to be given to a worker. The journal knows before the worker does."""
        self._plan.journal.write("attempt", item.picture.id, item.fingerprint)
        self.progress.tried(item)
        return Flight(item, self._plan.journal.record(item.fingerprint).attempts)

    def dropped(self, item: Planned) -> None:
        """The attempt was given up, through no fault of its own."""
        self._plan.journal.write("dropped", item.picture.id, item.fingerprint)
        self.progress.given_back(item)

    def came(self, result: Result) -> Done | None:
        """It has come, and is written under its name; or where that cannot be written, under another that it has.

        None where it has no name that can be written. Raises `DiskError` where nothing can.
        """
        while (sidecar := self._save(result)) is None:
            heir = self.bringing.promote_twin(result.item)
            if heir is None:
                return None
            result = replace(result, item=heir)
        known = self._is_done(result.item, sidecar)
        self.progress.has_rendered(result.item, sidecar)
        self._watch(events.PictureDone(result.item, sidecar))
        self.bringing.place_twins(result.item)
        return known

    def failed(self, item: Planned, failure: Failed, *, again: bool) -> None:
        """It failed: it is tried `again`, or it fails for good, under all its names."""
        self._has_failed(item, failure, again=again)
        if not again:
            self._fail_twins(item, failure.message, failure.hint)

    def cannot_write(self, item: Planned, error: DiskError, *, tried: bool = True) -> None:
        """One path cannot be written: it fails, and rendering it again would not help. Raises what ends the night."""
        if error.ends_the_night:
            raise error
        failure = Failed(key=item.picture.id, kind=type(error).__name__, message=error.message, hint=error.hint)
        self._has_failed(item, failure, again=False, tried=tried)

    def refused(self, item: Planned, refusal: SizeRefusal | RendererError) -> None:
        """It cannot be rendered here. That costs nothing, and the others go on."""
        for each in (item, *self.bringing.take_twins(item)):
            self.progress.refused(each, refusal.message, refusal.hint)
            self._watch(events.PictureFailed(each, refusal.message, refusal.hint, again=False))

    def crashed(self, flights: Sequence[Flight], reason: str, hint: str, excerpt: str) -> list[Planned]:
        """A worker died with these in its hands: those that are tried again, alone, for they are not set aside."""
        for flight in flights:
            self._plan.journal.write("crashed", flight.item.picture.id, flight.item.fingerprint, reason)
        self._watch(events.WorkerLost(reason, tuple(flight.item for flight in flights), hint, excerpt))
        in_a_row = self._row.failures + bool(flights)  # one worker, one failure, however much it held
        again = []
        for item in (flight.item for flight in flights):
            set_aside = self._plan.journal.record(item.fingerprint).set_aside
            self.progress.has_failed(item, reason, hint, again=not set_aside, set_aside=set_aside)
            state: State = "set aside" if set_aside else "failed"
            self._changed[item.picture.id] = replace(item, state=state, note=reason, suspect=True)
            self._watch(events.PictureFailed(item, reason, hint, again=not set_aside))
            if set_aside:
                self._fail_twins(item, reason, hint, set_aside=True)
            else:
                again.append(replace(item, suspect=True))
        self._row.failures = in_a_row
        return again

    # -- what follows --

    def _save(self, result: Result) -> Sidecar | None:
        try:
            return results.save(self._plan.folder, result)
        except DiskError as error:
            self.cannot_write(result.item, error)
            return None

    def _is_done(self, item: Planned, sidecar: Sidecar) -> Done:
        self._plan.journal.write("done", item.picture.id, item.fingerprint)
        known = done.of_sidecar(sidecar, item.picture.output, item.picture.job)
        self._changed[item.picture.id] = replace(item, state="done", note="", sidecar=known, source=None, twin="")
        return known

    def _was_brought(self, item: Planned, outcome: Sidecar | RendererError) -> None:
        """It is in its place and was not rendered for it, or could not be brought there."""
        chosen = self._plan.is_chosen(item)
        if isinstance(outcome, Sidecar):
            self._is_done(item, outcome)
            if chosen:
                self.progress.has_been_brought(item)
        elif isinstance(outcome, DiskError) and (chosen or outcome.ends_the_night):
            self.cannot_write(item, outcome, tried=False)

    def _has_failed(self, item: Planned, failure: Failed, *, again: bool, tried: bool = True) -> None:
        message, hint = failure.message, failure.hint
        self._plan.journal.write("failed", item.picture.id, item.fingerprint, message)
        self.progress.has_failed(item, message, hint, again=again, tried=tried)
        self._changed[item.picture.id] = replace(item, state="failed", note=message)
        self._watch(events.PictureFailed(item, message, hint, again=again, kind=failure.kind, detail=failure.detail))

    def _fail_twins(self, item: Planned, message: str, hint: str, *, set_aside: bool = False) -> None:
        """It will not come in this run, and none of the same fingerprint."""
        for twin in self.bringing.take_twins(item):
            self.progress.has_failed(twin, message, hint, again=False, set_aside=set_aside, tried=False)
            state: State = "set aside" if set_aside else "failed"
            self._changed[twin.picture.id] = replace(twin, state=state, note=message)
            self._watch(events.PictureFailed(twin, message, hint, again=False))
