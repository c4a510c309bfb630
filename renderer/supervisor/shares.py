"""How fast seats are beside one another, and which part of a group's work each is to hold.

Cards side by side may differ tenfold: each holds work by its speed, so that all end together, and a slow one begins
nothing that faster ones would be through with before it is. Speeds are work (`pace.weight`) a second: what pictures
that came from a seat took there; before any has come, what its device's rates let expect. Knows no events.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate

from renderer.job import Profile, Weights
from renderer.machine.rates import Rates
from renderer.planning.dealt import FASTER_CARD, TOO_MUCH
from renderer.planning.pace import Pace, weight
from renderer.planning.plan import Planned
from renderer.protocol import Rendered
from renderer.supervisor.pool import Seat

_RECENT = 8


class SeatSpeeds:
    """One run's."""

    def __init__(self, rates: Mapping[int, Rates | None] | None = None) -> None:
        """`rates` are those of the seats' devices, by their number, as far as they are known."""
        known = {number: each for number, each in (rates or {}).items() if each is not None}
        paces = {each: Pace((), each) for each in set(known.values())}
        self._paces = {number: paces[each] for number, each in known.items()}
        self._latest: dict[tuple[int, Weights], deque[tuple[float, float]]] = {}
        self._came: dict[Weights, dict[int, float]] = {}
        self._expected: dict[Weights, dict[int, float]] = {}

    def learn(self, seat: Seat, item: Planned, event: Rendered) -> None:
        """A picture has come from a seat: its part of the device's time, and the work that it was."""
        timing, sharing = event.timing, event.sharing
        own_s = (sharing.share_s if sharing else timing.denoise_s or 0.0) + (timing.decode_s or 0.0)
        if own_s > 0:
            weights = Weights.of(item.picture.job)
            latest = self._latest.setdefault((seat.number, weights), deque(maxlen=_RECENT))
            latest.append((weight(item), own_s))
            work, seconds = zip(*latest, strict=True)
            self._came.setdefault(weights, {})[seat.number] = sum(work) / sum(seconds)

    def of(self, seats: Sequence[Seat], item: Planned | None, profile: Profile) -> dict[int, float]:
        """The speeds of seats with what `item` is rendered with, by their number.

        What is expected of one is corrected by what came of others. One of which nobody knows anything is as fast as
        the others are in the middle; where nobody knows anything of any, all are alike.
        """
        if item is None:
            return dict.fromkeys((seat.number for seat in seats), 1.0)
        weights = Weights.of(item.picture.job)
        came, expected = self._came.get(weights, {}), self._expect(weights, item, profile)
        both = came.keys() & expected.keys()
        factor = statistics.median(came[number] / expected[number] for number in both) if both else 1.0
        known = {number: speed * factor for number, speed in expected.items()} | came
        usual = statistics.median(known.values()) if known else 1.0
        return {seat.number: known.get(seat.number, usual) for seat in seats}

    def _expect(self, weights: Weights, item: Planned, profile: Profile) -> dict[int, float]:
        """By the devices' rates, once for all pictures of some weights: to one another, all take about the same."""
        if weights not in self._expected:
            each = ((number, pace.expect_s(item, profile)) for number, pace in self._paces.items())
            self._expected[weights] = {number: weight(item) / seconds for number, seconds in each if seconds}
        return self._expected[weights]


class Shares:
    """What seats are to hold of the work that their group has, in hands and waiting; as it is at one moment.

    `differ` says whether any of them is faster than another.
    """

    def __init__(self, seats: Sequence[Seat], speeds: Mapping[int, float], waiting_work: float) -> None:
        """`seats` are those that are at the group and have a place."""
        self._speeds = speeds
        self._total = sum(seat.flights.work for seat in seats) + waiting_work
        self._alone = len(seats) == 1
        self._together = sum(speeds[seat.number] for seat in seats)
        able = sorted((seat for seat in seats if seat.opened), key=lambda seat: -speeds[seat.number])
        self._able = able
        self._steps = [-speeds[seat.number] for seat in able]
        slowest = min((speeds[seat.number] for seat in seats), default=1.0)
        self.differ = bool(able) and speeds[able[0].number] >= FASTER_CARD * slowest
        self._speed = [0.0, *accumulate(speeds[seat.number] for seat in able)]
        self._held = [0.0, *accumulate(seat.flights.work for seat in able)]

    def of(self, seat: Seat) -> float:
        """A seat's part: the others may open still."""
        if self._alone:
            return float("inf")
        return self._total * self._speeds[seat.number] / self._together if self._together else 0.0

    def faster(self, seat: Seat) -> Sequence[Seat]:
        """Those that take orders and are faster than a seat, which need not be at the group."""
        return self._able[: self._faster(seat)]

    def is_worth(self, seat: Seat, item: Planned) -> bool:
        """Whether a seat is through with one more picture before those that are faster would be with all that is."""
        return seat.flights.work + weight(item) <= self._most(seat)

    def has_too_much(self, seat: Seat) -> bool:
        """Whether those that are faster would be through with all long before a seat is with what it holds."""
        return len(seat.flights) > 1 and seat.flights.work > TOO_MUCH * self._most(seat)

    def slowness(self, seat: Seat) -> float:
        """How many times as long a picture takes there as on the device that has the one in the middle of all."""
        if not self._able:
            return 1.0
        middle = self._able[bisect_left(self._speed, self._speed[-1] / 2) - 1]
        return self._speeds[middle.number] / self._speeds[seat.number]

    def _most(self, seat: Seat) -> float:
        """The work that a seat does until those that are faster would be through with all that it does not hold."""
        count = self._faster(seat)
        if count == 0:
            return float("inf")
        left = self._total - (self._held[-1] - self._held[count])
        return left / self._speed[count] * self._speeds[seat.number]

    def _faster(self, seat: Seat) -> int:
        return bisect_left(self._steps, -FASTER_CARD * self._speeds[seat.number])
