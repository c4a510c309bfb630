"""How a batch stands, said a few times a second: in its folder, for others to read, and to whoever watches."""

from __future__ import annotations

import time

from renderer.outputs.folder import OutputFolder
from renderer.outputs.status import Phase, StatusFile
from renderer.supervisor import events
from renderer.supervisor.events import Watch
from renderer.supervisor.pool import WorkerPool
from renderer.supervisor.progress import BatchProgress

TICK_S = 0.25
"""Between two beats, and as long as nobody waits for anything without looking whether it is to stop."""


class Heartbeat:
    """One batch's. As a context, it takes the status away at its end: nothing is running any more."""

    def __init__(self, folder: OutputFolder, progress: BatchProgress, watch: Watch) -> None:
        self._file = StatusFile(folder)
        self._progress = progress
        self._watch = watch
        self._beat_at = float("-inf")

    def preparing(self) -> None:
        """Nothing is rendered yet, or any more; only those who read the file are told."""
        self._file.post(self._progress.status([], "preparing"))

    def is_due(self) -> bool:
        """Whether it is time for another beat, however much is heard."""
        return time.monotonic() - self._beat_at >= TICK_S

    def beat(self, pool: WorkerPool, phase: Phase) -> None:
        """Say how things stand, with what the workers have in flight."""
        self._beat_at = time.monotonic()
        status = self._progress.status(pool.flights, phase, pool.workers())
        self._file.post(status)
        self._watch(events.Tick(status))

    def end(self) -> None:
        self._file.take_down()
