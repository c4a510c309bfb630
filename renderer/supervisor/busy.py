"""Work that is no rendering, told of when it takes longer than a second, and then a few times a second."""

from __future__ import annotations

import time

from renderer.supervisor import events
from renderer.supervisor.events import Watch

LOOKS_IN = "looking at the pictures that go in"

TELL_AFTER_S = 1.0
_EVERY_S = 0.25


class LongWork:
    """One such piece of work on one manifest's pictures, from now on."""

    def __init__(self, watch: Watch, name: str, what: str, after_s: float | None = None) -> None:
        self._watch = watch
        self._name = name
        self._what = what
        self._next_s = time.monotonic() + (TELL_AFTER_S if after_s is None else after_s)

    def tell(self, done: int, total: int) -> None:
        """So many of so many pictures are through."""
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + _EVERY_S
            self._watch(events.Busy(self._name, self._what, done, total))
