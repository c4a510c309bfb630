"""How fast a night goes: work done, by the clock. Knows no pictures."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(slots=True)
class Tempo:
    """How fast work is done, by all batches that are on their way together. A pause is no time.

    Since the first picture began, whose seconds have everything in them that happens once; without it, as soon as a
    picture's worth was done since.
    """

    _first_s: float | None = None
    _worked: float = 0.0
    _warm_s: float | None = None
    _warm_worked: float = 0.0
    _paused_s: float | None = None

    @property
    def has_begun(self) -> bool:
        """Whether any picture has."""
        return self._first_s is not None

    def began(self) -> None:
        """A picture has begun."""
        if self._first_s is None:
            self._first_s = time.monotonic()

    def worked(self, more: float) -> None:
        """So much has been done."""
        self._worked += more
        if self._warm_s is not None:
            self._warm_worked += more

    def rendered(self) -> None:
        """A picture is through."""
        if self._warm_s is None:
            self._warm_s = time.monotonic()

    def pauses(self, *, paused: bool) -> None:
        """Nothing is being rendered because of a pause; or something is again."""
        now = time.monotonic()
        if paused:
            self._paused_s = now if self._paused_s is None else self._paused_s
        elif self._paused_s is not None:
            passed, self._paused_s = now - self._paused_s, None
            self._first_s = None if self._first_s is None else self._first_s + passed
            self._warm_s = None if self._warm_s is None else self._warm_s + passed

    def work_per_s(self, mean_work: float) -> float | None:
        """Work a second, by steps, of which several in flight add up; `mean_work` is a picture's."""
        now = time.monotonic() if self._paused_s is None else self._paused_s
        if self._warm_s is not None and self._warm_worked >= mean_work:
            return self._warm_worked / max(1e-3, now - self._warm_s)
        if self._first_s is None or not self._worked:
            return None
        return self._worked / max(1e-3, now - self._first_s)
