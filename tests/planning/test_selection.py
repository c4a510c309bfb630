"""Which pictures are meant: ids, patterns, states, and several with commas."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer.errors import UsageError
from renderer.outputs import picks
from renderer.planning.plan import Plan, make_plan
from renderer.planning.selection import Selection
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
