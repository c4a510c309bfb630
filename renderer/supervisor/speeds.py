"""How fast seats are: what pictures that came from a seat took there, and before any has come what rates let expect.

Speeds are work (`pace.weight`) a second. Knows no events.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence

from renderer.dealing.shares import Speeds
from renderer.job import Profile, Weights
from renderer.machine.rates import Rates
from renderer.planning.pace import Pace, weight
from renderer.planning.plan import Planned
from renderer.protocol import Rendered
from renderer.supervisor.groups import Group
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

    def of(self, seats: Sequence[Seat], item: Planned | None, profile: Profile, pace: Pace) -> Speeds:
        """The speeds of seats with what `item` is rendered with, by their number.

        What is expected of one is corrected by what came of others. One of which nobody knows anything is as fast as
        the others are in the middle; where nobody knows anything of any, all are as fast as `pace` says, or alike.
        """
        if item is None:
            return Speeds(dict.fromkeys((seat.number for seat in seats), 1.0), relative=True)
        weights = Weights.of(item.picture.job)
        came, expected = self._came.get(weights, {}), self._expect(weights, item, profile)
        both = came.keys() & expected.keys()
        factor = statistics.median(came[number] / expected[number] for number in both) if both else 1.0
        known = {number: speed * factor for number, speed in expected.items()} | came
        each_s = None if known else pace.expect_s(item, profile)
        usual = statistics.median(known.values()) if known else weight(item) / each_s if each_s else 1.0
        each = {seat.number: known.get(seat.number, usual) for seat in seats}
        return Speeds(each, relative=not known and not each_s)

    def _expect(self, weights: Weights, item: Planned, profile: Profile) -> dict[int, float]:
        """By the devices' rates, once for all pictures of some weights: to one another, all take about the same."""
        if weights not in self._expected:
            each = ((number, pace.expect_s(item, profile)) for number, pace in self._paces.items())
            self._expected[weights] = {number: weight(item) / seconds for number, seconds in each if seconds}
        return self._expected[weights]


class KnownSpeeds:
    """What a dispatcher's dealing knows: the seats' speeds, and what pictures take anywhere."""

    def __init__(self, speeds: SeatSpeeds, seats: Sequence[Seat], pace: Pace) -> None:
        self._speeds, self._seats, self._pace = speeds, seats, pace

    def speeds(self, group: Group, item: Planned | None) -> Speeds:
        """Of all seats, with what a group's pictures are rendered with."""
        return self._speeds.of(self._seats, item, group.profile, self._pace)
