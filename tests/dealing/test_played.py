"""A night's dealing by a clock of its own: what a forecast says of several devices."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from renderer.dealing import played
from renderer.dealing.deal import Deal
from renderer.dealing.played import DealtGroup, DeviceRate, deal


def group(count: int, *slower: float, priority: float = 0.0, opens: str = "a", in_flight: int = 4) -> DealtGroup:
    """So many pictures of 10 s, on devices that are so many times slower; each opens it in 5 s."""
    there = {number: DeviceRate(5.0, (10.0 * times,), in_flight) for number, times in enumerate(slower)}
    return DealtGroup((count,), (10.0,), there, priority, opens)


def test_a_large_night_on_many_unlike_cards_is_dealt_in_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 pictures on 64 cards: all end together, and all seats are looked at no oftener than it helps."""
    settle, passes = Deal.settle, [0]

    def settling(self: Deal) -> None:  # type: ignore[type-arg]
        passes[0] += 1
        settle(self)

    monkeypatch.setattr(Deal, "settle", settling)
    slower = [1 + number / 8 for number in range(64)]
    (share,) = deal([group(10_000, *slower)])
    ideal_s = 5 + 10_000 * 10 / sum(1 / times for times in slower)
    assert sum(share.pictures.values()) == 10_000
    assert ideal_s <= share.ended_s < 1.02 * ideal_s
    assert passes[0] < 2000


def test_random_nights_are_done_whatever_fits_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """On cards that differ, each with kinds that it does not take; and nothing goes back and forth in one moment."""
    level, row = played._Night._level, [0, 0]

    def leveling(self: played._Night) -> bool:
        back = level(self)
        row[0] = row[0] + 1 if back else 0
        row[1] = max(row)
        return back

    monkeypatch.setattr(played._Night, "_level", leveling)
    dice = random.Random(11)  # noqa: S311  # no secret
    for _ in range(150):
        groups = [a_group(dice, [dice.uniform(1, 12) for _ in range(dice.choice((2, 3, 6, 20)))]) for _ in range(3)]
        for each, share in zip(groups, deal(groups), strict=True):
            assert sum(share.pictures.values()) == sum(each.counts)
    assert row[1] <= 4


def a_group(dice: random.Random, slower: Sequence[float]) -> DealtGroup:
    """Pictures of some kinds, all of which fit on the first card."""
    kinds = range(dice.choice((1, 2, 4)))
    each = [dice.choice((2.0, 5.0, 11.0, 23.0)) for _ in kinds]
    rates = {
        number: DeviceRate(
            dice.choice((2, 10, 30)),
            tuple(weight * times if number == 0 or dice.random() > 0.2 else None for weight in each),
            dice.choice((1, 2, 4, 8)),
        )
        for number, times in enumerate(slower)
    }
    return DealtGroup(tuple(dice.randint(1, 20) for _ in kinds), tuple(each), rates, dice.choice((0, 0, 0, 5)))


def test_what_is_of_higher_priority_ends_first() -> None:
    """Though it is smaller; and a group of the same weights behind it is not opened again."""
    large, urgent, alike = deal([group(20, 1.0, opens="b"), group(4, 1.0, priority=1), group(6, 1.0)])
    assert (urgent.began_s, urgent.ended_s) == (0, 45)
    assert (alike.began_s, alike.ended_s) == (45, 105)
    assert (large.began_s, large.ended_s) == (105, 310)
