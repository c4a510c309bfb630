"""What has happened in one batch so far: rendered, failed, tried; how fast it goes and how long the rest will take.

Counts and clocks; the batch tells it what happens. Knows nothing of workers or files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from renderer.errors import RendererError
from renderer.job import LetteringRead, Memory, Sidecar
from renderer.manifest.manifest import Manifest
from renderer.outputs.done import DoneLettering
from renderer.outputs.status import InFlight, NightStatus, Phase, RunStatus, WorkerStatus
from renderer.outputs.summary import DeviceCounts, Ending, Failure, LetteringCounts, Summary
from renderer.planning import takes
from renderer.planning.pace import weight
from renderer.planning.plan import Plan, Planned
from renderer.planning.retakes import RetakeRate
from renderer.supervisor.sinks import Attempted, Crashed, Dropped, Misread, Missing, PictureOutcome, Present, Taken
from renderer.supervisor.tempo import Tempo
from renderer.supervisor.work_left import WorkLeft

_RIGHT = 1 - 1e-9
"""The score of lettering that is wholly as it was wanted."""


@dataclass(slots=True)
class Flight:
    """A picture that a worker has been given, and has not answered. `since` is when its turn came, if it has.

    `work` is what it takes beside others (`pace.weight`).

    `key` is what the worker calls it: its id, which may be another's too where several manifests are rendered; `where`
    is which of several workers has it.
    """

    item: Planned
    attempt: int
    step: int = 0
    since: datetime | None = None
    key: str = ""
    work: float = 0.0
    where: str = ""

    def __post_init__(self) -> None:
        self.key = self.key or self.item.picture.id
        self.work = self.work or weight(self.item)

    @property
    def steps(self) -> int:
        return self.item.picture.job.num_inference_steps


@dataclass(slots=True)
class FailureRow:
    """How many failures have come one after the other, over all batches of a run.

    While a picture is written, later ones may fail already: its success ends the row where the picture came.
    """

    total: int = 0
    _broken_at: int = 0

    @property
    def failures(self) -> int:
        return self.total - self._broken_at

    def broken(self, at: int) -> None:
        """A picture succeeded that had come when there were `at` failures in all."""
        self._broken_at = max(self._broken_at, at)


@dataclass(slots=True)
class BatchProgress:
    """One batch's counts, from its beginning on: a sink of outcomes.

    `to_render` counts what is to be rendered, `rendered` what was; `brought` the chosen pictures that were there, under
    another name or kept another way. Of what was rendered no more is kept than these: a server runs for months.
    `tempo` is that of all batches that are on their way together; `open_ids` are pictures that are to come still.
    """

    plan: Plan
    row: FailureRow = field(default_factory=FailureRow)
    tempo: Tempo = field(default_factory=Tempo)
    to_render: int = 0
    brought: int = 0
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    rendered: int = 0
    rendering_s: float = 0.0
    read: int = 0
    right: int = 0
    retakes: int = 0
    peaks: Memory = field(default_factory=Memory)
    failures: dict[str, Failure] = field(default_factory=dict)
    open_ids: set[str] = field(default_factory=set)
    _tries: dict[str, int] = field(default_factory=dict)
    _began_s: float = field(default_factory=time.monotonic)
    _has_had_turn: bool = False
    _work: WorkLeft = field(default_factory=WorkLeft)
    _mean_work: float = 0.0
    _devices: dict[str, DeviceCounts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for item in self.plan.chosen:
            set_aside = item.state == "set aside"
            if set_aside or (item.state == "failed" and item.sidecar is not None):
                self.failures[item.picture.id] = Failure(id=item.picture.id, message=item.note, set_aside=set_aside)

    # -- what happens --

    def begin(self, todo: Sequence[Planned]) -> None:
        """The batch has begun: these are to be rendered."""
        self.began_at, self._began_s = datetime.now(UTC), time.monotonic()
        self.to_render = len(todo)
        self.open_ids = {item.picture.id for item in todo}
        self._work = WorkLeft(RetakeRate.of(self.plan.items))
        for item in todo:
            self._work.comes(item)
        self._mean_work = sum(map(weight, todo)) / max(1, len(todo))

    def joins(self, item: Planned) -> None:
        """One more is to be rendered, which nobody knew of at the beginning."""
        self.to_render += 1
        self._work.comes(item)
        self._mean_work += (weight(item) - self._mean_work) / self.to_render

    def hear(self, outcome: PictureOutcome) -> None:
        """Count what has become of a picture. A try that never began is none."""
        item = outcome.item
        match outcome:
            case Attempted():
                self._is_attempted(item)
            case Dropped():
                self._tries[item.picture.id] = self.tries(item) - 1
            case Taken(sidecar=sidecar):
                self._has_rendered(item, sidecar)
            case Present(rendered=True, sidecar=sidecar):
                if item.picture.lettering is None:
                    self._has_rendered(item, sidecar)
                self._is_over(item)
                self.rendered += 1
                self.failures.pop(item.picture.id, None)
                self._has_read(item, sidecar.lettering, right=True)
            case Present(sidecar=sidecar):
                self._is_over(item)
                self._has_been_brought(item)
                self._has_read(item, sidecar.lettering, right=True)
            case Misread(message=message, known=known):
                self._is_over(item)
                self.failures[item.picture.id] = Failure(id=item.picture.id, message=message)
                self._has_read(item, known.lettering, right=False)
            case Missing():
                self._is_missing(outcome)
            case Crashed():  # the journal's; that it is missing follows
                pass

    def tries(self, item: Planned) -> int:
        return self._tries.get(item.picture.id, 0)

    def began(self, flight: Flight) -> None:
        flight.since, flight.step = datetime.now(UTC), 0
        self.tempo.began()

    def stepped(self, flight: Flight, step: int) -> None:
        more = flight.work * max(0, step - flight.step) / flight.steps
        flight.step = step
        self.tempo.worked(more)

    def is_not_waited_for(self, item: Planned) -> None:
        """A picture that was to be rendered will not be."""
        self._is_over(item)

    def takes_part(self, item: Planned) -> None:
        """A picture is to be rendered in the place of another of the same fingerprint."""
        self.open_ids.add(item.picture.id)
        self._work.comes(item)

    @property
    def work_left(self) -> float:
        """What is to be done still, beside other work (`pace.weight`)."""
        return self._work.total

    @property
    def mean_work(self) -> float:
        """A picture's."""
        return self._mean_work

    def _is_over(self, item: Planned) -> None:
        self.open_ids.discard(item.picture.id)
        self._work.ends(item)

    def _is_attempted(self, item: Planned) -> None:
        """Its batch's turn has come where it is the first, and others were rendered before it."""
        if self.tempo.has_begun and not self._has_had_turn:
            self.began_at, self._began_s = datetime.now(UTC), time.monotonic()
        self._has_had_turn = True
        self._tries[item.picture.id] = self.tries(item) + 1

    def is_retaken(self, item: Planned, *, rendered: bool) -> None:
        """One more take is to be rendered of a picture: one that was rendered in this run, or that was there."""
        if rendered:
            self._work.comes(item)
        else:
            self.joins(item)
        self._work.rate.learn(wrong=True)
        self.open_ids.add(item.picture.id)
        self.retakes += 1

    def _has_read(self, item: Planned, read: LetteringRead | DoneLettering | None, *, right: bool) -> None:
        """Its lettering has been read in this run, and no other take of it will come."""
        if item.picture.lettering is not None and read is not None:
            self.read += 1
            self._work.rate.learn(wrong=takes.is_wrong(item.picture, read.score))
            self.right += right and read.score >= _RIGHT

    def _has_rendered(self, item: Planned, sidecar: Sidecar) -> None:
        """A picture has been rendered, though perhaps another take of it is to come."""
        self.rendering_s += sidecar.timing.total_s or 0.0
        self.peaks = _larger(self.peaks, sidecar.memory)
        self._count_device(sidecar)
        self._tries.pop(item.picture.id, None)
        self._work.is_rendered(item)
        self.tempo.rendered()

    def _count_device(self, sidecar: Sidecar) -> None:
        """Where there are several, each has counts of its own."""
        if sidecar.worker:
            known = self._devices.get(sidecar.worker, DeviceCounts(where=sidecar.worker))
            own = {
                "card": sidecar.gpu.described if sidecar.gpu else "",
                "rendered": known.rendered + 1,
                "busy_s": known.busy_s + sidecar.own_s,
                "memory": _larger(known.memory, sidecar.memory),
            }
            self._devices[sidecar.worker] = known.model_copy(update=own)

    def _has_been_brought(self, item: Planned) -> None:
        """A picture is in its place that was not rendered for it."""
        if self.plan.is_chosen(item):
            self.brought += 1
            self.failures.pop(item.picture.id, None)

    def _is_missing(self, what: Missing) -> None:
        """One that was not tried was to be no work, and breaks no row."""
        picture_id, refused = what.item.picture.id, what.how == "refused"
        self.failures[picture_id] = Failure(
            id=picture_id, message=what.message, hint=what.hint, set_aside=what.set_aside, refused=refused
        )
        if not what.again:
            self._is_over(what.item)
        self.row.total += what.tried

    # -- what can be said of it --

    def status(
        self,
        flights: Sequence[Flight],
        phase: Phase,
        workers: Sequence[WorkerStatus] = (),
        night: NightStatus | None = None,
    ) -> RunStatus:
        """How the batch stands at this moment. In a `night` of several, how long the rest takes is said of them all."""
        rate = self.tempo.work_per_s(self._mean_work) if night is None else None
        flying = [flight for flight in flights if flight.since is not None]
        passed = sum(flight.work * flight.step / flight.steps for flight in flying)
        return RunStatus(
            name=self.plan.manifest.name,
            phase=phase,
            began_at=self.began_at,
            at=datetime.now(UTC),
            pid=os.getpid(),
            worker_pid=next((worker.pid for worker in workers if worker.pid is not None), None),
            workers=tuple(workers) if len(workers) > 1 else (),
            to_render=self.to_render,
            done=self.rendered,
            failed=self.count_failed(),
            night=night,
            queued=len(flights) - len(flying),
            in_flight=in_flight(flying),
            pictures_per_hour=rate * 3600 / self._mean_work if rate and self._mean_work else None,
            left_s=max(0.0, self.work_left - passed) / rate if rate else None,
        )

    def count_failed(self) -> int:
        """Pictures that were tried and are not there, and are not set aside."""
        return sum(not failure.refused and not failure.set_aside for failure in self.failures.values())

    def summary(self, ending: Ending, error: str = "", left_out: Mapping[str, str] | None = None) -> Summary:
        """How it went; `left_out` says why devices were left out, by where they are."""
        why = left_out or {}
        devices = {where: DeviceCounts(where=where) for where in why} | self._devices
        elapsed_s = time.monotonic() - self._began_s
        skipped = self.plan.count("done") + self.brought
        chosen = len(self.plan.chosen)
        return Summary(
            name=self.plan.manifest.name,
            manifest=self.plan.manifest.file,
            ending=ending,
            error=error,
            began_at=self.began_at,
            ended_at=datetime.now(UTC),
            pictures=len(self.plan.items),
            rendered=self.rendered,
            skipped=skipped,
            brought=self.brought,
            failed=self.count_failed(),
            refused=sum(failure.refused for failure in self.failures.values()),
            set_aside=sum(failure.set_aside for failure in self.failures.values()),
            left=chosen - self.rendered - skipped - len(self.failures),
            not_chosen=len(self.plan.items) - chosen,
            elapsed_s=elapsed_s,
            rendering_s=self.rendering_s,
            pictures_per_hour=self.rendered * 3600 / elapsed_s if self.rendered else None,
            memory=self.peaks,
            failures=tuple(self.failures.values()),
            lettering=LetteringCounts(read=self.read, right=self.right, retakes=self.retakes) if self.read else None,
            devices=tuple(
                each.model_copy(update={"left_out": why.get(where, "")}) for where, each in sorted(devices.items())
            ),
        )


def by_id(flight: Flight) -> str:
    """What people call a picture in flight."""
    return flight.item.picture.id


def in_flight(flights: Iterable[Flight], name: Callable[[Flight], str] = by_id) -> tuple[InFlight, ...]:
    """What has been begun of these, for others to read, each by its `name`."""
    return tuple(
        InFlight(
            id=name(each), step=each.step, steps=each.steps, attempt=each.attempt, since=each.since, where=each.where
        )
        for each in flights
        if each.since is not None
    )


def never_begun(manifest: Manifest, ending: Ending, error: str = "") -> Summary:
    """The summary of a manifest whose turn did not come."""
    now = datetime.now(UTC)
    return Summary(
        name=manifest.name,
        manifest=manifest.file,
        ending=ending,
        error=error,
        began_at=now,
        ended_at=now,
        pictures=len(manifest.pictures),
        rendered=0,
        skipped=0,
        failed=0,
        refused=0,
        set_aside=0,
        left=len(manifest.pictures),
        elapsed_s=0.0,
        rendering_s=0.0,
        pictures_per_hour=None,
        memory=Memory(),
    )


def told(error: BaseException) -> str:
    """An error as a summary says it; one that nobody foresaw by its kind too."""
    if isinstance(error, RendererError):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    return f"{type(error).__name__}: {error}"


def _larger(one: Memory, other: Memory) -> Memory:
    """The larger of each figure; None where neither has it."""
    pairs = ((name, getattr(one, name), getattr(other, name)) for name in Memory.model_fields)
    return Memory(**{name: max(here or 0, there or 0) for name, here, there in pairs if (here, there) != (None, None)})
