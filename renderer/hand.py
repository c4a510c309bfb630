"""The worker at hand: one at a time, for one setup, replaced when the setup changes or the worker is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from renderer import events, news
from renderer.errors import MachineError
from renderer.events import Setup
from renderer.news import Watch
from renderer.workers import Hire, Worker

_MAX_OPENINGS = 3
"""A worker that dies this many times while opening will not open."""


class Hand:
    """Hires the one worker when a setup is needed, and another when that changes or the worker is gone."""

    def __init__(self, hire: Hire, watch: Watch) -> None:
        self._hire = hire
        self._watch = watch
        self._worker: Worker | None = None
        self._setup: Setup | None = None
        self._openings = 0
        self.opened: events.Opened | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()

    def worker(self, setup: Setup, log: Path) -> Worker:
        """The worker for `setup`; starts one, whose `Opened` is still to be heard, when there is none."""
        if self._worker is not None and self._setup != setup:
            self.dismiss()
            self._openings = 0
        if self._worker is None:
            self._worker = self._hire(log)
            self._setup = setup
            self._worker.send(events.Open(setup=setup))
            self._watch(news.WorkerOpening(setup, "starting"))
        return self._worker

    def has_opened(self, event: events.Opened) -> None:
        self.opened = event
        self._openings = 0

    def lost(self) -> str:
        """The worker is gone: what it printed last. Raises `MachineError` when it never opens."""
        assert self._worker is not None
        excerpt = self._worker.excerpt()
        if self.opened is None:
            self._openings += 1
        self._worker.kill()
        self._worker = self.opened = None
        if self._openings >= _MAX_OPENINGS:
            last = "\n".join(excerpt.splitlines()[-12:])
            raise MachineError(f"the worker died {self._openings} times while opening the model:\n{last}")
        return excerpt

    def dismiss(self, *, at_once: bool = False) -> None:
        if self._worker is not None:
            if at_once:
                self._worker.kill()
            else:
                self._worker.end()
        self._worker = self.opened = None
