"""What is known of one worker besides who it is: the pictures that it holds, and for how long it has said nothing."""

from __future__ import annotations

from renderer.supervisor.progress import Flight

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
