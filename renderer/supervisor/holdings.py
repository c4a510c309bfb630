"""What is known of one worker besides who it is: the pictures that it holds, and for how long it has said nothing."""

from __future__ import annotations

import time

from renderer.supervisor.progress import Flight

OUT_S, LONGEST_OUT_S = 600.0, 3600.0
"""For how long nothing is tried with a device that has lost too many workers: the first time, and at most."""

_LONGEST_LOOK_S = 1.0
"""Between two looks of a loop that is not away; it takes some four a second."""


class Flights(dict[str, Flight]):
    """The pictures that a worker holds, by what it calls them, and the work that they all are."""

    def __init__(self) -> None:
        super().__init__()
        self.work = 0.0

    def __setitem__(self, key: str, flight: Flight) -> None:
        super().__setitem__(key, flight)
        self.work += flight.work

    def __delitem__(self, key: str) -> None:
        self.work = self.work - self[key].work if len(self) > 1 else 0.0
        super().__delitem__(key)

    def take(self, key: str) -> Flight:
        """One of them, which it holds no more."""
        found = self[key]
        del self[key]
        return found


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

    def skip(self, now_s: float) -> None:
        """Nobody listened until now: that was not its silence."""
        self._looked_s = now_s

    def broken(self) -> None:
        """The worker said something, or has just been given something to do."""
        self.seconds = 0.0


class DeviceHealth:
    """Of a device: how many workers it has lost since a picture came from it, and whether anything is tried with it.

    `rendered` are the pictures that came from it in all. Since the last of them: `trouble` is why it was left out, and
    `complaint` what a worker said of it, if so.
    """

    def __init__(self) -> None:
        self.rendered = 0
        self.trouble = self.complaint = ""
        self.losses = self._outs = 0
        self._back_s = float("-inf")

    @property
    def is_out(self) -> bool:
        """Whether nothing is tried with it at this moment."""
        return time.monotonic() < self._back_s

    def leave_out(self) -> float:
        """Try nothing with it for a while, twice as long each time; the seconds.

        Then one more worker is hired there: if that is lost as well, it is left out again.
        """
        pause_s: float = min(OUT_S * 2**self._outs, LONGEST_OUT_S)
        self._outs += 1
        self._back_s = time.monotonic() + pause_s
        self.losses -= 1
        return pause_s

    def brought(self) -> None:
        """A picture came from it: it is well."""
        self.rendered += 1
        self.losses = self._outs = 0
        self.trouble = self.complaint = ""
