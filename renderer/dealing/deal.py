"""Which seat renders which pictures: groups of one model and precision are dealt to seats.

A group is opened on as few seats as keep all busy: a free seat takes a group that nobody is at, the largest first, and
helps with another's when there is none left, as long as that takes longer than opening it. Which part of it each then
has, `shares` says; one of which nobody knows how fast it is holds one picture, until that tells. A seat that is at a
group of less priority is called away, when what it has in flight is done.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, Generic, Protocol, TypeVar

from renderer.dealing.parties import Fits, GroupLike, GroupT_contra, ItemT, SeatLike
from renderer.dealing.shares import FASTER_CARD, Shares, Speeds

_NEARLY = 1 - 1e-6
"""Sums of seconds are as exact as that."""

GroupT = TypeVar("GroupT", bound=GroupLike[Any])
SeatT = TypeVar("SeatT", bound=SeatLike)


class Knowledge(Protocol[GroupT_contra]):
    """What is known of how fast seats are."""

    def speeds(self, group: GroupT_contra, item: Any | None) -> Speeds:
        """Of all seats, with what a group's pictures are rendered with, of which `item` is one, if there is any."""


@dataclass(slots=True)
class _Crew:
    """Those that are at a group, as they are counted for whoever may join them."""

    idle: int
    speed: float
    opening_s: float


class SeatOrder(Generic[GroupT, SeatT]):
    """Seats in the order in which they are given pictures: whoever holds fewest is the next, up to its share.

    What is given moves from what waits into somebody's hands: the shares stay what they are meanwhile.
    """

    def __init__(self, deal: Deal[GroupT, SeatT], seats: Sequence[SeatT]) -> None:
        self._deal = deal
        self._line = [(len(seat.flights), seat.number, seat) for seat in seats if seat.has_room]
        heapify(self._line)

    def next(self) -> SeatT | None:
        """The seat with room that holds fewest, and no more than its share; None where none has."""
        while self._line:
            _, _, seat = heappop(self._line)
            group = self._deal.group_of(seat)
            if group is None or not seat.has_room:
                continue
            if self._deal.is_due(group, seat):
                return seat
        return None

    def again(self, seat: SeatT) -> None:
        """It was given one, and may have another."""
        heappush(self._line, (len(seat.flights), seat.number, seat))


class Deal(Generic[GroupT, SeatT]):
    """Which seat is at which group."""

    def __init__(self, groups: Sequence[GroupT], seats: Sequence[SeatT], known: Knowledge[GroupT]) -> None:
        """`groups` in the order in which they are begun; `known` is how fast seats are, as far as it is known."""
        self.groups = list(groups)
        self._highest = max((group.priority for group in groups), default=0.0)
        self._seats = seats
        self._known = known
        self._speeds: dict[GroupT, Speeds] = {}
        self._shares: dict[GroupT, Shares] = {}
        self._held: dict[GroupT, tuple[list[Any], float]] = {}
        self._crews: dict[GroupT, _Crew] = {}
        self._at: dict[int, GroupT] = {}
        self._there: defaultdict[GroupT, dict[int, SeatT]] = defaultdict(dict)

    def __bool__(self) -> bool:
        """Whether more is to come of any group."""
        return any(self.groups)

    def group_of(self, seat: SeatT) -> GroupT | None:
        """What a seat's worker is for."""
        return self._at.get(seat.number)

    def seats_at(self, group: GroupT) -> list[SeatT]:
        """The seats that are at a group."""
        return list(self._there[group].values())

    def able(self, group: GroupT) -> list[SeatT]:
        """The seats that may open it."""
        return [seat for seat in self._seats if _may_open(group, seat)]

    def leave(self, seat: SeatT) -> None:
        """A seat is at no group any more."""
        if (group := self._at.pop(seat.number, None)) is not None:
            del self._there[group][seat.number]

    def add(self, group: GroupT) -> None:
        """One more, which nobody knew of at the beginning."""
        self.groups.append(group)
        self._highest = max(self._highest, group.priority)

    def settle(self) -> None:
        """Have every seat that has nothing more to do at its group go to another that has something for it."""
        self._held.clear()
        self._speeds.clear()
        self._crews.clear()
        for seat in self._seats:
            if seat.flights or seat.is_out:
                continue
            here = self._at.get(seat.number)
            if here is not None and self._has_for(here, seat) and not self.is_called_away(seat):
                continue
            there = self._best_for(seat)
            if there is not None:
                self._goes_to(there, seat)

    def at_work(self) -> Iterator[tuple[SeatT, GroupT]]:
        """The seats that need a worker: they hold pictures, or their group has more, or others of it have too much."""
        for seat in self._seats:
            group = self._at.get(seat.number)
            if group is None or seat.is_out:
                continue
            if seat.flights or group.has_pictures or self._unbegun(group):
                yield seat, group

    def next_rounds(self) -> None:
        """Let what failed be tried again in groups of which nothing is in flight."""
        for group in self.groups:
            if group.ending is None and not self._flies(group):
                group.source.next_round()

    def serving(self, but: SeatT | None = None) -> SeatOrder[GroupT, SeatT]:
        """The seats that have room at this moment, those first that hold fewest; not the one that was served."""
        self._shares.clear()
        self._speeds.clear()
        return SeatOrder(self, [seat for seat in self._seats if seat is not but and seat.number in self._at])

    def first(self, group: GroupLike[ItemT], seat: SeatLike, fits: Fits[ItemT] | None = None) -> ItemT | None:
        """The next picture of a group that a seat may have, and that `fits`."""
        if not group.has_pictures:
            return None
        return group.source.first(self._fits(group, seat, fits))

    def may_have(self, group: GroupLike[ItemT], seat: SeatLike, item: ItemT) -> bool:
        """Whether a seat may have this picture of a group, whatever else waits."""
        fits = self._fits(group, seat, None)
        return fits is None or fits(item)

    def is_called_away(self, seat: SeatT) -> bool:
        """Whether a seat is to take no more of its group: one of higher priority has something for it."""
        here = self._at.get(seat.number)
        if here is None or here.priority >= self._highest:
            return False
        urgent = (group for group in self.groups if group.priority > here.priority and group.has_pictures)
        return any(_may_open(group, seat) and self._calls(group, seat) for group in urgent)

    def to_level(self) -> Iterator[SeatT]:
        """Seats to ask back what they have not begun: others have nothing to do or are faster, or they are to go."""
        if any(group.priority < self._highest for group in self.groups):
            yield from filter(self.is_called_away, self._seats)
        for group in self.groups:
            if len(self._there[group]) < 2:  # noqa: PLR2004
                continue
            seats, shares = self.seats_at(group), self._share(group)
            idle = [seat for seat in seats if not seat.flights and seat.opened and not group.source.waiting]
            for seat in seats if idle or shares.differ else ():
                if len(seat.flights) < 2 or not (idle or shares.has_too_much(seat)):  # noqa: PLR2004
                    continue
                unbegun = [flight.item for flight in seat.flights.values() if flight.since is None]
                others: list[SeatLike] = [*idle, *self._relieving(group, seat, unbegun)]
                if unbegun and any(self._takes_any(group, other, unbegun) for other in others):
                    yield seat

    def _relieving(self, group: GroupT, seat: SeatT, unbegun: Sequence[Any]) -> Sequence[SeatLike]:
        """Those that are faster, where a seat holds too much beside what none of them may have."""
        shares = self._share(group)
        faster = shares.faster(seat) if shares.has_too_much(seat) else ()
        if not faster or group.is_plain:
            return faster
        own = [item for item in unbegun if not any(self.may_have(group, other, item) for other in faster)]
        return faster if shares.has_too_much(seat, sum(map(group.work_of, own))) else ()

    # -- how many --

    def _flies(self, group: GroupT) -> bool:
        return any(seat.flights for seat in self.seats_at(group))

    def _speeds_of(self, group: GroupT) -> Speeds:
        if group not in self._speeds:
            self._speeds[group] = self._known.speeds(group, group.source.first() or self._any_of(group))
        return self._speeds[group]

    def _share(self, group: GroupT) -> Shares:
        """What its seats are to hold, as it was when they began to be served."""
        if group not in self._shares:
            seats = [seat for seat in self.seats_at(group) if seat.is_placed and not self.is_called_away(seat)]
            self._shares[group] = Shares(seats, self._speeds_of(group).each, group.source.waiting_work)
        return self._shares[group]

    def is_due(self, group: GroupT, seat: SeatT) -> bool:
        """Whether a seat's share has room for the next one; one whose speed is to be told first holds one alone."""
        if not group.has_pictures:
            return False
        share = float("inf")
        if seat.flights:
            share = self._share(group).of(seat)
            if seat.number in self._speeds_of(group).unknown or seat.flights.work * _NEARLY > share:
                return False  # whatever comes next
        item = self.first(group, seat, self.is_worth(group, seat))
        return item is not None and (seat.flights.work + group.work_of(item) / 2) * _NEARLY <= share

    def is_worth(self, group: GroupT, seat: SeatLike) -> Fits[Any] | None:
        """What a seat is to have: those that are faster would be through with it later, or may not have it.

        None where none is faster: all of it.
        """
        shares = self._share(group)
        if not shares.faster(seat):
            return None

        def worth(item: Any) -> bool:
            return shares.is_worth(seat, group.work_of(item)) or not any(
                self.may_have(group, other, item) for other in shares.faster(seat)
            )

        return worth

    def slowness(self, group: GroupT, seat: SeatT) -> float:
        """How many times as long a picture of a group takes at a seat as most of them do."""
        return self._share(group).slowness(seat)

    def _takes_any(self, group: GroupT, seat: SeatLike, items: Sequence[Any]) -> bool:
        """Whether a seat is to have any of these."""
        fits = self._fits(group, seat, self.is_worth(group, seat))
        return bool(items) if fits is None else any(map(fits, items))

    def _unbegun(self, group: GroupT) -> list[Any]:
        """What seats hold of a group that have begun with some of it, and not with this: another could have it."""
        return self._held_back(group)[0]

    def _held_back(self, group: GroupT) -> tuple[list[Any], float]:
        """The same, and the work that it is."""
        if group not in self._held:
            held = (seat.flights.values() for seat in self._there[group].values() if len(seat.flights) > 1)
            unbegun = [
                flight.item
                for flights in held
                if any(flight.since is not None for flight in flights)
                for flight in flights
                if flight.since is None
            ]
            self._held[group] = unbegun, sum(map(group.work_of, unbegun))
        return self._held[group]

    def _any_of(self, group: GroupT) -> Any | None:
        """A picture that a seat holds of a group."""
        return next((flight.item for seat in self.seats_at(group) for flight in seat.flights.values()), None)

    # -- what may be where --

    def _fits(self, group: GroupLike[ItemT], seat: SeatLike, fits: Fits[ItemT] | None) -> Fits[ItemT] | None:
        """What a seat may have: what fits on its device, and brought down no worker there if it may go elsewhere."""
        if not group.is_choosy(seat.number):
            return fits

        def may_have(item: ItemT) -> bool:
            return (
                group.takes(seat.number, item)
                and not (seat.number in group.crashed_at(item) and self.may_go_elsewhere(group, item))
                and (fits is None or fits(item))
            )

        return may_have

    def may_go_elsewhere(self, group: GroupLike[ItemT], item: ItemT) -> bool:
        """Whether a picture may have a seat at which it has brought down none."""
        crashed = group.crashed_at(item)
        others = (other.number for other in self._seats if _may_open(group, other))
        return any(number not in crashed and group.takes(number, item) for number in others)

    # -- who goes where --

    def _goes_to(self, group: GroupT, seat: SeatT) -> None:
        self.leave(seat)
        self._at[seat.number] = group
        self._there[group][seat.number] = seat
        if (crew := self._crews.get(group)) is not None:
            crew.idle += 1
            crew.speed += self._speeds_of(group).each[seat.number]

    def _has_for(self, group: GroupT, seat: SeatT) -> bool:
        """Whether a seat that holds nothing is to stay at its group: more is to come, and some of it for it."""
        if not group or not _may_open(group, seat):
            return False
        others = any(other.has_pictures and other is not group for other in self.groups)
        return self.first(group, seat) is not None or len(self._seats) == 1 or not others

    def _best_for(self, seat: SeatT) -> GroupT | None:
        """The group that a free seat goes to: what it has open, what nobody is at, what has most left for each seat."""
        those = (group for group in self.groups if group.has_pictures or self._unbegun(group))
        able = [group for group in those if _may_open(group, seat) and self._is_wanted_at(group, seat)]
        if len(able) < 2:  # noqa: PLR2004  # most nights have one
            return able[0] if able else None
        alone = len(self._seats) == 1

        def rank(group: GroupT) -> tuple[float, bool, bool, float]:
            there = len(self._there[group])
            is_open = seat.setup == group.setup_at(seat.number)
            return -group.priority, not is_open, there > 0, 0.0 if alone else -self._to_begin(group) / (there + 1)

        return min(able, key=rank, default=None)

    def _calls(self, group: GroupT, seat: SeatT) -> bool:
        """Whether a group takes a seat from others of less priority: of those that may open it, one for the first."""
        if not self._is_wanted_at(group, seat):
            return False
        if self.seats_at(group):
            return True
        others = [each for each in self.able(group) if (at := self.group_of(each)) and at.priority < group.priority]
        idle = any(self.group_of(each) is None for each in self.able(group))
        return not idle and seat is min(others, key=lambda each: len(each.flights))

    def _is_wanted_at(self, group: GroupT, seat: SeatT) -> bool:
        """Whether there is something for one more seat, and opening the group there takes less than it saves."""
        alone = len(self._there[group]) == (seat.number in self._there[group])
        if alone:
            item = self.first(group, seat)
            return group.source.waiting == 0 if item is None else not self._is_for_faster(group, seat, item)
        unbegun = self._unbegun(group)
        if self.first(group, seat, self.is_worth(group, seat)) is None and not self._takes_any(group, seat, unbegun):
            return False
        crew = self._crew(group, seat)
        if crew is None:  # what is left is too large for those that are there, or brought down their workers
            return True
        if group.source.waiting + len(unbegun) <= crew.idle:
            return False
        if seat.setup == group.setup_at(seat.number) or self._speeds_of(group).relative:
            return True
        return self._to_begin(group) > crew.opening_s * crew.speed

    def _crew(self, group: GroupT, seat: SeatT) -> _Crew | None:
        """Those at a group, but for a seat, that may have some of what waits; None where none may."""
        is_for_all = group.is_plain and seat.number not in self._there[group]
        if is_for_all and group in self._crews:
            return self._crews[group]
        there = [other for other in self.seats_at(group) if other is not seat]
        able = there if group.is_plain else [other for other in there if self.first(group, other) is not None]
        if not able:
            return None
        speeds = self._speeds_of(group).each
        crew = _Crew(
            idle=sum(not other.flights for other in able),
            speed=sum(speeds[other.number] for other in able),
            opening_s=max((other.opened.load_s for other in there if other.opened), default=0.0),
        )
        if is_for_all:
            self._crews[group] = crew
        return crew

    def _is_for_faster(self, group: GroupT, seat: SeatT, item: Any) -> bool:
        """Whether faster seats would be through with a group, beside what they are at, before one would be alone.

        Those are that may have the picture which that one would begin with.
        """
        speeds = self._speeds_of(group).each
        least = FASTER_CARD * speeds[seat.number]
        able = (other for other in self.able(group) if speeds[other.number] >= least and other.is_placed)
        faster = [other for other in able if self.may_have(group, other, item)]
        theirs = {at for other in faster if (at := self.group_of(other)) is not None and at is not group}
        if not faster or any(at.priority < group.priority for at in theirs):  # those would have to be called away
            return False
        held = sum(other.flights.work for at in theirs for other in self.seats_at(at))
        left = group.source.waiting_work + held + sum(at.source.waiting_work for at in theirs)
        return group.source.waiting_work * sum(speeds[other.number] for other in faster) > left * speeds[seat.number]

    def _to_begin(self, group: GroupT) -> float:
        """The work of a group that nobody has begun."""
        return group.source.waiting_work + self._held_back(group)[1]


def _may_open(group: GroupLike[Any], seat: SeatLike) -> bool:
    """Whether a seat has a worker for a group, or may have."""
    return not seat.is_out and group.setup_at(seat.number) is not None
