"""What the arithmetic admits rendered on a GPU under a cap, and what it refuses did not.

Of each card there is a file of lines, and a table of them in the file of its cells. The rule was found with the H200's;
the H100's only test it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from renderer import catalog
from renderer.benchmarks import forecasts
from renderer.benchmarks.cases import CASES, CappedCase
from renderer.estimate import Streaming, Work, decide

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
FILES = {file.stem.removeprefix("verdicts-"): file for file in sorted(BENCHMARKS.glob("verdicts-*.jsonl"))}
ROWS: dict[tuple[str, str], dict[str, Any]] = {
    (card, row["case"]): row for card, file in FILES.items() for row in map(json.loads, file.read_text().splitlines())
}


def least(row: dict[str, Any]) -> int:
    """What a forced case cannot do without."""
    choice = CASES[row["case"]]
    assert isinstance(choice, CappedCase)
    assert choice.slots is not None
    work = Work(choice.side, choice.side, row["prompt_tokens"])
    streaming = Streaming(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", choice.slots)
    return decide.least(streaming, [work] * choice.pictures)


FORCED = [key for key in ROWS if "as planned" not in key[1]]


def test_there_are_enough() -> None:
    """At least thirty forced cases, right both ways, and of every card a plan under at least four caps."""
    assert len(FORCED) >= 30
    assert {ROWS[key]["rendered"] for key in FORCED} == {True, False}
    for card in FILES:
        assert len({row["cap_bytes"] for key, row in ROWS.items() if key[0] == card and key not in FORCED}) >= 4


@pytest.mark.parametrize("key", FORCED, ids=", ".join)
def test_a_verdict_is_right(key: tuple[str, str]) -> None:
    """What fits rendered as it was forced; what does not ran out of memory, or made do with less."""
    row = ROWS[key]
    assert not row["error"]
    assert (least(row) <= row["allowed_bytes"]) == row["rendered"]


def test_what_is_planned_renders() -> None:
    """Under every cap a mixed batch, whole and unchanged."""
    planned = [row for key, row in ROWS.items() if key not in FORCED]
    assert all(row["rendered"] and row["pictures"] == 8 and not row["refused"] for row in planned)


@pytest.mark.parametrize("card", FILES)
def test_the_table_is_of_these_verdicts(card: str) -> None:
    """The committed table is what `renderer bench memory` makes of these rows."""
    rows = []
    for key, row in ROWS.items():
        if key[0] != card:
            continue
        forced = key in FORCED
        verdict = least(row) <= row["allowed_bytes"] if forced else True
        more = {"least_bytes": least(row)} if forced else {}
        rows.append(row | more | {"verdict": verdict, "right": verdict == row["rendered"]})
    written = (BENCHMARKS / f"memory-{card}.md").read_text(encoding="utf-8")
    assert "\n".join(forecasts.verdict_lines(rows)) in written
