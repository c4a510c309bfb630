"""One manifest's pictures on their way through the workers, with retries, a deadline and an orderly stop.

One picture's failure does not stop the others, and a dead or stuck worker is replaced. What is asked to stop gives back
what has not begun and waits for what has. Prints nothing and knows no formats: what comes is `results`' business.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from renderer import protocol
from renderer.errors import DiskError, MachineError, PictureError, RendererError
from renderer.job import Weights
from renderer.outputs import picture_files
from renderer.outputs.status import Phase, RunStatus, StatusFile
from renderer.outputs.summary import Ending, Summary, write_summary
from renderer.planning.pace import Pace
from renderer.planning.placement import SizeRefusal
from renderer.planning.plan import Plan, Planned
from renderer.protocol import Setup
from renderer.supervisor import events, results
from renderer.supervisor.busy import LongWork
from renderer.supervisor.night import Night
from renderer.supervisor.outcomes import Outcomes
from renderer.supervisor.pool import Silence
from renderer.supervisor.progress import Flight, told
from renderer.supervisor.results import Result
from renderer.supervisor.waiting import Waiting
from renderer.supervisor.worker import Gone, Worker

_TICK_S = 0.25
_AT_ONCE = 2
"""Somebody who has asked to stop so often does not wait."""


class Batch:
    """One manifest's pictures on their way through the workers.

    `error` is what ended it, where that was no picture's: of this manifest, or of the night.
    """

    error: RendererError | None = None

    def __init__(self, batch: Plan, night: Night) -> None:
        self._plan = batch
        self._night = night
        self._settings = night.settings
        self._pool = night.pool
        self._watch = night.watch
        self._stop = night.stop
        self._outcomes = Outcomes(batch, night.row, night.watch)
        self._bringing = self._outcomes.bringing
        self._notice = StatusFile(batch.folder)
        self._pace = Pace((item.sidecar for item in batch.items if item.sidecar), night.rates)
        self._waiting = Waiting()
        self._again: list[Planned] = []
        self._nothing_fits: tuple[int, int] | None = None
        self._flying: dict[str, Flight] = {}
        self._silence = Silence(time.monotonic())
        self._ticked_at = float("-inf")
        self._asked_back = False
        self._grace_ends: float | None = None

    def render(self) -> Summary:
        """Render all there is to do, or as much as time allows, and write the summary, however it ends."""
        ending: Ending = "error"
        unforeseen = ""
        try:
            with self._bringing:
                ending = self._render()
        except RendererError as error:
            self.error = error
        except Exception as error:
            unforeseen = told(error)
            raise
        finally:
            self._drop_flying()
            self._notice.take_down()
            summary = self._outcomes.progress.summary(ending, told(self.error) if self.error else unforeseen)
            try:
                write_summary(self._plan.folder, summary)
            except DiskError as error:
                self.error = self.error or error
            self._watch(events.BatchEnded(summary, self._outcomes.plan_now()))
        return summary

    def _render(self) -> Ending:
        todo: list[Planned] = []
        refused: list[Planned] = []
        for item in self._plan.to_render():
            (todo if self._refusal(item) is None else refused).append(item)
        self._outcomes.begin(todo)
        for item in refused:
            self._refuse(item)
        endings: list[Ending] = [self._move()]
        for setup, items in self._groups(todo):
            if endings[-1] in ("signal", "failures") or endings[0] != "complete":
                break
            try:
                endings.append(self._render_group(setup, items))
            except MachineError as error:
                self._give_up(setup, error)
        endings.append(self._finish_rewriting())
        return next((ending for ending in reversed(endings) if ending != "complete"), "complete")

    # -- what lies in the folder already --

    def _move(self) -> Ending:
        """Move what lies under another name, before anything is rendered over it."""
        busy = LongWork(self._watch, self._plan.manifest.name, "moving pictures to their new names")
        moves, moved = self._bringing.move(), 0
        while moved < self._bringing.to_move:
            if ending := self._asked_to_end():
                return ending
            moved = next(moves)
            self._tell_of(busy, moved, self._bringing.to_move)
        now = self._outcomes.plan_now()
        self._bringing.clear_aside({item.fingerprint for item in now.items if item.state == "done"})
        return "complete"

    def _finish_rewriting(self) -> Ending:
        """Go on with it when nothing is rendered any more, until somebody asks to end."""
        busy = LongWork(self._watch, self._plan.manifest.name, "keeping pictures another way")
        total = self._bringing.to_rewrite
        ending: Ending | None = None
        while self._bringing.to_rewrite and (ending := self._asked_to_end()) is None:
            self._bringing.rewrite(_TICK_S)
            self._tell_of(busy, total - self._bringing.to_rewrite, total)
        while self._bringing.rewrite(_TICK_S, more=False) and self._stop.requests < _AT_ONCE:
            pass
        return ending if ending and self._bringing.to_rewrite else "complete"

    def _tell_of(self, busy: LongWork, done: int, total: int) -> None:
        self._notice.post(self._outcomes.progress.status([], "preparing", None))
        busy.tell(done, total)

    def _asked_to_end(self) -> Ending | None:
        """Why no work of any kind is to begin, if so."""
        if self._stop.requests:
            return "signal"
        deadline = self._settings.deadline
        return "deadline" if deadline is not None and datetime.now(UTC) > deadline else None

    # -- what cannot be rendered here --

    def _refusal(self, item: Planned) -> SizeRefusal | RendererError | None:
        """Why a picture cannot be rendered on this machine, if so: it does not fit, or its model cannot be opened."""
        job = item.picture.job
        return self._night.troubles.get(Weights.of(job)) or self._night.refused.get(job)

    def _refuse(self, item: Planned) -> None:
        """Say so: it costs nothing, and the others go on."""
        refusal = self._refusal(item)
        assert refusal is not None
        self._outcomes.refused(item, refusal)

    def _groups(self, todo: list[Planned]) -> Iterator[tuple[Setup, list[Planned]]]:
        """The pictures by what has to be opened for them, so that nothing is opened twice."""
        groups: dict[Setup, list[Planned]] = {}
        for item in todo:
            groups.setdefault(self._night.setups[Weights.of(item.picture.job)], []).append(item)
        yield from groups.items()

    def _give_up(self, setup: Setup, error: MachineError) -> None:
        """A model does not open: its pictures fail with that reason, those of later manifests too."""
        if self._settings.strict:
            raise error
        self._night.troubles[setup.weights] = error
        left = [*self._waiting, *self._again, *(flight.item for flight in self._flying.values())]
        self._drop_flying()
        self._pool.dismiss(at_once=True)
        self._waiting.clear()
        self._again.clear()
        for item in left:
            self._outcomes.progress.is_not_waited_for(item)
            self._refuse(item)

    def _render_group(self, setup: Setup, items: list[Planned]) -> Ending:
        self._wait(items)
        while self._waiting or self._again or self._flying:
            if self._must_drop():
                return "signal"
            if not self._waiting and not self._flying:
                self._wait(self._again)
                self._again = []
            if not self._flying and (ending := self._reason_to_end(setup)):
                return ending
            worker = self._pool.worker(setup, self._plan.folder.worker_log)
            if self._nothing_more():
                self._ask_back(worker)
            else:
                self._admit(setup, worker)
            self._bringing.rewrite(more=not self._nothing_more())
            self._listen(worker)
        return "complete"

    # -- giving out work --

    def _wait(self, items: Iterable[Planned]) -> None:
        """These are the pictures that wait now."""
        self._waiting, self._nothing_fits = Waiting(items), None

    def _reason_to_end(self, setup: Setup) -> Ending | None:
        """Why nothing more is to begin, if so; asked when nothing is in flight."""
        if self._stop.requests:
            return "signal"
        if self._night.row.failures >= self._settings.max_failures:
            return "failures"
        if self._next(setup) is None:
            return "deadline"
        return None

    def _nothing_more(self) -> bool:
        """Whether nothing more is to begin, whatever a worker has been given already."""
        return self._asked_to_end() is not None or self._night.row.failures >= self._settings.max_failures

    def _next(self, setup: Setup) -> Planned | None:
        """The first waiting picture that would be done before the deadline."""
        if self._settings.deadline is None:
            return self._waiting.first()
        left_s = (self._settings.deadline - datetime.now(UTC)).total_seconds()
        now = len(self._flying), len(self._outcomes.progress.rendered)
        if self._nothing_fits == now:  # and since then there is only less time
            return None

        def fits(item: Planned) -> bool:
            expected_s = self._pace.expect_s(item, setup.profile)
            if expected_s is None and self._flying:
                return False  # nothing like it was measured: one tells how long the others will take
            return left_s > (expected_s or 0.0) * (len(self._flying) + 1)  # it may have to wait for those before it

        item = self._waiting.first(fits)
        self._nothing_fits = now if item is None else None
        return item

    def _admit(self, setup: Setup, worker: Worker) -> None:
        """Give the open worker as much as it takes. A suspect rides alone."""
        opened = self._pool.opened
        while opened and self._waiting and len(self._flying) < opened.capacity:
            item = self._next(setup)
            if item is None or any(flight.item.suspect or item.suspect for flight in self._flying.values()):
                return
            self._waiting.take(item)
            try:
                picture_files.check_place(self._plan.folder, item.picture.output, item.picture.keep.format)
            except DiskError as error:
                self._outcomes.cannot_write(item, error)
                if heir := self._bringing.promote_twin(item):
                    self._waiting.put_back(heir)
            else:
                self._begin(item, worker)

    def _begin(self, item: Planned, worker: Worker) -> None:
        self._flying[item.picture.id] = self._outcomes.attempted(item)
        self._silence.broken()
        worker.send(protocol.Render(key=item.picture.id, job=item.picture.job))

    def _ask_back(self, worker: Worker) -> None:
        """Ask the worker, once, for what it has been given and not begun."""
        if not self._asked_back and any(flight.since is None for flight in self._flying.values()):
            self._asked_back = True
            worker.send(protocol.Withdraw())

    # -- hearing what became of it --

    def _listen(self, worker: Worker) -> None:
        heard = worker.hear(_TICK_S)
        self._tick(worker)
        silent_s = self._silence.look(time.monotonic())
        if heard is not None:
            self._silence.broken()
            self._take(*heard)
        elif silent_s > self._settings.stuck_after_s:
            worker.kill()
            self._lost(f"the worker said nothing for {silent_s:.0f} s and was ended")

    def _tick(self, worker: Worker) -> None:
        """Say how the batch stands, a few times a second, however much is heard."""
        now = time.monotonic()
        if now - self._ticked_at >= _TICK_S:
            self._ticked_at = now
            status = self._status(worker)
            self._notice.post(status)
            self._watch(events.Tick(status))

    def _status(self, worker: Worker) -> RunStatus:
        phase: Phase = "stopping" if self._nothing_more() else "rendering" if self._pool.opened else "opening"
        return self._outcomes.progress.status(list(self._flying.values()), phase, worker.pid)

    def _take(self, event: protocol.AnyEvent | Gone, payload: bytes) -> None:
        match event:
            case protocol.Opening(what=what):
                self._watch(events.WorkerOpening(None, what))
            case protocol.Opened():
                self._pool.has_opened(event)
                self._watch(events.WorkerOpened(event))
            case protocol.OpenFailed(message=message, hint=hint):
                raise MachineError(message, hint=hint)
            case protocol.Started(key=key):
                flight = self._flying[key]
                self._outcomes.progress.began(flight)
                self._watch(events.PictureBegan(flight.item, flight.attempt))
            case protocol.Stepped(key=key, step=step, steps=steps):
                self._outcomes.progress.stepped(self._flying[key], step)
                self._watch(events.PictureStepped(self._flying[key].item, step, steps))
            case protocol.Rendered(key=key):
                self._keep(self._flying[key], event, payload)
            case protocol.Failed(key=key):
                item = self._flying.pop(key).item
                again = self._outcomes.progress.tries(item) <= self._settings.retries
                self._outcomes.failed(item, event, again=again)
                self._again += [item] * again
            case protocol.Withdrawn(keys=keys):
                self._given_back(keys)
            case Gone() if event.was_asked_to_stop and self._stop.comes():
                self._fell_with_the_run()
            case Gone():
                self._lost(str(event), event.hint)

    def _keep(self, flight: Flight, event: protocol.Rendered, payload: bytes) -> None:
        """A picture has come: write it down, unless it breaks what its job expects."""
        item, opened = flight.item, self._pool.opened
        assert opened is not None
        result = Result(item, flight.attempt, opened, event, payload)
        try:
            results.check(result)
        except PictureError as error:
            del self._flying[item.picture.id]
            failure = protocol.Failed(
                key=item.picture.id, kind=type(error).__name__, message=error.message, hint=error.hint
            )
            self._outcomes.failed(item, failure, again=False)
            return
        if known := self._outcomes.came(result):
            self._pace.learn(known)
        del self._flying[item.picture.id]

    def _given_back(self, keys: Sequence[str]) -> None:
        """What the worker had not begun: nothing has happened to it, and it may wait, where it was."""
        self._asked_back = False
        for flight in reversed([self._flying.pop(key) for key in keys]):
            self._outcomes.dropped(flight.item)
            self._waiting.put_back(flight.item)

    def _fell_with_the_run(self) -> None:
        """The worker was ended by what asks this run to stop: nothing that it held is to blame."""
        self._given_back(list(self._flying))
        self._pool.lost(blameless=True)

    def _lost(self, reason: str, hint: str = "") -> None:
        """The worker is gone. What it had begun is tried again alone, until it has brought down too many.

        Before anything was begun, the prompts of all were: then it may have been any of them.
        """
        if any(flight.since for flight in self._flying.values()):
            self._given_back([key for key, flight in self._flying.items() if flight.since is None])
        flying, self._flying = list(self._flying.values()), {}
        self._asked_back = False
        self._again += self._outcomes.crashed(flying, reason, hint, self._pool.excerpt)
        self._silence.broken()
        self._pool.lost()

    # -- ending --

    def _must_drop(self) -> bool:
        """Whether what is in flight has to be given up: asked twice to stop, or asked once and the grace is over."""
        if self._stop.requests == 0:
            return False
        now = time.monotonic()
        if self._grace_ends is None:
            self._grace_ends = now + self._settings.grace_s
            begun = sum(flight.since is not None for flight in self._flying.values())
            self._watch(events.Stopping(begun, self._settings.grace_s))
        return self._stop.requests >= _AT_ONCE or now > self._grace_ends

    def _drop_flying(self) -> None:
        """Give up what is still in flight, and say so in the journal: it is not the pictures' fault."""
        if not self._flying:
            return
        self._pool.dismiss(at_once=True)
        with contextlib.suppress(DiskError):
            for flight in self._flying.values():
                self._outcomes.dropped(flight.item)
        self._flying.clear()
