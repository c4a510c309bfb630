"""Which pictures are meant: ids, patterns, states, and several with commas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from renderer.errors import UsageError
from renderer.outputs import picks
from renderer.planning.plan import Plan, State, make_plan
from renderer.planning.selection import STATES, Selection
from tests.making import make_manifest
from tests.nights import make_night

MANIFEST = make_manifest([f"picture {number}" for number in range(5)])


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Three of five pictures are there; one is picked, one rejected; one that is not there has failed."""
    make_night(MANIFEST, tmp_path, without=["p003", "p004"])
    plan = make_plan(MANIFEST, tmp_path)
    marks = [item.fingerprint for item in plan.items]
    picks.mark(plan.folder, {marks[0]: 4, marks[1]: "x"})
    plan.journal.write("failed", "p003", marks[3], "no memory")
    return tmp_path


def ids(plan: Plan) -> list[str]:
    return [item.picture.id for item in plan.chosen]


@pytest.mark.parametrize(
    ("only", "chosen"),
    [
        (["@picked"], ["p000"]),
        (["@rejected"], ["p001"]),
        (["@unread"], ["p002"]),
        (["@failed"], ["p003"]),
        (["@todo"], ["p004"]),
        (["@done"], ["p000", "p001", "p002"]),
        (["@misread"], []),
        (["@picked,@failed", "p004"], ["p000", "p003", "p004"]),
        (["p00[12], p004"], ["p001", "p002", "p004"]),
    ],
)
def test_words(outputs: Path, only: list[str], chosen: list[str]) -> None:
    assert ids(make_plan(MANIFEST, outputs, only=only)) == chosen


def test_states_are_those_before_anything_is_forced(outputs: Path) -> None:
    """What is picked is rendered once more, and what is not stays as it is."""
    plan = make_plan(MANIFEST, outputs, only=["@picked"], force=True, thorough=True)
    assert [item.picture.id for item in plan.to_render()] == ["p000"]


def test_a_state_that_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no state @pickd") as caught:
        Selection.of(["@pickd"])
    assert "@picked" in caught.value.hint


@pytest.mark.parametrize("word", ["", " ", ",", " , "])
def test_a_word_that_says_nothing_does_not_choose_all(word: str) -> None:
    """Such words come from a script whose variable is empty."""
    with pytest.raises(UsageError, match="--only names no picture"):
        Selection.of(["moon", word])


def test_what_is_set_aside_has_failed(outputs: Path) -> None:
    """Nobody tries it any more: it is as little there as what failed."""
    failed = next(item for item in make_plan(MANIFEST, outputs).items if item.state == "failed")
    states: dict[State, bool] = {"failed": True, "set aside": True, "to do": False}
    for state, chosen in states.items():
        assert STATES["failed"](replace(failed, state=state), None) is chosen


def test_who_may_be_meant_is_looked_at() -> None:
    """By names alone others need not be; with a state among the words, any may have it."""
    first, other, *_ = MANIFEST.pictures
    for words, meant in ((["p000"], (True, False)), (["p000", "@failed"], (True, True)), (["@failed"], (True, True))):
        assert tuple(map(Selection.of(words).may_mean, (first, other))) == meant


def test_of_a_part_nobody_knows_what_is_in_the_whole() -> None:
    """An id that no picture of it has may be another machine's; of a whole manifest's it is a slip."""
    part = replace(MANIFEST, is_part=True)
    Selection.of(["moon"]).check([part, MANIFEST])
    with pytest.raises(UsageError, match="no picture or job moon"):
        Selection.of(["moon"]).check([MANIFEST])
