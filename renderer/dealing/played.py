"""How long several devices take for groups of pictures: a night's dealing (`deal`), by a clock of its own.

What a night's workers would say, devices of known speeds say here, and the same policy is asked each time. Values in,
values out.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from renderer.dealing.deal import Deal
from renderer.dealing.lines import WaitingLines
from renderer.dealing.shares import Speeds
from renderer.estimate.host import AT_HAND

_FEW = 16
"""Devices that are each given more at every word of one."""

_MOST_LEVELS = 8
"""So many times in one moment something is given back at most."""

MOST_PLAYED = 10_000
"""Pictures that are played through: of more, several that are alike go as one."""


@dataclass(frozen=True, slots=True)
class DeviceRate:
    """What a device takes for a group: seconds to open it, and of its own time for a picture of each kind.

    A kind that does not fit there has None. `in_flight` is how many ride together.
    """

    start_s: float
    picture_s: tuple[float | None, ...]
    in_flight: int = 1


@dataclass(frozen=True, slots=True)
class DealtGroup:
    """Pictures that are opened as one: how many there are of each kind, and what each is beside others (`weight`).

    `rates` are those of the devices that can open it, by their number. Those of a higher `priority` come first; groups
    that `opens` says have the same opened are opened once where they follow each other.
    """

    counts: tuple[int, ...]
    weights: tuple[float, ...]
    rates: Mapping[int, DeviceRate]
    priority: float = 0.0
    opens: Hashable = None


@dataclass(frozen=True, slots=True)
class GroupShare:
    """What a group takes of a night: when its first device begins to open it, and when its last picture is there.

    `pictures` are how many each device renders, by its number.
    """

    began_s: float
    ended_s: float
    pictures: Mapping[int, int]


def deal(groups: Sequence[DealtGroup]) -> tuple[GroupShare, ...]:
    """What becomes of each group, in their order. Every kind fits on one device at least."""
    lump = -(-sum(sum(group.counts) for group in groups) // MOST_PLAYED)
    dealt = [_Group(number, group, max(1, lump)) for number, group in enumerate(groups)]
    _Night(dealt).play()
    return tuple(group.share() for group in dealt)


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    """A picture, or several that are alike."""

    work: float
    kind: int
    pictures: int


class _Group:
    """A group on its way. What waits stands in its order, longest first."""

    ending = None

    def __init__(self, number: int, group: DealtGroup, lump: int) -> None:
        self.priority = group.priority
        self.rates = group.rates
        self.opens = (number,) if group.opens is None else group.opens
        self.began_s: float | None = None
        self.ended_s = 0.0
        self.done = dict.fromkeys(group.rates, 0)
        kinds = sorted(
            zip(group.weights, group.counts, range(len(group.counts)), strict=True), key=lambda each: -each[0]
        )
        self.work = sum(weight * count for weight, count, _ in kinds)
        items = [
            _Item(weight * min(lump, count - begun), kind, min(lump, count - begun))
            for weight, count, kind in kinds
            for begun in range(0, count, lump)
        ]
        self.source: WaitingLines[_Item] = WaitingLines(items, _kind, _work)
        self.speeds = Speeds({number: self._speed(rate, kinds) for number, rate in group.rates.items()})
        self._choosy = {number for number, rate in group.rates.items() if None in rate.picture_s}
        self.is_plain = not self._choosy

    @staticmethod
    def _speed(rate: DeviceRate, kinds: Sequence[tuple[float, int, int]]) -> float:
        """Work a second, by the longest picture that fits there."""
        fitting = ((weight, rate.picture_s[kind]) for weight, count, kind in kinds if count)
        return next((weight / (seconds or 1e-9) for weight, seconds in fitting if seconds is not None), 1.0)

    def share(self) -> GroupShare:
        return GroupShare(self.began_s or 0.0, self.ended_s, self.done)

    # -- what the policy asks --

    def begins(self, now_s: float) -> None:
        """Something is opened for it, or it is given out."""
        self.began_s = now_s if self.began_s is None else self.began_s

    def has(self, item: _Item, number: int, now_s: float) -> None:
        """A picture is there."""
        self.ended_s = now_s
        self.done[number] += item.pictures

    def seconds(self, number: int, item: _Item) -> float:
        """Of a device's own time that one takes there."""
        return (self.rates[number].picture_s[item.kind] or 0.0) * item.pictures

    @property
    def has_pictures(self) -> bool:
        return bool(self.source)

    def __bool__(self) -> bool:
        return bool(self.source)

    def setup_at(self, number: int) -> Hashable:
        return self.opens if number in self.rates else None

    def is_choosy(self, number: int) -> bool:
        return number in self._choosy

    def takes(self, number: int, item: _Item) -> bool:
        return self.rates[number].picture_s[item.kind] is not None

    def crashed_at(self, _: _Item) -> Collection[int]:
        return ()

    def work_of(self, item: _Item) -> float:
        return item.work


@dataclass(slots=True, eq=False)
class _Flight:
    """What a device holds: when it began, and how much of the device's time each in flight has had when it ends."""

    item: _Item
    since: float | None = None
    ends: float = 0.0


class _Hands(list[_Flight]):
    """All that a device holds, in its order: those in flight first."""

    work = 0.0
    flying = 0

    def values(self) -> Iterable[_Flight]:
        return self


@dataclass(frozen=True, slots=True)
class _Opened:
    load_s: float


class _Seat:
    """A device: what it has open, and what it holds. `due_s` is when something happens there next.

    Those in flight share its time evenly: `_each_s` is how much each had until `_looked_s`, were it there from the
    beginning.
    """

    is_out, is_placed = False, True

    def __init__(self, number: int) -> None:
        self.number = number
        self.flights = _Hands()
        self.setup: Hashable = None
        self.opened: _Opened | None = None
        self.due_s: float | None = None
        self._each_s = self._looked_s = 0.0

    @property
    def has_room(self) -> bool:
        return self.opened is not None and len(self.flights) < AT_HAND

    def opens(self, group: _Group, now_s: float) -> None:
        """Begin to open what a group needs."""
        group.begins(now_s)
        self.setup, self.opened = group.opens, None
        self.due_s = now_s + group.rates[self.number].start_s

    def holds(self, item: _Item, group: _Group, now_s: float) -> None:
        """It is given one more."""
        group.begins(now_s)
        self.flights.append(_Flight(item))
        self.flights.work += item.work
        self._begin(group, now_s)

    def gives_back(self) -> list[_Item]:
        """What it has not begun."""
        back = [flight.item for flight in self.flights[self.flights.flying :]]
        del self.flights[self.flights.flying :]
        self.flights.work -= sum(item.work for item in back)
        return back

    def goes_on(self, group: _Group, now_s: float) -> None:
        """What was due there happens: it is open, or a picture is there."""
        if self.opened is None:
            self.opened, self.due_s = _Opened(group.rates[self.number].start_s), None
            return
        self._look(now_s)
        over = min(self.flights[: self.flights.flying], key=_ends)
        self.flights.remove(over)
        self.flights.flying -= 1
        self.flights.work = self.flights.work - over.item.work if self.flights else 0.0
        group.has(over.item, self.number, now_s)
        self._begin(group, now_s)

    def _look(self, now_s: float) -> None:
        self._each_s += (now_s - self._looked_s) / max(1, self.flights.flying)
        self._looked_s = now_s

    def _begin(self, group: _Group, now_s: float) -> None:
        """Have as many in flight as there may be."""
        self._look(now_s)
        held, rate = self.flights, group.rates[self.number]
        while held.flying < min(rate.in_flight, len(held)):
            flight = held[held.flying]
            flight.since, flight.ends = now_s, self._each_s + group.seconds(self.number, flight.item)
            held.flying += 1
        least = min(map(_ends, held[: held.flying]), default=None)
        self.due_s = None if least is None else now_s + (least - self._each_s) * held.flying


class _Night:
    """All devices and groups, as whoever hears the workers has them: `Dispatcher._run` asks the same of its deal."""

    def __init__(self, groups: Sequence[_Group]) -> None:
        numbers = sorted({number for group in groups for number in group.rates})
        self._seats = [_Seat(number) for number in numbers]
        several = len(numbers) > 1  # one alone keeps the order of the manifests
        in_turn = sorted(groups, key=lambda group: (-group.priority, -group.work if several else 0.0))
        self._deal: Deal[_Group, _Seat] = Deal(in_turn, self._seats, self)
        self._due: list[tuple[float, int, _Seat]] = []
        self._now_s = 0.0

    def speeds(self, group: _Group, _: _Item | None) -> Speeds:
        """What the policy knows of them."""
        return group.speeds

    def play(self) -> None:
        """Until all is done."""
        deal, levels = self._deal, 0
        while True:
            deal.settle()
            for seat, group in deal.at_work():
                if seat.setup != group.opens:
                    seat.opens(group, self._now_s)
                    self._is_due(seat)
            serving = deal.serving()
            while (seat_ := serving.next()) is not None:
                if self._give(seat_):
                    serving.again(seat_)
            levels = levels + 1 if self._level() else 0
            if (not levels or levels > _MOST_LEVELS) and not self._pass():
                return

    def _give(self, seat: _Seat) -> bool:
        """Give a device its next picture, if it can have one."""
        group = self._deal.group_of(seat)
        if group is None or self._deal.is_called_away(seat):
            return False
        item = self._deal.first(group, seat, self._deal.is_worth(group, seat))
        if item is None:
            return False
        group.source.take(item)
        seat.holds(item, group, self._now_s)
        self._is_due(seat)
        return True

    def _level(self) -> bool:
        """Have those give back what they have not begun that are to: whether any did."""
        back = False
        for seat in list(self._deal.to_level()):
            group = self._deal.group_of(seat)
            for item in reversed(seat.gives_back()):
                assert group is not None
                group.source.put_back(item)
                back = True
        return back

    def _is_due(self, seat: _Seat) -> None:
        if seat.due_s is not None:
            heappush(self._due, (seat.due_s, seat.number, seat))

    def _pass(self) -> bool:
        """Have the next happen: whether there is any.

        Of a crowd, as much as happens before one has nothing more to begin: the others need not be given more before.
        """
        happened = 0
        while self._due and happened <= max(0, len(self._seats) - _FEW):
            due_s, _, seat = heappop(self._due)
            group = self._deal.group_of(seat)
            if group is not None and due_s == seat.due_s:
                happened += 1
                self._now_s = due_s
                seat.goes_on(group, due_s)
                self._is_due(seat)
                if len(seat.flights) == seat.flights.flying:
                    break
        return happened > 0


def _kind(item: _Item) -> int:
    return item.kind


def _work(item: _Item) -> float:
    return item.work


def _ends(flight: _Flight) -> float:
    return flight.ends
