"""How fast seats are: what pictures that came from a seat took there, and before any has come what rates let expect.

Where cards differ that nobody knows, the steps of the first picture tell. Speeds are work (`pace.weight`) a second.
Knows no events.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence

from renderer.dealing.shares import Speeds
from renderer.job import Profile, Weights
from renderer.machine import rates
from renderer.machine.devices import WorkerDevice
from renderer.machine.hardware import Machine
from renderer.machine.reckoned import reckoned
from renderer.planning.pace import Pace, weight
from renderer.planning.plan import Planned
from renderer.protocol import Rendered
from renderer.supervisor.groups import Group
from renderer.supervisor.pool import Seat
from renderer.supervisor.progress import Flight

_RECENT = 8

_FROM_THE_BEGINNING = 0.25
"""A picture that began in the first quarter of a step of another has gone beside it."""

now_s = time.monotonic
"""By whose seconds steps are measured."""


class _Steps:
    """What a seat's steps tell: of each picture in flight when it began, and when its last step was done.

    The first step may be a slow one, for everything is done there for the first time: it counts while it is alone.
    """

    def __init__(self) -> None:
        self._flying: dict[str, tuple[float, float]] = {}
        self._each: deque[float] = deque(maxlen=_RECENT)
        self._has_first = False

    def began(self, flight: Flight, seat: Seat) -> None:
        at_s = now_s()
        self._flying = {key: times for key, times in self._flying.items() if key in seat.flights}
        self._flying[flight.key] = at_s, at_s

    def stepped(self, flight: Flight, step: int, seat: Seat) -> None:
        """All that have been in flight since its last step have gone as far meanwhile."""
        at_s = now_s()
        began_s, last_s = self._flying.get(flight.key, (at_s, at_s))
        self._flying[flight.key] = began_s, at_s
        took_s = at_s - last_s
        if took_s <= 0 or step <= flight.step:
            return
        since_s = last_s + took_s * _FROM_THE_BEGINNING
        beside = [
            seat.flights[key] for key, (began, _) in self._flying.items() if key in seat.flights and began <= since_s
        ]
        if not self._has_first and self._each:
            self._each.clear()
            self._has_first = True
        self._each.append(sum(each.work / each.steps for each in beside) * (step - flight.step) / took_s)

    @property
    def speed(self) -> float | None:
        """Work a second; None before the first step."""
        return statistics.median(self._each) if self._each else None


class SeatSpeeds:
    """One run's."""

    def __init__(self, devices: Sequence[WorkerDevice] = ()) -> None:
        """`devices` are the seats', by whose rates pictures are expected to take what they take."""
        self._kinds = {each.number: _kind(each.machine) for each in devices}
        known = {each.number: reckoned(each.machine) for each in devices} if len(self._kinds) > 1 else {}
        paces = {each: Pace((), each) for each in set(known.values()) if each is not None}
        self._expecting = {number: paces[each] for number, each in known.items() if each is not None}
        self._differ = len(set(self._kinds.values())) > 1
        self._latest: dict[tuple[int, Weights], deque[tuple[float, float]]] = {}
        self._came: dict[Weights, dict[int, float]] = {}
        self._stepped: dict[Weights, dict[int, _Steps]] = {}
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

    def began(self, seat: Seat, flight: Flight) -> None:
        """A picture's turn has come."""
        if self._is_asked(seat):
            self._steps_of(seat, flight).began(flight, seat)

    def stepped(self, seat: Seat, flight: Flight, step: int) -> None:
        """So many steps of a picture are done; as many as `flight` says were so before."""
        if self._is_asked(seat):
            self._steps_of(seat, flight).stepped(flight, step, seat)

    def _steps_of(self, seat: Seat, flight: Flight) -> _Steps:
        return self._stepped.setdefault(Weights.of(flight.item.picture.job), {}).setdefault(seat.number, _Steps())

    def _is_asked(self, seat: Seat) -> bool:
        """Whether its steps tell something: cards differ, and nobody knows what to expect of this one."""
        return self._differ and seat.number not in self._expecting

    def of(self, seats: Sequence[Seat], item: Planned | None, profile: Profile, pace: Pace) -> Speeds:
        """The speeds of seats with what `item` is rendered with, by their number.

        What came from a seat tells most, then what came from another of its kind; what is expected is corrected by what
        came of others. Where nothing is, its steps tell, and what came of other weights. One of which nobody knows
        anything is as fast as the others are in the middle; where nobody knows anything of any, all are as fast as
        `pace` says, or alike.
        """
        if item is None:
            return Speeds(dict.fromkeys((seat.number for seat in seats), 1.0), relative=True)
        weights = Weights.of(item.picture.job)
        came, expected = self._came.get(weights, {}), self._expect(weights, item, profile)
        stepped = self._stepped.get(weights, {}).items()
        steps = {number: each.speed for number, each in stepped if number not in came}
        measured = {number: speed for number, speed in steps.items() if speed} | came
        known = _scaled(expected, measured) | self._of_kinds(measured) | measured
        for other in self._came.values():
            known = _scaled(other, known) | known
        each_s = None if known else pace.expect_s(item, profile)
        usual = statistics.median(known.values()) if known else weight(item) / each_s if each_s else 1.0
        unknown = {seat.number for seat in seats if seat.number not in known} if self._differ else ()
        each = {seat.number: known.get(seat.number, usual) for seat in seats}
        return Speeds(each, unknown, relative=not known and not each_s)

    def _of_kinds(self, measured: Mapping[int, float]) -> dict[int, float]:
        """What seats do of whose kind of card something is known."""
        of_kind: dict[str, list[float]] = {}
        for number, speed in measured.items():
            if number in self._kinds:
                of_kind.setdefault(self._kinds[number], []).append(speed)
        usual = {kind: statistics.median(each) for kind, each in of_kind.items()}
        return {number: usual[kind] for number, kind in self._kinds.items() if kind in usual}

    def _expect(self, weights: Weights, item: Planned, profile: Profile) -> dict[int, float]:
        """By the devices' rates, once for all pictures of some weights: to one another, all take about the same."""
        if weights not in self._expected:
            each = ((number, pace.expect_s(item, profile)) for number, pace in self._expecting.items())
            self._expected[weights] = {number: weight(item) / seconds for number, seconds in each if seconds}
        return self._expected[weights]


def _scaled(told: Mapping[int, float], measured: Mapping[int, float]) -> dict[int, float]:
    """What is told of seats, as it is beside what was measured of some of them."""
    both = told.keys() & measured.keys()
    factor = statistics.median(measured[number] / told[number] for number in both) if both else 1.0
    return {number: speed * factor for number, speed in told.items()}


def _kind(machine: Machine) -> str:
    """What tells a machine's card from others: two of one kind take about the same."""
    return machine.gpu.name if machine.gpu is not None else rates.CPU_DEVICE


class KnownSpeeds:
    """What a dispatcher's dealing knows: the seats' speeds, and what pictures take anywhere."""

    def __init__(self, speeds: SeatSpeeds, seats: Sequence[Seat], pace: Pace) -> None:
        self._speeds, self._seats, self._pace = speeds, seats, pace

    def speeds(self, group: Group, item: Planned | None) -> Speeds:
        """Of all seats, with what a group's pictures are rendered with."""
        return self._speeds.of(self._seats, item, group.profile, self._pace)
