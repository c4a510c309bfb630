"""One manifest's part of a night: what lies there already is moved, what is to do is known, and a summary ends it.

Assembles what a batch has of its own; who renders its pictures, beside those of others, is `rendering`'s business.
Prints nothing and knows no formats.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from renderer.errors import DiskError, LeaseLostError, RendererError
from renderer.outputs.summary import Ending, write_summary
from renderer.planning.plan import Plan, Planned
from renderer.supervisor import events, readings
from renderer.supervisor.busy import LongWork
from renderer.supervisor.heartbeat import Heartbeat
from renderer.supervisor.night import Night
from renderer.supervisor.outcomes import Beside, Outcomes
from renderer.supervisor.progress import told
from renderer.system.folders import disk_of


class Batch:
    """One manifest's pictures on their way. As a context, it ends what it does beside the rendering.

    `error` is what ended it, where that was no picture's: of this manifest, or of the night.
    """

    error: RendererError | None = None

    def __init__(self, plan: Plan, night: Night, beside: Beside, mark: str = "") -> None:
        """`mark` stands before its pictures' ids where workers have those of several manifests."""
        self.plan = plan
        self._disk = disk_of(plan.folder.path)
        self._night = night
        self.outcomes = Outcomes(plan, night.row, night.watch, beside, mark)
        self.heart = Heartbeat(plan.folder, self.outcomes.progress, night.watch)
        self._has_begun = False
        self._held = contextlib.ExitStack()
        self._held.enter_context(self.outcomes.bringing)

    @property
    def name(self) -> str:
        """Its manifest's."""
        return self.plan.manifest.name

    @property
    def is_through(self) -> bool:
        """Whether nothing of it is to be done any more."""
        return (self._has_begun or self.outcomes.error is not None) and self.outcomes.is_through

    def shares_disk(self, other: Batch) -> bool:
        """Whether what another's disk takes no more, this one's does not either: a full disk, or one that has gone.

        Where another's folder alone has gone, as a link that leads nowhere now, this one's is as it was.
        """
        return self._disk == other._disk and self._has_gone == other._has_gone

    @property
    def _has_gone(self) -> bool:
        return disk_of(self.plan.folder.path) != self._disk

    def lies_on(self, disk: int | Path) -> bool:
        """Whether its folder is on this disk, and was when it began."""
        return self._disk == disk and not self._has_gone

    def begin(self) -> tuple[list[Planned], Ending]:
        """Move what lies under another name: what is to be rendered then, and why nothing is to begin, if so.

        What cannot be rendered here is refused: that costs nothing, and the others go on.
        """
        to_render = self.plan.to_render()
        todo = [item for item in to_render if self._night.refusal(item.picture.job) is None]
        self.outcomes.begin(todo)
        self.refuse(item for item in to_render if self._night.refusal(item.picture.job) is not None)
        ending = self._move()
        if ending == "complete":
            self.outcomes.read_what_is_there()
            self._has_begun = True
        return todo, ending

    def refuse(self, items: Iterable[Planned]) -> None:
        """Say of what cannot be rendered here why."""
        for item in items:
            refusal = self._night.refusal(item.picture.job)
            assert refusal is not None
            self.outcomes.refused(item, refusal)

    def end(self, ending: Ending, why: str = "") -> None:
        """Write the summary. What has come of it is there: it is complete, however the night ends, where all is."""
        self._held.close()
        self.error = self.outcomes.error
        if self.error is not None:
            ending, why = "error", told(self.error)
        elif self.is_through and ending != "error":
            ending = "complete"
        self.heart.end()
        self.summary = self.outcomes.progress.summary(ending, why, self._night.left_out)
        try:
            readings.tidy(self.plan.folder)
            write_summary(self.plan.folder, self.summary)
        except DiskError as error:
            self.error = self.error or error
            self.summary = self.outcomes.progress.summary("error", why or told(error))
        except LeaseLostError:
            pass  # whoever has the folder now writes there how it went
        self._night.watch(events.BatchEnded(self.summary, self.outcomes.plan_now()))

    def _move(self) -> Ending:
        """Move what lies under another name, before anything is rendered over it."""
        bringing = self.outcomes.bringing
        busy = LongWork(self._night.watch, self.name, "moving pictures to their new names")
        moves, moved = bringing.move(), 0
        while moved < bringing.to_move:
            if ending := self._night.asked_to_end():
                return ending
            moved = next(moves)
            self.heart.preparing()
            busy.tell(moved, bringing.to_move)
        now = self.outcomes.plan_now()
        readings.clear(self.plan.folder, {item.source.output for item in now.items if item.source is not None})
        bringing.clear_aside({item.fingerprint for item in now.items if item.state == "done"})
        return "complete"
