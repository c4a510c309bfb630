"""What is to be done still, with the takes that are expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer.planning import plan as plans
from renderer.planning.pace import weight
from renderer.planning.plan import make_plan
from renderer.planning.retakes import RetakeRate
from renderer.supervisor.work_left import WorkLeft
from tests.making import make_manifest
from tests.planning.test_retakes import lettered


def test_a_pictures_takes_are_expected_until_it_is_right(tmp_path: Path) -> None:
    """Before, between and after its takes the work is what is expected of it; at the end there is none."""
    first, second = make_plan(lettered(2, takes=3), tmp_path).items
    work, one = WorkLeft(RetakeRate(6, 5)), weight(first)  # with the guess: 0.54
    share = work.rate.share
    for item in (first, second):
        work.comes(item)
    assert work.total == pytest.approx(2 * one * (1 + share + share**2))
    work.is_rendered(first)
    assert work.total == pytest.approx(one * (share + share**2) + one * (1 + share + share**2))
    work.comes(plans.retaken(first, first.picture.lettering.seeds[1]))  # type: ignore[union-attr]
    assert work.total == pytest.approx(one * (1 + share) + one * (1 + share + share**2))
    work.is_rendered(second)
    work.ends(second)
    last = plans.retaken(first, first.picture.lettering.seeds[2])  # type: ignore[union-attr]
    work.comes(last)
    assert work.total == pytest.approx(one)
    work.is_rendered(last)
    assert work.total == pytest.approx(0)


def test_without_lettering_it_is_the_sum(tmp_path: Path) -> None:
    """What ends twice, or was never expected, takes nothing away."""
    items = make_plan(make_manifest(["a", "b", "c"]), tmp_path).items
    work = WorkLeft()
    for item in items[:2]:
        work.comes(item)
    for item in (items[0], items[0], items[2]):
        work.is_rendered(item)
        work.ends(item)
    assert work.total == pytest.approx(weight(items[1]))
