"""One manifest's pictures: what lies there already is moved, what is to do is rendered, and a summary says how it went.

Assembles: pictures come from a source, a dispatcher gives them to workers, outcomes are written down, counted and told.
Prints nothing and knows no formats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from renderer.errors import DiskError, MachineError, RendererError
from renderer.job import Weights
from renderer.outputs.summary import Ending, Summary, write_summary
from renderer.planning.pace import Pace, weight
from renderer.planning.plan import Plan, Planned
from renderer.supervisor import events, readings
from renderer.supervisor.busy import LongWork
from renderer.supervisor.dealing import Group
from renderer.supervisor.dispatcher import Dispatcher
from renderer.supervisor.heartbeat import TICK_S, Heartbeat
from renderer.supervisor.night import Night
from renderer.supervisor.outcomes import Outcomes
from renderer.supervisor.picture_source import PlanSource
from renderer.supervisor.progress import told
from renderer.supervisor.settings import AT_ONCE


class Batch:
    """One manifest's pictures on their way.

    `error` is what ended it, where that was no picture's: of this manifest, or of the night. `longest_away_s` is the
    longest time for which its dispatcher did not listen, being busy.
    """

    error: RendererError | None = None
    longest_away_s: float = 0.0

    def __init__(self, plan: Plan, night: Night) -> None:
        self._plan = plan
        self._night = night
        self._outcomes = Outcomes(plan, night.row, night.watch)
        self._bringing = self._outcomes.bringing
        self._heart = Heartbeat(plan.folder, self._outcomes.progress, night.watch)
        self._pace = Pace((item.sidecar for item in plan.items if item.sidecar), night.rates)

    def render(self) -> Summary:
        """Render all there is to do, or as much as time allows, and write the summary, however it ends."""
        ending: Ending = "error"
        unforeseen = ""
        try:
            with self._bringing, self._outcomes.writing, self._outcomes.readings:
                ending = self._render()
        except RendererError as error:
            self.error = error
        except Exception as error:
            unforeseen = told(error)
            raise
        finally:
            self._heart.end()
            summary = self._outcomes.progress.summary(ending, told(self.error) if self.error else unforeseen)
            try:
                write_summary(self._plan.folder, summary)
            except DiskError as error:
                self.error = self.error or error
            self._night.watch(events.BatchEnded(summary, self._outcomes.plan_now()))
        return summary

    def _render(self) -> Ending:
        to_render = self._plan.to_render()
        todo = [item for item in to_render if self._night.refusal(item.picture.job) is None]
        self._outcomes.begin(todo)
        self._refuse(item for item in to_render if self._night.refusal(item.picture.job) is not None)
        endings: list[Ending] = [self._move()]
        if endings[0] == "complete":
            self._outcomes.read_what_is_there()
        while endings[0] == "complete" and endings[-1] not in ("signal", "failures"):
            endings.append(self._render_groups(self._groups(todo)))
            endings.append(self._finish_reading())
            todo = self._outcomes.take_retakes()
            if not todo and endings[-1] == "complete":  # what is kept another way is read when it is
                endings += [self._finish_rewriting(), self._finish_reading()]
                todo = self._outcomes.take_retakes()
            if not todo:
                break
        endings.append(self._finish_rewriting())
        return next((ending for ending in reversed(endings) if ending != "complete"), "complete")

    # -- what is rendered --

    def _groups(self, todo: Sequence[Planned]) -> list[Group]:
        """The pictures by what has to be opened for them, so that nothing is opened twice: in the manifest's order.

        Where there are several workers, what takes longest comes first, so that all end at about the same time.
        """
        unread = self._outcomes.readings
        by_weights: dict[Weights, list[Planned]] = {}
        for item in todo:
            by_weights.setdefault(Weights.of(item.picture.job), []).append(item)
        groups = list(by_weights.items())
        if len(self._night.pool.seats) > 1:
            groups = [(key, sorted(items, key=lambda item: (item.suspect, -weight(item)))) for key, items in groups]
            groups.sort(key=lambda group: -sum(map(weight, group[1])))
        return [
            Group(PlanSource(items), self._night.deployments[key], comes_later=partial(unread.waits_for, key))
            for key, items in groups
        ]

    def _render_groups(self, groups: Sequence[Group]) -> Ending:
        dispatcher = Dispatcher(groups, self._outcomes, self._night, self._pace, self._heart, self._cannot_open)
        try:
            return dispatcher.run(self._plan.folder.worker_log_of)
        finally:
            self.longest_away_s = max(self.longest_away_s, dispatcher.longest_away_s)

    def _cannot_open(self, group: Group, error: MachineError) -> None:
        """A model that does not open fails its pictures with that reason, those of later manifests too."""
        if self._night.settings.strict:
            raise error
        self._night.troubles[group.deployment.setup.weights] = error
        left = group.source.give_up()
        for item in left:
            self._outcomes.progress.is_not_waited_for(item)
        self._refuse(left)

    def _refuse(self, items: Iterable[Planned]) -> None:
        """Say of what cannot be rendered here why: it costs nothing, and the others go on."""
        for item in items:
            refusal = self._night.refusal(item.picture.job)
            assert refusal is not None
            self._outcomes.refused(item, refusal)

    # -- what lies in the folder already --

    def _move(self) -> Ending:
        """Move what lies under another name, before anything is rendered over it."""
        busy = LongWork(self._night.watch, self._plan.manifest.name, "moving pictures to their new names")
        moves, moved = self._bringing.move(), 0
        while moved < self._bringing.to_move:
            if ending := self._night.asked_to_end():
                return ending
            moved = next(moves)
            self._tell_of(busy, moved, self._bringing.to_move)
        now = self._outcomes.plan_now()
        readings.clear(self._plan.folder, {item.source.output for item in now.items if item.source is not None})
        self._bringing.clear_aside({item.fingerprint for item in now.items if item.state == "done"})
        return "complete"

    def _finish_reading(self) -> Ending:
        """Read what lies there, after all that was to be rendered; what comes of it may be another take."""
        busy = LongWork(self._night.watch, self._plan.manifest.name, "reading what pictures say")
        total = len(self._outcomes.readings)
        while left := len(self._outcomes.readings):
            if ending := self._night.asked_to_end():
                return ending
            self._outcomes.readings.wait(TICK_S)
            self._outcomes.readings.tend()
            self._tell_of(busy, total - left, total)
        return "complete"

    def _finish_rewriting(self) -> Ending:
        """Go on with it when nothing is rendered any more, until somebody asks to end."""
        busy = LongWork(self._night.watch, self._plan.manifest.name, "keeping pictures another way")
        total = self._bringing.to_rewrite
        ending: Ending | None = None
        while self._bringing.to_rewrite and (ending := self._night.asked_to_end()) is None:
            self._bringing.rewrite(TICK_S)
            self._tell_of(busy, total - self._bringing.to_rewrite, total)
        while self._bringing.rewrite(TICK_S, more=False) and self._night.stop.requests < AT_ONCE:
            pass
        return ending if ending and self._bringing.to_rewrite else "complete"

    def _tell_of(self, busy: LongWork, done: int, total: int) -> None:
        self._heart.preparing()
        busy.tell(done, total)
