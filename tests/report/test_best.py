"""Of a night's pictures those that go into a message: the picked, the best first; else the first of each job."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer.outputs import picks
from renderer.outputs.picks import Pick
from renderer.planning.plan import Plan, make_plan
from renderer.report import best
from tests.nights import make_night
from tests.reading import DEMO, load_text

TEXT = f"""{DEMO}jobs:
  - {{id: moon, prompt: a moon, count: 3, size: 64x64}}
  - {{id: star, prompt: a star, count: 2, size: 64x64}}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Five pictures of two jobs, of which one is not there."""
    manifest = load_text(TEXT)
    make_night(manifest, tmp_path, without=[manifest.pictures[4].id])
    return make_plan(manifest, tmp_path)


def chosen(plan: Plan, marks: dict[int, Pick | None]) -> list[int]:
    """Which are chosen, by their numbers, when these are marked."""
    picks.mark(plan.folder, {plan.items[number].fingerprint: mark for number, mark in marks.items()})
    ids = [item.picture.id for item in plan.items]
    return [ids.index(item.picture.id) for item in best.choose(plan, ids)]


def test_without_marks_one_a_job(plan: Plan) -> None:
    assert chosen(plan, {}) == [0, 3]


def test_a_rejected_one_is_not_shown(plan: Plan) -> None:
    """The next of its job is; of a job that is rejected altogether, none."""
    assert chosen(plan, {0: "x"}) == [1, 3]
    assert chosen(plan, {3: "x"}) == [1]


def test_the_picked_with_the_most_stars_first(plan: Plan) -> None:
    """Of as many in their order, and nothing that has none."""
    assert chosen(plan, {1: 2, 2: 5, 3: 2, 0: "x"}) == [2, 1, 3]


def test_only_those_that_are_meant(plan: Plan) -> None:
    assert [item.picture.id for item in best.choose(plan, [plan.items[1].picture.id])] == [plan.items[1].picture.id]


def test_marks_that_cannot_be_read_are_none(plan: Plan) -> None:
    """The message goes all the same."""
    plan.folder.picks.write_text("{")
    assert [item.picture.id for item in best.choose(plan, [item.picture.id for item in plan.items])] == [
        plan.items[0].picture.id, plan.items[3].picture.id,
    ]  # fmt: skip
