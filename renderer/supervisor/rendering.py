"""The manifests of a night on their way as one: grouped by what is opened for them, and each ended when it is through.

Assembles: pictures come from a source, a dispatcher gives them to workers, outcomes are written down, counted and told,
each to the batch that it is of. What goes wrong with one batch costs that one. Prints nothing and knows no formats.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from renderer.errors import DiskError, MachineError, RendererError
from renderer.job import Weights
from renderer.outputs.nights import NightAnswer
from renderer.outputs.summary import Ending
from renderer.planning.pace import Pace, weight
from renderer.planning.plan import Plan, Planned
from renderer.supervisor import events
from renderer.supervisor.batch import Batch
from renderer.supervisor.busy import LongWork
from renderer.supervisor.dispatcher import Dispatcher
from renderer.supervisor.events import Watch
from renderer.supervisor.groups import Group
from renderer.supervisor.heartbeat import TICK_S, NightHeart
from renderer.supervisor.joining import Arrival
from renderer.supervisor.night import Night
from renderer.supervisor.outcomes import Beside, Outcomes
from renderer.supervisor.picture_source import PlanSource
from renderer.supervisor.progress import told
from renderer.supervisor.settings import AT_ONCE
from renderer.supervisor.together import Together
from renderer.system.folders import disk_of
from renderer.text import duration

_FREEZE_S = 10.0
"""Between two times at which what many workers hold is put beyond what is looked through."""


class Joining(Protocol):
    """Manifests that join while others are rendered."""

    @property
    def may_come(self) -> bool:
        """Whether one may come still, and is to be waited for."""

    @property
    def waits_in(self) -> str:
        """The folder in which manifests are waited for, while none is on its way; empty otherwise."""

    def take(self, tell: Watch) -> list[Arrival]:
        """Those that are ready; `tell` hears first what happened meanwhile."""

    def joined(self, arrival: Arrival) -> None:
        """It is on its way."""


class Batches:
    """What is to do of several plans, and who renders it.

    `error` is what ended it, where that was no picture's and not one manifest's alone. `longest_away_s` is the longest
    time for which a dispatcher did not listen, being busy.
    """

    error: RendererError | None = None
    longest_away_s: float = 0.0

    def __init__(
        self,
        plans: Sequence[Plan],
        night: Night,
        ended: Callable[[Batch], None] = lambda _: None,
        joining: Joining | None = None,
    ) -> None:
        """`ended` hears of each batch that has ended; `joining` has others that come while these are rendered."""
        self._joining = joining
        self._dispatcher: Dispatcher | None = None
        self._joined: list[Planned] = []
        self._night = night
        self._ended = ended
        self._beside = Beside(spares=self._spares)
        self._together = Together(night.row, night.watch, self._beside)
        self._heart = NightHeart(night.watch, self._beside.tempo, self._tend)
        self._pace = Pace((item.sidecar for plan in plans for item in plan.items if item.sidecar), night.rates)
        self._open: dict[str, Batch] = {}
        self._batches = 0
        self._froze_s = time.monotonic()
        for plan in plans:
            self._take_in(plan)

    def render(self) -> None:
        """Render all there is to do, or as much as time allows, and write each one's summary, however it ends."""
        ending: Ending = "error"
        why = ""
        gc.freeze()  # looking through all plans for what nobody holds any more takes long, and finds nothing
        try:
            with self._beside.writing, self._beside.readings:
                ending = self._render()
        except RendererError as error:
            self.error, why = error, told(error)
        except Exception as error:
            why = told(error)
            raise
        finally:
            gc.unfreeze()
            for batch in list(self._open.values()):
                self._end(batch, ending, why)

    def _render(self) -> Ending:
        self._night.watch(events.NightBegan(tuple(self._open)))
        todo, begun = self._begin()
        endings: list[Ending] = [begun]
        while endings[0] == "complete" and endings[-1] not in ("signal", "failures"):
            endings.append(self._render_groups(self._groups(todo)))
            endings.append(self._finish_reading())
            todo = self._take_todo()
            if not todo and endings[-1] == "complete":  # what is kept another way is read when it is
                endings += [self._finish_rewriting(), self._finish_reading()]
                todo = self._take_todo()
            if not todo and not self._wait_for_more():
                break
            todo += self._take_todo()
        endings.append(self._finish_rewriting())
        return next((ending for ending in reversed(endings) if ending != "complete"), "complete")

    # -- batches --

    def _take_in(self, plan: Plan) -> Batch:
        mark = f"{plan.manifest.name}/" if self._batches else ""
        batch = Batch(plan, self._night, self._beside, mark)
        self._batches += 1
        self._open[batch.name] = batch
        self._together.add(batch.name, batch.outcomes)
        self._heart.add(batch.name, batch.heart)
        return batch

    def _begin(self) -> tuple[list[Planned], Ending]:
        """Have each begin, in order: what is to be rendered, and why nothing is to, if so."""
        todo: list[Planned] = []
        ending: Ending = "complete"
        for batch in list(self._open.values()):
            with batch.outcomes.guard():
                its, stopped = batch.begin()
                todo += its
                ending = stopped if ending == "complete" else ending
        self._end_those_through()
        return [item for item in todo if self._together.of(item) is not None], ending

    def _end_those_through(self, *, but: int = 1) -> None:
        """The manifests of which nothing is to be done any more need not wait for the others, `but` the last."""
        through = [batch for batch in self._open.values() if batch.is_through]
        for batch in through[: max(0, len(self._open) - but)]:
            self._end(batch, "complete")
            if batch.error is not None and self._night.settings.strict:
                raise batch.error

    # -- those that join --

    def _tend(self) -> None:
        """Time passes while pictures are rendered."""
        self._end_those_through()
        if self._night.pool.is_crowded and time.monotonic() - self._froze_s > _FREEZE_S:
            self._froze_s = time.monotonic()
            gc.collect(1)
            gc.freeze()  # what many workers hold is looked through for longer than they may be left alone
        if self._joining is not None:
            self._take_arrivals(self._joining)
            if self._dispatcher is not None and self._joined:
                joined, self._joined = self._joined, []
                for group in self._groups(joined):
                    self._dispatcher.add(group)

    def _take_todo(self) -> list[Planned]:
        """What is to be rendered besides by now: other takes of pictures, and what others that join have."""
        joined, self._joined = self._joined, []
        return [*self._together.take_retakes(), *joined]

    def _has_joined(self) -> bool:
        """Whether others have joined that have something to render, and may begin it."""
        if self._joining is not None and not self._night.has_failed_enough:
            self._take_arrivals(self._joining)
        return bool(self._joined)

    def _wait_for_more(self) -> bool:
        """Wait until something is to be done for others that join: whether there is; not, where the run is to end."""
        if self._joining is None or self._night.has_failed_enough:
            return False
        self._take_arrivals(self._joining)
        since_s, is_told, pool = time.monotonic(), False, self._night.pool
        while self._joining.may_come and not self._has_work and self._night.asked_to_end() is None:
            self._end_those_through(but=0)
            if not is_told and self._joining.waits_in:
                is_told = True
                self._night.watch(events.Waiting(self._joining.waits_in))
            if time.monotonic() - since_s > self._night.pause.keeps_s and pool.is_open:
                pool.dismiss()  # others may want the GPU's memory
            self._heart.beat(pool, "preparing")
            time.sleep(TICK_S)
            self._take_arrivals(self._joining)
        return self._has_work and self._night.asked_to_end() is None

    @property
    def _has_work(self) -> bool:
        """Whether anything is to be rendered, copied, read, or kept another way."""
        return bool(self._joined or self._beside.writing or self._beside.readings or self._together.to_rewrite)

    def _take_arrivals(self, joining: Joining) -> None:
        for arrival in joining.take(self._night.watch):
            self._night.knows(arrival.provided)
            batch = self._take_in(arrival.plan)
            joining.joined(arrival)
            self._pace.learn_other(item.sidecar for item in arrival.plan.items if item.sidecar)
            todo: list[Planned] = []
            with batch.outcomes.guard():
                todo, _ = batch.begin()
                self._joined += todo
            if (error := batch.outcomes.error) is not None:
                arrival.answer(NightAnswer(text=error.message, hint=error.hint, error=True))
            else:
                arrival.answer(NightAnswer(text=self._told_of(batch, todo)))

    def _told_of(self, batch: Batch, todo: Sequence[Planned]) -> str:
        """What a manifest that joins has to render, and how long that takes, as far as it is known."""
        each = [self._pace.expect_s(item, self._night.deployments[_weights(item)].setup.profile) for item in todo]
        known = [seconds for seconds in each if seconds is not None]
        takes = f", about {duration(sum(known))} of this run's time" if known and len(known) == len(each) else ""
        refused = sum(failure.refused for failure in batch.outcomes.progress.failures.values())
        more = f", {refused} refused" if refused else ""
        return f"{batch.name} joins: {len(todo)} to render{more}, {batch.plan.count('done')} done{takes}"

    def _end(self, batch: Batch, ending: Ending, why: str = "") -> None:
        del self._open[batch.name]
        self._together.remove(batch.name)
        batch.end(ending, why)
        self._heart.remove(batch.name)
        self._ended(batch)

    def _spares(self, outcomes: Outcomes, error: DiskError) -> bool:
        """Whether an error of one manifest leaves others, or those that may join: with `--strict` it leaves none.

        Where its disk takes nothing more, all of that disk end with it.
        """
        if self._night.settings.strict:
            return False
        its = next((batch for batch in self._open.values() if batch.outcomes is outcomes), None)
        if its is None:  # it has ended: nothing more becomes of it
            return True
        lost = [batch for batch in self._open.values() if error.ends_the_night and batch.shares_disk(its)] or [its]
        left = [batch for batch in self._open.values() if batch not in lost and batch.outcomes.error is None]
        here = error.ends_the_night and its.lies_on(disk_of(self._night.settings.outputs))  # where others would go, too
        if not left and (here or self._joining is None or not self._joining.may_come):
            return False
        for batch in lost:
            batch.outcomes.error = batch.outcomes.error or error
        if error.ends_the_night and left:
            self._night.watch(events.Remark(_told_of_disk(error, lost, left)))
        return True

    # -- what is rendered --

    def _groups(self, todo: Sequence[Planned]) -> list[Group]:
        """The pictures by what has to be opened for them, so that nothing is opened twice: in the manifests' order.

        Those of higher priority come first, whatever has to be opened for them. Where there are several workers, what
        takes longest comes first, so that all end at about the same time.
        """
        by_weights: dict[tuple[float, Weights], list[Planned]] = {}
        for item in todo:
            batch = self._together.of(item)
            key = (-batch.priority if batch else 0.0), Weights.of(item.picture.job)
            by_weights.setdefault(key, []).append(item)
        several = len(self._night.pool.seats) > 1
        groups = [
            (key, sorted(items, key=lambda item: (item.suspect, -weight(item) if several else 0.0)))
            for key, items in by_weights.items()
        ]
        groups.sort(key=lambda group: (group[0][0], -sum(map(weight, group[1])) if several else 0.0))
        return [
            Group(
                PlanSource(items),
                self._night.deployments[weights],
                comes_later=partial(self._beside.readings.waits_for, weights),
                priority=-below,
            )
            for (below, weights), items in groups
        ]

    def _render_groups(self, groups: Sequence[Group]) -> Ending:
        dispatcher = Dispatcher(groups, self._together, self._night, self._pace, self._heart, self._cannot_open)
        try:
            self._dispatcher = dispatcher
            return dispatcher.run()
        finally:
            self._dispatcher = None
            self.longest_away_s = max(self.longest_away_s, dispatcher.longest_away_s)

    def _cannot_open(self, group: Group, error: MachineError) -> None:
        """A model that does not open fails its pictures with that reason, those of all manifests."""
        if self._night.settings.strict:
            raise error
        self._night.troubles[group.weights] = error
        for item in group.source.give_up():
            if (batch := self._together.of(item)) is not None:
                batch.progress.is_not_waited_for(item)
                self._together.refused(item, error)

    # -- what lies in the folders already --

    def _finish_reading(self) -> Ending:
        """Read what lies there, after all that was to be rendered; what comes of it may be another take.

        Others that join have their turn before all is read: it goes on beside that.
        """
        unread = self._beside.readings
        busy, total = LongWork(self._night.watch, self._name, "reading what pictures say"), len(unread)
        while left := len(unread):
            if ending := self._night.asked_to_end():
                return ending
            if self._has_joined():
                break
            unread.wait(TICK_S)
            unread.tend()
            total = max(total, left)
            self._tell_of(busy, total - left, total)
        return "complete"

    def _finish_rewriting(self) -> Ending:
        """Go on with it when nothing is rendered any more, until somebody asks to end."""
        busy = LongWork(self._night.watch, self._name, "keeping pictures another way")
        total = self._together.to_rewrite
        ending: Ending | None = None
        while left := self._together.to_rewrite:
            if (ending := self._night.asked_to_end()) is not None or self._has_joined():
                break
            self._together.rewrite(TICK_S, more=True)
            total = max(total, left)
            self._tell_of(busy, total - self._together.to_rewrite, total)
        while self._together.rewrite(TICK_S, more=False) and self._night.stop.requests < AT_ONCE:
            pass
        return ending if ending and self._together.to_rewrite else "complete"

    @property
    def _name(self) -> str:
        return ", ".join(self._open)

    def _tell_of(self, busy: LongWork, done: int, total: int) -> None:
        self._end_those_through()
        for batch in self._open.values():
            batch.heart.preparing()
        busy.tell(done, total)


def _told_of_disk(error: DiskError, lost: Sequence[Batch], left: Sequence[Batch]) -> str:
    ends, go = ", ".join(batch.name for batch in lost), ", ".join(batch.name for batch in left)
    verbs = "ends" if len(lost) == 1 else "end", "goes" if len(left) == 1 else "go"
    return f"{error.message}: {ends} {verbs[0]} here, and {go} {verbs[1]} on, on another disk"


def _weights(item: Planned) -> Weights:
    return Weights.of(item.picture.job)
