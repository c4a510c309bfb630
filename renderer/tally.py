"""What has happened in one batch so far: rendered, failed, tried; how fast it goes and how long the rest will take.

Counts and clocks; the batch tells it what happens. Knows nothing of workers or files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from renderer.job import Ending, Failure, Memory, Sidecar, Summary
from renderer.pace import weight
from renderer.plan import Plan, Planned
from renderer.standing import InFlight, Phase, Standing


@dataclass(slots=True)
class Flight:
    """A picture that a worker has been given, and has not answered. `since` is when its turn came, if it has."""

    item: Planned
    attempt: int
    step: int = 0
    since: datetime | None = None

    @property
    def steps(self) -> int:
        return self.item.picture.job.num_inference_steps


@dataclass(slots=True)
class Tally:
    """One batch's counts. `todo` is what was to be rendered; `rewritten` were only kept another way."""

    plan: Plan
    todo: Sequence[Planned]
    rewritten: int = 0
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    rendered: list[Sidecar] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)
    in_a_row: int = 0
    _tries: dict[str, int] = field(default_factory=dict)
    _began_s: float = field(default_factory=time.monotonic)
    _first_s: float | None = None
    _worked: float = 0.0
    _warm_s: float | None = None
    _warm_worked: float = 0.0
    _work_left: float = 0.0
    _mean_work: float = 0.0

    def __post_init__(self) -> None:
        self._work_left = sum(map(weight, self.todo))
        self._mean_work = self._work_left / max(1, len(self.todo))
        for item in self.plan.items:
            if item.state == "set aside":
                self.failures[item.picture.id] = Failure(id=item.picture.id, message=item.note, set_aside=True)

    # -- what happens --

    def tried(self, item: Planned) -> None:
        self._tries[item.picture.id] = self.tries(item) + 1

    def given_back(self, item: Planned) -> None:
        """A try that never began is none."""
        self._tries[item.picture.id] = self.tries(item) - 1

    def tries(self, item: Planned) -> int:
        return self._tries.get(item.picture.id, 0)

    def began(self, flight: Flight) -> None:
        flight.since, flight.step = datetime.now(UTC), 0
        if self._first_s is None:
            self._first_s = time.monotonic()

    def stepped(self, flight: Flight, step: int) -> None:
        more = weight(flight.item) * max(0, step - flight.step) / flight.steps
        flight.step = step
        self._worked += more
        if self._warm_s is not None:
            self._warm_worked += more

    def has_rendered(self, item: Planned, sidecar: Sidecar) -> None:
        self.in_a_row = 0
        self.rendered.append(sidecar)
        self.failures.pop(item.picture.id, None)
        self._work_left -= weight(item)
        if self._warm_s is None:
            self._warm_s = time.monotonic()

    def refused(self, item: Planned, message: str, hint: str) -> None:
        """A picture that cannot be on this machine, which is known beforehand: nothing was tried, no row is broken."""
        self.failures[item.picture.id] = Failure(id=item.picture.id, message=message, hint=hint)
        self._work_left -= weight(item)

    def has_failed(self, item: Planned, message: str, hint: str = "", *, again: bool, set_aside: bool = False) -> None:
        self.in_a_row += 1
        self.failures[item.picture.id] = Failure(id=item.picture.id, message=message, hint=hint, set_aside=set_aside)
        if not again:
            self._work_left -= weight(item)

    # -- what can be said of it --

    def standing(self, flights: Sequence[Flight], phase: Phase, worker_pid: int | None) -> Standing:
        """How the batch stands at this moment."""
        rate = self._work_per_s()
        flying = [flight for flight in flights if flight.since is not None]
        passed = sum(weight(flight.item) * flight.step / flight.steps for flight in flying)
        return Standing(
            name=self.plan.manifest.name,
            phase=phase,
            began_at=self.began_at,
            at=datetime.now(UTC),
            pid=os.getpid(),
            worker_pid=worker_pid,
            to_render=len(self.todo),
            done=len(self.rendered),
            failed=len(self.failures),
            queued=len(flights) - len(flying),
            in_flight=tuple(
                InFlight(
                    id=flight.item.picture.id,
                    step=flight.step,
                    steps=flight.steps,
                    attempt=flight.attempt,
                    since=flight.since,
                )
                for flight in flying
                if flight.since is not None
            ),
            pictures_per_hour=rate * 3600 / self._mean_work if rate else None,
            left_s=max(0.0, self._work_left - passed) / rate if rate else None,
        )

    def summary(self, ending: Ending) -> Summary:
        elapsed_s = time.monotonic() - self._began_s
        skipped = self.plan.count("done") + self.rewritten
        return Summary(
            name=self.plan.manifest.name,
            manifest=self.plan.manifest.file,
            ending=ending,
            began_at=self.began_at,
            ended_at=datetime.now(UTC),
            pictures=len(self.plan.items),
            rendered=len(self.rendered),
            skipped=skipped,
            failed=len(self.failures),
            left=len(self.plan.items) - len(self.rendered) - skipped - len(self.failures),
            elapsed_s=elapsed_s,
            rendering_s=sum(sidecar.timing.total_s or 0.0 for sidecar in self.rendered),
            pictures_per_hour=len(self.rendered) * 3600 / elapsed_s if self.rendered else None,
            memory=_peaks(self.rendered),
            failures=tuple(self.failures.values()),
        )

    def _work_per_s(self) -> float | None:
        """Work a second, by steps; several in flight add up.

        Since the first picture began, whose seconds have everything in them that happens once; without it, as soon as
        a picture's worth was done since.
        """
        if self._warm_s is not None and self._warm_worked >= self._mean_work:
            return self._warm_worked / max(1e-3, time.monotonic() - self._warm_s)
        if self._first_s is None or not self._worked:
            return None
        return self._worked / max(1e-3, time.monotonic() - self._first_s)


def _peaks(sidecars: Sequence[Sidecar]) -> Memory:
    """The largest of each figure over all pictures; None where none has it."""
    peaks = {
        name: max(found)
        for name in Memory.model_fields
        if (found := [value for sidecar in sidecars if (value := getattr(sidecar.memory, name)) is not None])
    }
    return Memory(**peaks)
