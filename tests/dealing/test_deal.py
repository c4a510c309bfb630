"""Which group a free seat goes to, and what it is given there: the policy alone, without a pool and without a clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from renderer.dealing.deal import Deal
from renderer.dealing.lines import WaitingLines
from renderer.dealing.shares import Speeds


@dataclass(frozen=True, slots=True)
class Picture:
    """One that is a kind for itself."""

    work: float = 1.0


@dataclass(eq=False)
class Pictures:
    """A group; `opens` is what a seat has open for it."""

    opens: str
    items: Sequence[Picture]
    priority: float = 0.0
    choosy: Mapping[int, float] = field(default_factory=dict)
    crashed: Mapping[Picture, set[int]] = field(default_factory=dict)
    ending = None

    def __post_init__(self) -> None:
        self.source = WaitingLines(self.items, lambda item: item.work, lambda item: item.work)

    @property
    def is_plain(self) -> bool:
        return not self.choosy and not self.crashed

    @property
    def has_pictures(self) -> bool:
        return bool(self.source)

    def __bool__(self) -> bool:
        return bool(self.source)

    def setup_at(self, _: int) -> str:
        return self.opens

    def is_choosy(self, number: int) -> bool:
        return number in self.choosy or bool(self.crashed)

    def takes(self, number: int, item: Picture) -> bool:
        return item.work <= self.choosy.get(number, item.work)

    def crashed_at(self, item: Picture) -> set[int]:
        return self.crashed.get(item, set())

    def work_of(self, item: Picture) -> float:
        return item.work


class Hands(dict[int, Any]):
    """What a seat holds."""

    @property
    def work(self) -> float:
        return float(sum(flight.item.work for flight in self.values()))


@dataclass(eq=False)
class Place:
    """A seat that takes orders, with something open."""

    number: int
    setup: str | None = None
    load_s: float = 5.0
    flights: Hands = field(default_factory=Hands)
    is_out: bool = False
    is_placed, has_room = True, True

    @property
    def opened(self) -> Any:
        return SimpleNamespace(load_s=self.load_s) if self.setup is not None else None

    def holds(self, *works: float, begun: int = 1) -> Place:
        """It has been given these, and has begun the first of them."""
        for place, work in enumerate(works):
            self.flights[place] = SimpleNamespace(item=Picture(work), since=0 if place < begun else None)
        return self


class OfAll:
    """What is known of seats: so much work a second each."""

    def __init__(self, *each: float, unknown: Sequence[int] = ()) -> None:
        self._found = Speeds(dict(enumerate(each)), unknown=unknown)

    def speeds(self, *_: object) -> Speeds:
        return self._found


def many(count: int, work: float = 1.0) -> list[Picture]:
    return [Picture(work) for _ in range(count)]


def dealt(groups: Sequence[Pictures], seats: Sequence[Place], known: OfAll | None = None) -> Deal[Pictures, Place]:
    return Deal(groups, seats, known or OfAll(*[1.0] * len(seats)))


class TestWhereAFreeSeatGoes:
    """Each of the four ranks alone decides, against all that come behind it."""

    def test_to_what_is_of_higher_priority(self) -> None:
        """Though another is open there, and is larger."""
        small, large = Pictures("a", many(2), priority=1), Pictures("b", many(50))
        seat = Place(0, "b")
        deal = dealt([large, small], [seat])
        deal.settle()
        assert deal.group_of(seat) is small

    def test_to_what_it_has_open(self) -> None:
        """Though somebody is at it, and nobody at another that is larger."""
        here, other = Pictures("a", many(40)), Pictures("b", many(90))
        first, second = Place(0, "a").holds(1.0), Place(1, "a")
        deal = dealt([here, other], [first, second])
        first.flights.clear()
        deal.settle()
        assert deal.group_of(first) is here
        first.holds(1.0)
        deal.settle()
        assert deal.group_of(second) is here

    def test_to_what_nobody_is_at(self) -> None:
        """Though another has more for each that is at it."""
        large, small = Pictures("a", many(90)), Pictures("b", many(10))
        first, second = Place(0), Place(1)
        deal = dealt([large, small], [first, second])
        deal.settle()
        assert [deal.group_of(seat) for seat in (first, second)] == [large, small]

    @pytest.mark.parametrize(("works", "wanted"), [((90, 100), 1), ((100, 90), 0)])
    def test_to_the_largest(self, works: tuple[int, int], wanted: int) -> None:
        """In whatever order they stand, by their work and not by their number."""
        groups = [Pictures(name, many(works[place] // (1 + place), 1.0 + place)) for place, name in enumerate("ab")]
        seat, other = Place(0), Place(1)
        deal = dealt(groups, [seat, other])
        deal.settle()
        assert deal.group_of(seat) is groups[wanted]

    def test_to_what_has_most_for_each_that_is_there(self) -> None:
        """The group with more in all has two already, and the other one."""
        large, small = Pictures("a", many(100)), Pictures("b", many(90))
        seats = [Place(number) for number in range(4)]
        deal = dealt([large, small], seats)
        deal.settle()
        assert [deal.group_of(seat) for seat in seats] == [large, small, large, small]

    def test_a_night_of_one_keeps_the_manifests_order(self) -> None:
        """Whoever is alone goes by the order in which groups stand, whatever they are."""
        small, large = Pictures("a", many(2)), Pictures("b", many(90))
        seat = Place(0)
        deal = dealt([small, large], [seat])
        deal.settle()
        assert deal.group_of(seat) is small


class TestWhetherItHelps:
    def test_not_with_less_than_opening_it_takes(self) -> None:
        """Two seats do 2 of work a second, and opening takes 5 s: 10 are theirs, 11 are worth a third one's opening."""
        for work, helps in ((10, False), (11, True)):
            group, third = Pictures("a", many(work)), Place(2)
            third.is_out = True
            seats = [Place(0, "a"), Place(1, "a"), third]
            deal = dealt([group], seats)
            deal.settle()
            for seat in seats[:2]:
                seat.holds(0.0)
            third.is_out = False
            deal.settle()
            assert (deal.group_of(third) is group) is helps

    def test_those_that_join_at_once_count_for_each_other(self) -> None:
        """Two pictures are for two seats; and 11 s of work for one are not for four that take 5 s to open."""
        few, seats = Pictures("a", many(2)), [Place(number) for number in range(3)]
        deal = dealt([few], seats)
        deal.settle()
        assert len(deal.seats_at(few)) == 2
        group, seats = Pictures("a", many(11)), [Place(0, "a"), *(Place(number) for number in range(1, 4))]
        deal = dealt([group], seats)
        deal.settle()
        assert len(deal.seats_at(group)) == 3

    def test_a_seat_of_which_nobody_knows_anything_holds_one(self) -> None:
        """Until that tells how fast it is; the others hold their part."""
        group, seats = Pictures("a", many(20)), [Place(0, "a"), Place(1, "a")]
        deal = dealt([group], seats, OfAll(1.0, 1.0, unknown=[1]))
        deal.settle()
        assert [deal.is_due(group, seat) for seat in seats] == [True, True]
        for seat in seats:
            seat.holds(1.0)
        deal.serving()
        assert [deal.is_due(group, seat) for seat in seats] == [True, False]


class TestWhatFitsWhere:
    def test_nobody_waits_for_a_faster_card_that_may_have_none(self) -> None:
        """What does not fit there goes to the slow one at once."""
        for fits, waits in ((5.0, True), (2.0, False)):
            group = Pictures("a", [Picture(3.0)], choosy={0: fits})
            fast, slow = Place(0, "b", flights=Hands()).holds(0.1), Place(1)
            deal = dealt([group, Pictures("b", [])], [fast, slow], OfAll(10.0, 1.0))
            deal.settle()
            assert (deal.group_of(slow) is None) is waits

    def test_what_no_faster_card_may_have_is_no_reason_to_give_back(self) -> None:
        """Else it would be given the same again, at once."""
        for of_its_own, back in ((False, True), (True, False)):
            group = Pictures("a", many(40), choosy={0: 2.0 if of_its_own else 9.0})
            fast, slow = Place(0, "a"), Place(1, "a")
            deal = dealt([group], [fast, slow], OfAll(10.0, 1.0))
            deal.settle()
            group.source.give_up()
            fast.holds(*[1.0] * 10)
            slow.holds(0.5, 0.5, 3.0)
            deal.serving()
            assert (slow in list(deal.to_level())) is back

    def test_a_picture_that_crashed_goes_elsewhere_if_it_may(self) -> None:
        """And stays where it crashed if no other seat takes it."""
        bad = Picture(3.0)
        for choosy, elsewhere in (({}, True), ({1: 2.0}, False)):
            group = Pictures("a", [bad], choosy=choosy, crashed={bad: {0}})
            seats = [Place(0, "a"), Place(1, "a")]
            deal = dealt([group], seats)
            assert deal.may_go_elsewhere(group, bad) is elsewhere
            assert [deal.may_have(group, seat, bad) for seat in seats] == [not elsewhere, elsewhere]

    def test_what_has_not_begun_is_given_back_to_one_that_has_nothing(self) -> None:
        """And nobody is asked for what it has begun."""
        group, seats = Pictures("a", many(2)), [Place(0, "a"), Place(1, "a")]
        deal = dealt([group], seats)
        deal.settle()
        group.source.give_up()
        seats[0].holds(1.0, 1.0, 1.0)
        assert list(deal.to_level()) == [seats[0]]
        seats[0].flights.popitem()
        seats[0].flights.popitem()
        assert list(deal.to_level()) == []
