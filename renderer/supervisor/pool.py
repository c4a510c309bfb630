"""The worker at hand: one at a time, for one setup, replaced when the setup changes or the worker is gone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from renderer import protocol
from renderer.errors import DiskError, MachineError
from renderer.protocol import Setup
from renderer.supervisor import events
from renderer.supervisor.events import Watch
from renderer.supervisor.worker import Hire, Worker

_LONGEST_LOOK_S = 1.0
"""Between two looks of a loop that is not away; it takes some four a second."""

_MAX_OPENINGS = 3
"""A worker that dies this many times while opening will not open."""


class Silence:
    """For how long a worker has said nothing, by the clock of the loop that listens.

    That clock stands while the loop is away: stopped by Ctrl-Z, in a frozen control group, on a machine that was
    paused. A worker is not blamed for hours that nobody listened. Moments are seconds of one clock.
    """

    def __init__(self, now_s: float) -> None:
        self._looked_s = now_s
        self.seconds = 0.0

    def look(self, now_s: float) -> float:
        """The loop comes by: the seconds of silence so far."""
        self.seconds += min(max(0.0, now_s - self._looked_s), _LONGEST_LOOK_S)
        self._looked_s = now_s
        return self.seconds

    def broken(self) -> None:
        """The worker said something, or has just been given something to do."""
        self.seconds = 0.0


class WorkerPool:
    """Hires the one worker when a setup is needed, and another when that changes or the worker is gone."""

    def __init__(self, hire: Hire, watch: Watch) -> None:
        self._hire = hire
        self._watch = watch
        self._worker: Worker | None = None
        self._setup: Setup | None = None
        self._log = Path(os.devnull)
        self._openings = 0
        self.opened: protocol.Opened | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()

    def worker(self, setup: Setup, log: Path) -> Worker:
        """The worker for `setup`, which prints into `log`; starts one, whose `Opened` is to be heard, where none is.

        A log that cannot be written is told, once, and goes without.
        """
        if self._setup != setup:
            self.dismiss()
            self._openings = 0
        if self._worker is None:
            self._worker = self._hired(log)
            self._setup = setup
            self._worker.send(protocol.Open(setup=setup))
            self._watch(events.WorkerOpening(setup, "starting"))
        elif log != self._log:  # another manifest's pictures
            try:
                self._worker.log_into(log)
            except DiskError as error:
                self._complain(error)
        self._log = log
        return self._worker

    def _hired(self, log: Path) -> Worker:
        try:
            return self._hire(log)
        except DiskError as error:
            self._complain(error)
            return self._hire(Path(os.devnull))

    def _complain(self, error: DiskError) -> None:
        self._watch(events.Remark(f"the worker's log is lost: {error.message}"))

    def has_opened(self, event: protocol.Opened) -> None:
        self.opened = event
        self._openings = 0

    @property
    def excerpt(self) -> str:
        """What the worker printed last."""
        return self._worker.excerpt() if self._worker is not None else ""

    def lost(self, *, blameless: bool = False) -> None:
        """The worker is gone. Raises `MachineError` when it never opens.

        `blameless` says that somebody ended it, and that it might have opened.
        """
        assert self._worker is not None
        excerpt = self.excerpt
        if self.opened is None and not blameless:
            self._openings += 1
        self._worker.kill()
        self._worker = self.opened = None
        if self._openings >= _MAX_OPENINGS:
            last = "\n".join(excerpt.splitlines()[-12:])
            raise MachineError(f"the worker died {self._openings} times while opening the model:\n{last}")

    def dismiss(self, *, at_once: bool = False) -> None:
        if self._worker is not None:
            if at_once:
                self._worker.kill()
            else:
                self._worker.end()
        self._worker = self.opened = None
