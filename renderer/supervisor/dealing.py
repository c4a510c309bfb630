"""Which worker renders which pictures: groups of one model and precision are dealt to seats.

A group is opened on as few seats as keep all busy: a free seat takes a group that nobody is at, the largest first, and
helps with another's when there is none left, as long as that takes longer than opening it. Which part of it each then
has, `shares` says. One that is at a group of less priority is called away, when what it has in flight is done. Knows no
events.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from renderer.job import Profile, Weights
from renderer.outputs.summary import Ending
from renderer.planning.dealt import FASTER_CARD
from renderer.planning.deployment import Deployment
from renderer.planning.pace import Pace, weight
from renderer.planning.plan import Planned
from renderer.supervisor.picture_source import Fits, PictureSource
from renderer.supervisor.pool import Seat
from renderer.supervisor.progress import Flight
from renderer.supervisor.shares import SeatSpeeds, Shares

_NEARLY = 1 - 1e-6
"""Sums of seconds are as exact as that."""


@dataclass(slots=True, eq=False)
class Group:
    """Pictures of one model and precision: where they come from, and what each seat opens for them.

    `ending` is why nothing more of it is to begin, if so. `barred` are the seats that cannot open it after all;
    `crashed_on` says at which seats a picture has brought down a worker, by its fingerprint. `comes_later` says whether
    more may come of what is done with its pictures elsewhere. Those of a higher `priority` come first, whatever has to
    be opened for them.
    """

    source: PictureSource
    deployment: Deployment
    ending: Ending | None = None
    barred: set[int] = field(default_factory=set)
    crashed_on: dict[str, set[int]] = field(default_factory=dict)
    comes_later: Callable[[], bool] = lambda: False
    priority: float = 0.0

    @property
    def profile(self) -> Profile:
        """By which profile its pictures are rendered."""
        return self.deployment.setup.profile

    @property
    def weights(self) -> Weights:
        """What is opened for it."""
        return self.deployment.setup.weights

    @property
    def has_pictures(self) -> bool:
        """Whether more is to be begun."""
        return self.ending is None and bool(self.source)

    def __bool__(self) -> bool:
        """Whether more is to come, or may come."""
        return self.has_pictures or (self.ending is None and self.comes_later())

    @property
    def is_plain(self) -> bool:
        """Whether any seat may have any of its pictures."""
        return not self.crashed_on and not any(self.deployment.refused.values())

    def has_crashed(self, flight: Flight) -> bool:
        """Whether a picture has brought down a worker before."""
        return flight.item.fingerprint in self.crashed_on

    def crashed(self, held: Sequence[Flight], seat: Seat) -> None:
        """They brought down a worker at a seat, or one of them did."""
        for flight in held:
            self.crashed_on.setdefault(flight.item.fingerprint, set()).add(seat.number)

    def may_open(self, seat: Seat) -> bool:
        """Whether a seat has a worker for it, or may have."""
        return not seat.is_out and seat.number in self.deployment.setups and seat.number not in self.barred


class SeatOrder:
    """Seats in the order in which they are given pictures: whoever holds fewest is the next, up to its share.

    What is given moves from what waits into somebody's hands: the shares stay what they are meanwhile.
    """

    def __init__(self, deal: Deal, seats: Sequence[Seat]) -> None:
        self._deal = deal
        self._line = [(len(seat.flights), seat.number, seat) for seat in seats if seat.has_room]
        heapify(self._line)

    def next(self) -> Seat | None:
        """The seat with room that holds fewest, and no more than its share; None where none has."""
        while self._line:
            _, _, seat = heappop(self._line)
            group = self._deal.group_of(seat)
            if group is None or not seat.has_room:
                continue
            if self._deal.is_due(group, seat):
                return seat
        return None

    def again(self, seat: Seat) -> None:
        """It was given one, and may have another."""
        heappush(self._line, (len(seat.flights), seat.number, seat))


class Deal:
    """Which seat is at which group."""

    def __init__(self, groups: Sequence[Group], seats: Sequence[Seat], pace: Pace, speeds: SeatSpeeds) -> None:
        """`groups` in the order in which they are begun.

        `pace` says what pictures take, and `speeds` how fast seats are, as far as that is known.
        """
        self.groups = list(groups)
        self._seats = seats
        self._pace = pace
        self._speeds = speeds
        self._shares: dict[Group, Shares] = {}
        self._held: dict[Group, list[Planned]] = {}
        self._at: dict[int, Group] = {}
        self._there: defaultdict[Group, dict[int, Seat]] = defaultdict(dict)

    def __bool__(self) -> bool:
        """Whether more is to come of any group."""
        return any(self.groups)

    def group_of(self, seat: Seat) -> Group | None:
        """What a seat's worker is for."""
        return self._at.get(seat.number)

    def seats_at(self, group: Group) -> list[Seat]:
        """The seats that are at a group."""
        return list(self._there[group].values())

    def able(self, group: Group) -> list[Seat]:
        """The seats that may open it."""
        return [seat for seat in self._seats if group.may_open(seat)]

    def leave(self, seat: Seat) -> None:
        """A seat is at no group any more."""
        if (group := self._at.pop(seat.number, None)) is not None:
            del self._there[group][seat.number]

    def add(self, group: Group) -> None:
        """One more, which nobody knew of at the beginning, or more of one that is on its way."""
        alike = (each for each in self.groups if (each.weights, each.priority) == (group.weights, group.priority))
        there = next((each for each in alike if each.ending is None and not each.barred), None)
        if there is None:
            self.groups.append(group)
        else:
            there.deployment = group.deployment
            there.source.join(group.source.give_up())

    def settle(self) -> None:
        """Have every seat that has nothing more to do at its group go to another that has something for it."""
        self._held.clear()
        for seat in self._seats:
            here = self.group_of(seat)
            stays = here is not None and self._has_for(here, seat) and not self.is_called_away(seat)
            if seat.flights or seat.is_out or stays:
                continue
            there = self._best_for(seat)
            if there is not None:
                self.leave(seat)
                self._at[seat.number] = there
                self._there[there][seat.number] = seat

    def at_work(self) -> Iterator[tuple[Seat, Group]]:
        """The seats that need a worker: they hold pictures, or their group has more, or others of it have too much."""
        for seat in self._seats:
            group = self.group_of(seat)
            if group is None or seat.is_out:
                continue
            if seat.flights or group.has_pictures or self._unbegun(group):
                yield seat, group

    def next_rounds(self) -> None:
        """Let what failed be tried again in groups of which nothing is in flight."""
        for group in self.groups:
            if group.ending is None and not self._flies(group):
                group.source.next_round()

    def serving(self, but: Seat | None = None) -> SeatOrder:
        """The seats that have room at this moment, those first that hold fewest; not the one that was served."""
        self._shares.clear()
        return SeatOrder(self, [seat for seat in self._seats if seat is not but and seat.number in self._at])

    def first(self, group: Group, seat: Seat, fits: Fits | None = None) -> Planned | None:
        """The next picture of a group that a seat may have, and that `fits`."""
        if not group.has_pictures:
            return None
        return group.source.first(self._fits(group, seat, fits))

    def may_have(self, group: Group, seat: Seat, item: Planned) -> bool:
        """Whether a seat may have this picture of a group, whatever else waits."""
        fits = self._fits(group, seat, None)
        return fits is None or fits(item)

    def is_called_away(self, seat: Seat) -> bool:
        """Whether a seat is to take no more of its group: one of higher priority has something for it."""
        here = self.group_of(seat)
        if here is None:
            return False
        urgent = (group for group in self.groups if group.priority > here.priority and group.has_pictures)
        return any(group.may_open(seat) and self._calls(group, seat) for group in urgent)

    def to_level(self) -> Iterator[Seat]:
        """Seats to ask back what they have not begun: others have nothing to do or are faster, or they are to go."""
        yield from filter(self.is_called_away, self._seats)
        for group in self.groups:
            if len(seats := self.seats_at(group)) < 2:  # noqa: PLR2004
                continue
            shares = self._share(group)
            idle = [seat for seat in seats if not seat.flights and seat.opened and not group.source.waiting]
            for seat in seats if idle or shares.differ else ():
                others = [*idle, *(shares.faster(seat) if shares.has_too_much(seat) else ())]
                if others and len(seat.flights) > 1:
                    unbegun = [flight.item for flight in seat.flights.values() if flight.since is None]
                    if any(self._takes_any(group, other, unbegun) for other in others):
                        yield seat

    # -- how many, and where --

    def _flies(self, group: Group) -> bool:
        return any(seat.flights for seat in self.seats_at(group))

    def _share(self, group: Group) -> Shares:
        """What its seats are to hold, as it was when they began to be served."""
        if group not in self._shares:
            seats = [seat for seat in self.seats_at(group) if seat.is_placed and not self.is_called_away(seat)]
            speeds = self._speeds.of(self._seats, group.source.first() or self._any_of(group), group.profile)
            self._shares[group] = Shares(seats, speeds, group.source.waiting_work)
        return self._shares[group]

    def is_due(self, group: Group, seat: Seat) -> bool:
        """Whether a seat's share has room for the next one."""
        item = self.first(group, seat, self.is_worth(group, seat))
        if item is None or not seat.flights:
            return item is not None
        return (seat.flights.work + weight(item) / 2) * _NEARLY <= self._share(group).of(seat)

    def is_worth(self, group: Group, seat: Seat) -> Fits:
        """What a seat is to have: those that are faster would be through with it later, or may not have it."""
        shares = self._share(group)

        def worth(item: Planned) -> bool:
            return shares.is_worth(seat, item) or not any(
                self.may_have(group, other, item) for other in shares.faster(seat)
            )

        return worth

    def slowness(self, group: Group, seat: Seat) -> float:
        """How many times as long a picture of a group takes at a seat as most of them do."""
        return self._share(group).slowness(seat)

    def _takes_any(self, group: Group, seat: Seat, items: Sequence[Planned]) -> bool:
        """Whether a seat is to have any of these."""
        fits = self._fits(group, seat, self.is_worth(group, seat))
        return fits is None or any(map(fits, items))

    def _unbegun(self, group: Group) -> list[Planned]:
        """What seats hold of a group that have begun with some of it, and not with this: another could have it."""
        if group not in self._held:
            held = (seat.flights.values() for seat in self.seats_at(group) if len(seat.flights) > 1)
            self._held[group] = [
                flight.item
                for flights in held
                if any(flight.since for flight in flights)
                for flight in flights
                if flight.since is None
            ]
        return self._held[group]

    def _any_of(self, group: Group) -> Planned | None:
        """A picture that a seat holds of a group."""
        return next((flight.item for seat in self.seats_at(group) for flight in seat.flights.values()), None)

    def _fits(self, group: Group, seat: Seat, fits: Fits | None) -> Fits | None:
        """What a seat may have: what fits on its device, and brought down no worker there if it may go elsewhere."""
        if not group.deployment.is_choosy(seat.number) and not group.crashed_on:
            return fits

        def may_have(item: Planned) -> bool:
            crashed = group.crashed_on.get(item.fingerprint, set())
            return (
                group.deployment.takes(seat.number, item.picture.job)
                and not (seat.number in crashed and self._may_go_elsewhere(group, item))
                and (fits is None or fits(item))
            )

        return may_have

    def goes_elsewhere(self, group: Group, flight: Flight, seat: Seat) -> bool:
        """A picture has brought down a seat's worker, or its device: whether it may have one where it has not."""
        if len(self._seats) > 1:
            group.crashed([flight], seat)
        return len(self._seats) > 1 and self._may_go_elsewhere(group, flight.item)

    def _may_go_elsewhere(self, group: Group, item: Planned) -> bool:
        crashed = group.crashed_on.get(item.fingerprint, set())
        others = (other.number for other in self._seats if group.may_open(other))
        return any(number not in crashed and group.deployment.takes(number, item.picture.job) for number in others)

    def _has_for(self, group: Group, seat: Seat) -> bool:
        """Whether a seat that holds nothing is to stay at its group: more is to come, and some of it for it."""
        if not group or not group.may_open(seat):
            return False
        others = any(other.has_pictures and other is not group for other in self.groups)
        return self.first(group, seat) is not None or len(self._seats) == 1 or not others

    def _best_for(self, seat: Seat) -> Group | None:
        """The group that a free seat goes to: what it has open, what nobody is at, what has most left for each seat."""
        those = (group for group in self.groups if group.has_pictures or self._unbegun(group))
        able = [group for group in those if group.may_open(seat) and self._is_wanted_at(group, seat)]
        alone = len(self._seats) == 1

        def rank(group: Group) -> tuple[float, bool, bool, float]:
            there = len(self.seats_at(group))
            is_open = seat.setup == group.deployment.setups[seat.number]
            return -group.priority, not is_open, there > 0, 0.0 if alone else -self._left_s(group) / (there + 1)

        return min(able, key=rank, default=None)

    def _calls(self, group: Group, seat: Seat) -> bool:
        """Whether a group takes a seat from others of less priority: of those that may open it, one for the first."""
        if not self._is_wanted_at(group, seat):
            return False
        if self.seats_at(group):
            return True
        others = [each for each in self.able(group) if (at := self.group_of(each)) and at.priority < group.priority]
        idle = any(self.group_of(each) is None for each in self.able(group))
        return not idle and seat is min(others, key=lambda each: len(each.flights))

    def _is_wanted_at(self, group: Group, seat: Seat) -> bool:
        """Whether there is something for one more seat, and opening the group there takes less than it saves."""
        alone = not (self._there[group].keys() - {seat.number})
        if alone and self.first(group, seat) is None:
            return group.source.waiting == 0  # more may be asked for
        if alone:
            return not self._is_for_faster(group, seat)
        unbegun = self._unbegun(group)
        if self.first(group, seat, self.is_worth(group, seat)) is None and not self._takes_any(group, seat, unbegun):
            return False
        there = [other for other in self.seats_at(group) if other is not seat]
        able = there if group.is_plain else [other for other in there if self.first(group, other) is not None]
        if not able:  # what is left is too large for them, or brought down their workers
            return True
        if group.source.waiting + len(unbegun) <= sum(not other.flights for other in able):
            return False
        if seat.setup == group.deployment.setups[seat.number]:
            return True
        opening_s = max((other.opened.load_s for other in there if other.opened), default=0.0)
        return self._left_s(group, unknown=float("inf")) / len(able) > opening_s

    def _is_for_faster(self, group: Group, seat: Seat) -> bool:
        """Whether faster seats would be through with a group, beside what they are at, before one would be alone."""
        speeds = self._speeds.of(self._seats, group.source.first(), group.profile)
        least = FASTER_CARD * speeds[seat.number]
        faster = [other for other in self.able(group) if speeds[other.number] >= least and other.is_placed]
        theirs = {at for other in faster if (at := self.group_of(other)) is not None and at is not group}
        if not faster or any(at.priority < group.priority for at in theirs):  # those would have to be called away
            return False
        held = sum(other.flights.work for at in theirs for other in self.seats_at(at))
        left = group.source.waiting_work + held + sum(at.source.waiting_work for at in theirs)
        return group.source.waiting_work * sum(speeds[other.number] for other in faster) > left * speeds[seat.number]

    def _left_s(self, group: Group, unknown: float | None = None) -> float:
        """About how long what waits of a group takes one seat; where nobody knows, as many seconds as pictures wait."""
        unbegun = self._unbegun(group)
        first = group.source.first() or next(iter(unbegun), None)
        each_s = self._pace.expect_s(first, group.profile) if first is not None else None
        if each_s is None and unknown is not None:
            return unknown
        return (each_s or 1.0) * (group.source.waiting + len(unbegun))
