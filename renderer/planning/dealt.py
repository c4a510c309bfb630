"""How long several devices take for groups of pictures: a night's dealing (`supervisor.dealing`), played through.

The longest come first. A group is opened on as few devices as keep all busy, each holds a part of it by its speed, and
gives back what it has not begun to one that has nothing. One that is slow begins nothing that faster ones would be
through with before it. Values in, values out: knows no plans and no machines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from renderer.estimate.host import AT_HAND

MOST_PLAYED = 2000
"""Pictures that are played through: of more, several that are alike go as one."""

FASTER_CARD = 1.2
"""From so many times a device's speed on, another is faster: pictures on cards that are alike differ by less."""

TOO_MUCH = 1.25
"""From so many times the work that a device is to hold on, it gives back what it has not begun."""


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

    `rates` are those of the devices that can open it, by their number.
    """

    counts: tuple[int, ...]
    weights: tuple[float, ...]
    rates: Mapping[int, DeviceRate]


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
    night = _Night([_Group.of(group, max(1, lump)) for group in groups])
    night.play()
    return tuple(
        GroupShare(group.began_s or 0.0, group.ended_s, {number: group.done.get(number, 0) for number in group.rates})
        for group in night.groups
    )


@dataclass(frozen=True, slots=True)
class _Item:
    """A picture, or several that are alike."""

    weight: float
    kind: int
    pictures: int


@dataclass(slots=True, eq=False)
class _Group:
    """A group on its way. What waits stands in its order, longest first; `work` is its weight."""

    rates: Mapping[int, DeviceRate]
    waiting: list[_Item]
    work: float = 0.0
    began_s: float | None = None
    ended_s: float = 0.0
    done: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def of(group: DealtGroup, lump: int) -> _Group:
        waiting = [
            _Item(weight * min(lump, count - begun), kind, min(lump, count - begun))
            for kind, (weight, count) in enumerate(zip(group.weights, group.counts, strict=True))
            for begun in range(0, count, lump)
        ]
        return _Group(group.rates, sorted(waiting, key=_longest), sum(item.weight for item in waiting))

    def pop(self, place: int) -> _Item:
        """One of those that wait, which waits no more."""
        self.work -= self.waiting[place].weight
        return self.waiting.pop(place)

    def put_back(self, items: Sequence[_Item]) -> None:
        """They wait again."""
        self.work += sum(item.weight for item in items)
        self.waiting = sorted([*items, *self.waiting], key=_longest)

    def takes(self, number: int, item: _Item) -> bool:
        """Whether one fits on a device."""
        return number in self.rates and self.rates[number].picture_s[item.kind] is not None

    def seconds(self, number: int, item: _Item) -> float:
        """Of a device's own time that one takes there."""
        return (self.rates[number].picture_s[item.kind] or 0.0) * item.pictures


@dataclass(slots=True)
class _Flight:
    """What has been begun: seconds of its device's own time that are left."""

    item: _Item
    left_s: float


@dataclass(slots=True, eq=False)
class _Seat:
    """A device: the group that it is at, the one that it has open, when that is, and what it holds."""

    number: int
    at: _Group | None = None
    open: _Group | None = None
    opens_s: float | None = None
    looked_s: float = 0.0
    flights: list[_Flight] = field(default_factory=list)
    unbegun: list[_Item] = field(default_factory=list)

    @property
    def holds(self) -> int:
        return len(self.flights) + len(self.unbegun)

    @property
    def work(self) -> float:
        return sum(flight.item.weight for flight in self.flights) + sum(item.weight for item in self.unbegun)

    @property
    def due_s(self) -> float | None:
        """When something happens there next."""
        if self.opens_s is not None:
            return self.opens_s
        least = min((flight.left_s for flight in self.flights), default=None)
        return None if least is None else self.looked_s + least * len(self.flights)

    def begin(self, now_s: float) -> None:
        """Time has passed, which those in flight share evenly; have as many in flight as there may be."""
        each_s = (now_s - self.looked_s) / max(1, len(self.flights))
        for flight in self.flights:
            flight.left_s -= each_s
        self.looked_s = now_s
        while self.at is not None and self.unbegun and len(self.flights) < self.at.rates[self.number].in_flight:
            item = self.unbegun.pop(0)
            self.flights.append(_Flight(item, self.at.seconds(self.number, item)))


class _Night:
    """All devices and groups."""

    def __init__(self, groups: Sequence[_Group]) -> None:
        self.groups = list(groups)
        self._in_turn = sorted(groups, key=lambda group: -group.work)
        self._seats = [_Seat(number) for number in sorted({number for group in groups for number in group.rates})]
        self._speeds = {group: _speeds(group) for group in groups}
        self._differ = {group for group, each in self._speeds.items() if _is_mixed(each.values())}
        self._there: dict[_Group, list[_Seat]] = {group: [] for group in groups}
        self._now_s = 0.0

    def play(self) -> None:
        """Until all is done."""
        while True:
            self._settle()
            self._admit()
            if self._level():
                self._admit()
            due = [(due_s, seat.number, seat) for seat in self._seats if (due_s := seat.due_s) is not None]
            if not due:
                return
            self._now_s, _, seat = min(due)
            self._happens(seat)

    def _happens(self, seat: _Seat) -> None:
        if seat.opens_s is not None:
            seat.opens_s, seat.looked_s = None, self._now_s
            return
        seat.begin(self._now_s)
        over = min(seat.flights, key=lambda flight: flight.left_s)
        seat.flights.remove(over)
        seat.begin(self._now_s)
        assert seat.at is not None
        seat.at.ended_s = self._now_s
        seat.at.done[seat.number] = seat.at.done.get(seat.number, 0) + over.item.pictures

    # -- who is at what --

    def _unbegun(self, group: _Group) -> list[_Item]:
        return [item for seat in self._there[group] for item in seat.unbegun]

    def _settle(self) -> None:
        for seat in self._seats:
            if seat.holds or seat.opens_s is not None or (seat.at and self._first(seat.at, seat) is not None):
                continue
            able = [group for group in self._in_turn if self._is_wanted_at(group, seat)]
            if not able:
                continue
            self._goes_to(seat, min(able, key=lambda group: self._rank(group, seat)))

    def _goes_to(self, seat: _Seat, group: _Group) -> None:
        if seat.at is not None:
            self._there[seat.at].remove(seat)
        self._there[group].append(seat)
        seat.at = group
        if seat.open is not group:
            seat.open, seat.opens_s = group, self._now_s + group.rates[seat.number].start_s
            group.began_s = self._now_s if group.began_s is None else group.began_s

    def _rank(self, group: _Group, seat: _Seat) -> tuple[bool, bool, float]:
        there = len(self._there[group])
        return seat.open is not group, there > 0, -self._to_begin(group) / (there + 1)

    def _to_begin(self, group: _Group) -> float:
        """The work that nobody has begun."""
        return group.work + sum(item.weight for item in self._unbegun(group))

    def _is_wanted_at(self, group: _Group, seat: _Seat) -> bool:
        there = [other for other in self._there[group] if other is not seat]
        unbegun = self._unbegun(group)
        if self._first(group, seat) is None and not self._takes_any(group, seat, unbegun):
            return False
        if not there and self._is_for_faster(group, seat):
            return False
        able = [other for other in there if other.unbegun or self._first(group, other) is not None]
        if not able or seat.open is group:
            return True
        if len(group.waiting) + len(unbegun) <= sum(not other.holds for other in able):
            return False
        opening_s = max((group.rates[other.number].start_s for other in able if other.opens_s is None), default=0.0)
        together = sum(self._speeds[group][other.number] for other in able)
        return self._to_begin(group) / together > opening_s

    def _is_for_faster(self, group: _Group, seat: _Seat) -> bool:
        """Whether faster devices would be through with a group, beside what they are at, before one would be alone."""
        speeds = self._speeds[group]
        least = FASTER_CARD * speeds[seat.number]
        faster = [other for other in self._seats if speeds.get(other.number, 0.0) >= least]
        theirs = {other.at for other in faster if other.at is not None and other.at is not group}
        left = group.work + sum(at.work + sum(other.work for other in self._there[at]) for at in theirs)
        return bool(faster) and group.work * sum(speeds[other.number] for other in faster) > left * speeds[seat.number]

    # -- who takes what --

    def _first(self, group: _Group, seat: _Seat) -> int | None:
        """The place of the longest that waits and a device is to have."""
        kinds: set[int] = set()
        for place, item in enumerate(group.waiting):
            if item.kind not in kinds and self._takes_any(group, seat, [item]):
                return place
            kinds.add(item.kind)
        return None

    def _takes_any(self, group: _Group, seat: _Seat, items: Sequence[_Item]) -> bool:
        """Whether a device is to have any of these: it fits there, and the faster ones would not be through before."""
        faster = list(self._faster(group, seat)) if seat.number in group.rates else []
        most = self._most(group, seat, faster)
        return any(
            group.takes(seat.number, item)
            and (item.weight + seat.work <= most or not any(group.takes(other.number, item) for other in faster))
            for item in items
        )

    def _faster(self, group: _Group, seat: _Seat) -> Iterator[_Seat]:
        speeds = self._speeds[group]
        for other in self._there[group] if group in self._differ else ():
            if (
                other is not seat
                and other.opens_s is None
                and speeds[other.number] >= FASTER_CARD * speeds[seat.number]
            ):
                yield other

    def _most(self, group: _Group, seat: _Seat, faster: Sequence[_Seat]) -> float:
        """The work that a device does until the faster ones would be through with all that others do not hold."""
        if not faster:
            return float("inf")
        left = group.work + sum(other.work for other in faster)
        speeds = self._speeds[group]
        return left / sum(speeds[other.number] for other in faster) * speeds[seat.number]

    def _admit(self) -> None:
        """Have devices hold as much as they are to, those first that hold least."""
        shares = {group: self._share(group) for group in self.groups}
        line = [(seat.holds, seat.number, seat) for seat in self._seats if seat.at and seat.opens_s is None]
        heapify(line)
        while line:
            _, _, seat = heappop(line)
            if seat.at is not None and self._give(seat.at, seat, shares[seat.at]):
                heappush(line, (seat.holds, seat.number, seat))

    def _give(self, group: _Group, seat: _Seat, share: float) -> bool:
        """Have a device hold one more, if it is to."""
        if seat.holds >= AT_HAND or (place := self._first(group, seat)) is None:
            return False
        if seat.holds:
            held = seat.work + group.waiting[place].weight / 2
            if held > share * self._speeds[group][seat.number] * (1 + 1e-6):
                return False
        seat.unbegun.append(group.pop(place))
        seat.begin(self._now_s)
        return True

    def _share(self, group: _Group) -> float:
        """What a device of speed 1 is to hold of what its group has."""
        there = self._there[group]
        if len(there) < 2 or not group.waiting:  # noqa: PLR2004
            return float("inf")
        total = group.work + sum(other.work for other in there)
        return total / sum(self._speeds[group][other.number] for other in there)

    def _level(self) -> bool:
        """Have those give back what they have not begun that hold too much, or while others hold nothing."""
        back = False
        for group in self.groups:
            there = self._there[group]
            if group.waiting and group not in self._differ:
                continue
            idle = [seat for seat in there if seat.opens_s is None and not seat.holds and not group.waiting]
            for seat in there:
                faster = list(self._faster(group, seat))
                has_too_much = faster and seat.holds > 1 and seat.work > TOO_MUCH * self._most(group, seat, faster)
                others = [*idle, *(faster if has_too_much else ())]
                if seat.unbegun and any(self._takes_any(group, other, seat.unbegun) for other in others):
                    group.put_back(seat.unbegun)
                    seat.unbegun, back = [], True
        return back


def _longest(item: _Item) -> float:
    return -item.weight


def _is_mixed(speeds: Collection[float]) -> bool:
    return max(speeds) >= FASTER_CARD * min(speeds)


def _speeds(group: _Group) -> dict[int, float]:
    """Work a second on each device, by the longest picture that fits there."""
    found: dict[int, float] = {}
    for number in group.rates:
        item = next((item for item in group.waiting if group.takes(number, item)), None)
        found[number] = item.weight / (group.seconds(number, item) or 1e-9) if item is not None else 1.0
    return found
