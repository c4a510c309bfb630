"""Pauses and stops from the rendering side: what is in flight finishes, workers go and give memory back after a while.

Whoever gives out pictures looks in here at every turn. Knows no pictures.
"""

from __future__ import annotations

import time

from renderer.supervisor import events
from renderer.supervisor.night import Night
from renderer.supervisor.pool import WorkerPool
from renderer.supervisor.settings import AT_ONCE
from renderer.supervisor.tempo import Tempo


class Resting:
    """Whether a night rests, and since when nothing is in flight."""

    def __init__(self, night: Night, tempo: Tempo) -> None:
        self._night = night
        self._tempo = tempo
        self._is_on = False
        self._since_s: float | None = None

    def look(self, pool: WorkerPool, *, busy: bool) -> None:
        """Time passes; `busy` says that pictures are in flight, or being written."""
        pause = self._night.pause
        if pause.is_on != self._is_on:
            self._is_on = pause.is_on
            self._night.watch(events.Pausing(paused=pause.is_on))
        if not pause.is_on or busy:
            self._since_s = None
            self._tempo.pauses(paused=False)
            return
        self._tempo.pauses(paused=True)
        if self._since_s is None:
            self._since_s = time.monotonic()
        if time.monotonic() - self._since_s >= pause.keeps_s and (pool.is_open or pool.is_opening):
            pool.dismiss()
            self._night.watch(events.Pausing(paused=True, let_go=True))


class Grace:
    """What is in flight when somebody asks to stop has some seconds to finish; asked twice, none."""

    def __init__(self, night: Night) -> None:
        self._night = night
        self._ends_s: float | None = None

    def is_over(self, pool: WorkerPool) -> bool:
        """Whether what is in flight has to be given up. The first time that somebody has asked, it is told."""
        stop = self._night.stop
        if stop.requests == 0:
            return False
        now = time.monotonic()
        if self._ends_s is None:
            self._ends_s = now + self._night.settings.grace_s
            begun = sum(flight.since is not None for flight in pool.flights)
            self._night.watch(events.Stopping(begun, self._night.settings.grace_s))
        return stop.requests >= AT_ONCE or now > self._ends_s
