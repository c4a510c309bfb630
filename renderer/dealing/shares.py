"""How fast seats are beside one another, and which part of a group's work each is to hold.

Cards side by side may differ tenfold: each holds work by its speed, so that all end together, and a slow one begins
nothing that faster ones would be through with before it is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from renderer.dealing.parties import SeatLike

FASTER_CARD = 1.2
"""From so many times a device's speed on, another is faster: pictures on cards that are alike differ by less."""

TOO_MUCH = 1.25
"""From so many times the work that a device is to hold on, it gives back what it has not begun."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Work a second that seats do of a group, by their number.

    `unknown` are those of which nobody knows anything, beside others of which that is no better or of another kind.
    Where nobody knows how long any picture takes, they are `relative`: to one another alone.
    """

    each: Mapping[int, float]
    unknown: Collection[int] = ()
    relative: bool = False


class Shares:
    """What seats are to hold of the work that their group has, in hands and waiting; as it is at one moment.

    `differ` says whether any of them is faster than another.
    """

    def __init__(self, seats: Sequence[SeatLike], speeds: Mapping[int, float], waiting_work: float) -> None:
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

    def of(self, seat: SeatLike) -> float:
        """A seat's part: the others may open still."""
        if self._alone:
            return float("inf")
        return self._total * self._speeds[seat.number] / self._together if self._together else 0.0

    def faster(self, seat: SeatLike) -> Sequence[SeatLike]:
        """Those that take orders and are faster than a seat, which need not be at the group."""
        return self._able[: self._faster(seat)]

    def is_worth(self, seat: SeatLike, work: float) -> bool:
        """Whether a seat is through with so much more before those that are faster would be with all that is."""
        return seat.flights.work + work <= self._most(seat)

    def has_too_much(self, seat: SeatLike, own: float = 0.0) -> bool:
        """Whether those that are faster would be through with all long before a seat is with what it holds.

        `own` is the work of that which none of them may have.
        """
        return len(seat.flights) > 1 and seat.flights.work - own > TOO_MUCH * self._most(seat)

    def slowness(self, seat: SeatLike) -> float:
        """How many times as long a picture takes there as on the device that has the one in the middle of all."""
        if not self._able:
            return 1.0
        middle = self._able[bisect_left(self._speed, self._speed[-1] / 2) - 1]
        return self._speeds[middle.number] / self._speeds[seat.number]

    def _most(self, seat: SeatLike) -> float:
        """The work that a seat does until those that are faster would be through with all that it does not hold."""
        count = self._faster(seat)
        if count == 0:
            return float("inf")
        left = self._total - (self._held[-1] - self._held[count])
        return left / self._speed[count] * self._speeds[seat.number]

    def _faster(self, seat: SeatLike) -> int:
        return bisect_left(self._steps, -FASTER_CARD * self._speeds[seat.number])
