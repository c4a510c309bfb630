"""Machines that vanish under their workers, and the pictures that were being rendered there.

It is nobody's fault that a spot machine is taken away. A picture that takes all memory of its machine may bring that
down, too: one that was there each time is not innocent for ever. Knows no machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from renderer.supervisor.progress import Flight

MOST_VANISHED = 10
"""Machines that vanish with the same picture in flight; from then on that counts as its own doing."""


class Vanishing:
    """How often each picture was there."""

    def __init__(self) -> None:
        self._times: Counter[str] = Counter()

    def is_their_doing(self, flights: Mapping[str, Flight]) -> bool:
        """One more has vanished with these: whether one of those that had begun may be the cause."""
        begun = [key for key, flight in flights.items() if flight.since is not None]
        self._times.update(begun)
        return any(self._times[key] >= MOST_VANISHED for key in begun)
