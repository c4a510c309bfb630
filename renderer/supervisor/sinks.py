"""What becomes of pictures, as frozen values, and who hears of it: each is told to all, the journal first.

One hears to write it down, one to know how the plan stands, one to tell whoever watches; `progress` counts. A sink
decides nothing, and knows no workers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

from renderer.job import Sidecar
from renderer.outputs.done import Done
from renderer.outputs.journal import Journal
from renderer.planning import takes
from renderer.planning.plan import Plan, Planned, State
from renderer.supervisor import events
from renderer.supervisor.events import Watch


@dataclass(frozen=True, slots=True)
class Attempted:
    """It is about to be given to a worker."""

    item: Planned


@dataclass(frozen=True, slots=True)
class Dropped:
    """The attempt was given up, through no fault of its own."""

    item: Planned


@dataclass(frozen=True, slots=True)
class Crashed:
    """A worker died with it in its hands."""

    item: Planned
    reason: str


@dataclass(frozen=True, slots=True)
class Present:
    """It is in its place as it is to be: `rendered`, or brought there from where it lay."""

    item: Planned
    sidecar: Sidecar
    known: Done
    rendered: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """It has been rendered, and its lettering is to be read: one take of perhaps several."""

    item: Planned
    sidecar: Sidecar


@dataclass(frozen=True, slots=True)
class Misread:
    """It is in its place, no other take will come, and its lettering is not what its job expects."""

    item: Planned
    known: Done
    message: str


@dataclass(frozen=True, slots=True)
class Missing:
    """It is not there, and why.

    `how`: it failed, its worker died, it shares the fate of one of the same fingerprint, or it was refused. `again`: it
    is tried again in this run. `tried` says that it was work, which one that was to be brought is not. `kind` is the
    error's name and `detail` the end of its traceback, where a worker told them.
    """

    item: Planned
    message: str
    hint: str = ""
    how: Literal["failed", "crashed", "twin", "refused"] = "failed"
    again: bool = False
    set_aside: bool = False
    tried: bool = True
    kind: str = ""
    detail: str = ""


PictureOutcome = Attempted | Dropped | Crashed | Taken | Present | Misread | Missing


class Sink(Protocol):
    """Hears what becomes of the pictures of one batch."""

    def hear(self, outcome: PictureOutcome) -> None:
        """It has become so. Raises `DiskError` where it cannot be written down and must be."""


class JournalSink:
    """Writes down what happened, before anybody else hears of it: also before a worker hears of an attempt.

    Raises `LeaseLostError` where the folder, and so its journal, is another run's by now.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def hear(self, outcome: PictureOutcome) -> None:
        picture_id, fingerprint = outcome.item.picture.id, outcome.item.fingerprint
        match outcome:
            case Attempted():
                self._journal.write("attempt", picture_id, fingerprint)
            case Dropped():
                self._journal.write("dropped", picture_id, fingerprint)
            case Crashed(reason=reason):
                self._journal.write("crashed", picture_id, fingerprint, reason)
            case Present() | Taken():
                self._journal.write("done", picture_id, fingerprint)
            case Missing(how="failed", message=message):
                self._journal.write("failed", picture_id, fingerprint, message)


class PlanSink:
    """Knows how a plan's pictures stand now. Of those that came later, and are in no plan, it keeps nothing."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ids = {item.picture.id for item in plan.items}
        self._changed: dict[str, Planned] = {}

    def plan_now(self) -> Plan:
        """The plan, with what has become of its pictures."""
        return self._plan.updated(self._changed)

    def hear(self, outcome: PictureOutcome) -> None:
        item = outcome.item
        match outcome:
            case Present(known=known):
                now = replace(item, state="done", note="", sidecar=known, source=None, twin="")
            case Misread(known=known, message=message):
                now = replace(item, state="failed", note=message, sidecar=known, source=None, twin="")
            case Missing(how="failed" | "crashed" | "twin" as how, message=message, set_aside=set_aside):
                state: State = "set aside" if set_aside else "failed"
                now = replace(item, state=state, note=message, suspect=item.suspect or how == "crashed")
            case _:
                return
        if item.picture.id in self._ids:
            self._changed[item.picture.id] = now


class WatchSink:
    """Tells whoever watches."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def hear(self, outcome: PictureOutcome) -> None:
        match outcome:
            case Present(rendered=True):
                self._watch(events.PictureDone(outcome.item, outcome.sidecar))
            case Misread(item=item, message=message):
                self._watch(events.PictureFailed(item, message, takes.KEPT_HINT, again=False))
            case Missing():
                told = (outcome.item, outcome.message, outcome.hint, outcome.again, outcome.kind, outcome.detail)
                self._watch(events.PictureFailed(*told, refused=outcome.how == "refused"))
