"""How batches stand, said a few times a second: in their folders, for others to read, and to whoever watches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from renderer.outputs.folder import OutputFolder
from renderer.outputs.status import NightStatus, Phase, RunStatus, StatusFile, WorkerStatus
from renderer.supervisor import events
from renderer.supervisor.events import Watch
from renderer.supervisor.pool import WorkerPool
from renderer.supervisor.progress import BatchProgress, Flight, in_flight
from renderer.supervisor.tempo import Tempo

TICK_S = 0.25
"""Between two beats, and as long as nobody waits for anything without looking whether it is to stop."""

_FLYING_S, _WAITING_S = 1.0, 10.0
"""Between two words on a batch beside others, and on one of which nothing happens."""


class Heart(Protocol):
    """Says how things stand, for whoever renders."""

    def is_due(self) -> bool:
        """Whether it is time for another beat, however much is heard."""

    def beat(self, pool: WorkerPool, phase: Phase) -> None:
        """Say how things stand, with what the workers have in flight."""


_SPARING = 20
"""Of many workers there is much to say: so many times what saying it took passes before it is said again."""


class Heartbeat:
    """One batch's; at its end it takes the status away: nothing is running any more."""

    def __init__(self, folder: OutputFolder, progress: BatchProgress, watch: Watch) -> None:
        self._file = StatusFile(folder)
        self.progress = progress
        self._watch = watch
        self._beat_at = self._posted_at = float("-inf")
        self._posted: tuple[object, ...] = ()

    def preparing(self) -> None:
        """Nothing is rendered yet, or any more; only those who read the file are told."""
        self._file.post(self.progress.status([], "preparing"))

    def is_due(self) -> bool:
        """Whether it is time for another beat, however much is heard."""
        return time.monotonic() - self._beat_at >= TICK_S

    def beat(self, pool: WorkerPool, phase: Phase) -> None:
        """Say how things stand, with what the workers have in flight."""
        self._beat_at = time.monotonic()
        status = self.progress.status(pool.flights, phase, pool.workers())
        self._file.post(status)
        self._watch(events.Tick(status))

    def beside(
        self, flights: Sequence[Flight], phase: Phase, workers: Sequence[WorkerStatus], night: NightStatus
    ) -> None:
        """How it stands beside others, for those who read the file: seldom, while nothing happens."""
        now = time.monotonic()
        if now - self._posted_at < _FLYING_S:
            return
        pids = [worker.pid for worker in workers]
        stands = (phase, self.progress.rendered, len(self.progress.failures), pids, night.manifests)
        is_due = flights or stands != self._posted or now - self._posted_at > _WAITING_S
        if is_due and self._file.post(self.progress.status(flights, phase, workers, night)):
            self._posted, self._posted_at = stands, now

    def end(self) -> None:
        self._file.take_down()


class NightHeart:
    """That of all batches that are on their way together. `then` is called after each beat."""

    def __init__(self, watch: Watch, tempo: Tempo, then: Callable[[], None]) -> None:
        self._watch = watch
        self._tempo = tempo
        self._then = then
        self._hearts: dict[str, Heartbeat] = {}
        self._began_at = datetime.now(UTC)
        self._beat_at, self._beat_s = float("-inf"), 0.0
        self._past = [0, 0, 0, 0]  # batches that have ended; what they had to render, had done, had failed

    def add(self, name: str, heart: Heartbeat) -> None:
        """One more batch is on its way, by its manifest's name."""
        self._hearts[name] = heart

    def remove(self, name: str) -> None:
        """A batch has ended."""
        if heart := self._hearts.pop(name, None):
            heart.end()
            done, failed = heart.progress.rendered, heart.progress.count_failed()
            self._past = [here + more for here, more in zip(self._past, (1, done + failed, done, failed), strict=True)]

    def is_due(self) -> bool:
        """Whether it is time for another beat, however much is heard."""
        return time.monotonic() - self._beat_at >= max(TICK_S, _SPARING * self._beat_s)

    def beat(self, pool: WorkerPool, phase: Phase) -> None:
        """Say how things stand, with what the workers have in flight."""
        self._beat_at = time.monotonic()
        if len(self._hearts) + self._past[0] == 1:
            for heart in self._hearts.values():
                heart.beat(pool, phase)
        else:
            self._beat(pool.flights, phase, pool.workers())
        self._then()
        self._beat_s = time.monotonic() - self._beat_at

    def _beat(self, flights: Sequence[Flight], phase: Phase, workers: Sequence[WorkerStatus]) -> None:
        total = self._total(flights, phase, workers)
        night = NightStatus(
            manifests=len(self._hearts) + self._past[0],
            to_render=total.to_render,
            done=total.done,
            failed=total.failed,
            pictures_per_hour=total.pictures_per_hour,
            left_s=total.left_s,
        )
        own: dict[str, list[Flight]] = {}
        for flight in flights:
            own.setdefault(flight.item.batch, []).append(flight)
        for name, heart in self._hearts.items():
            its: Phase = "waiting" if phase == "rendering" and name not in own else phase
            heart.beside(own.get(name, ()), its, workers, night)
        self._watch(events.Tick(total))

    def _total(self, flights: Sequence[Flight], phase: Phase, workers: Sequence[WorkerStatus]) -> RunStatus:
        """All of them as one."""
        those = [heart.progress for heart in self._hearts.values()]
        count, to_render, done, failed = self._past
        mean = sum(each.mean_work * each.to_render for each in those) / max(1, sum(each.to_render for each in those))
        rate = self._tempo.work_per_s(mean)
        flying = [flight for flight in flights if flight.since is not None]
        passed = sum(flight.work * flight.step / flight.steps for flight in flying)
        left = max(0.0, sum(each.work_left for each in those) - passed)
        return RunStatus(
            name=f"{count + len(those)} manifests",
            phase=phase,
            began_at=self._began_at,
            at=datetime.now(UTC),
            pid=os.getpid(),
            worker_pid=next((worker.pid for worker in workers if worker.pid is not None), None),
            workers=tuple(workers) if len(workers) > 1 else (),
            to_render=to_render + sum(each.to_render for each in those),
            done=done + sum(each.rendered for each in those),
            failed=failed + sum(each.count_failed() for each in those),
            queued=len(flights) - len(flying),
            in_flight=in_flight(flying, lambda flight: f"{flight.item.batch}/{flight.item.picture.id}"),
            pictures_per_hour=rate * 3600 / mean if rate and mean else None,
            left_s=left / rate if rate else None,
        )
