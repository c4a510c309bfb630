"""What the arithmetic admits rendered on an H200 under a cap, and what it refuses did not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from renderer import catalog
from renderer.benchmarks import memory
from renderer.benchmarks.memory_cases import CASES, PROCESSES, Choice
from renderer.estimate import Streaming, Work, decide

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
ROWS: dict[str, dict[str, Any]] = {
    row["case"]: row for row in map(json.loads, (BENCHMARKS / "verdicts-h200.jsonl").read_text().splitlines())
}


def least(name: str) -> int:
    """What a forced case cannot do without."""
    choice = CASES[name]
    assert isinstance(choice, Choice)
    assert choice.slots is not None
    work = Work(choice.side, choice.side, ROWS[name]["prompt_tokens"], tiled=choice.tiled)
    streaming = Streaming(catalog.QWEN_IMAGE_SHAPE, "fp8", choice.slots)
    return decide.least(streaming, [work] * choice.pictures)


FORCED = [name for name in ROWS if "as planned" not in name]


def test_all_cases_were_tried() -> None:
    """At least forty, under seven caps."""
    assert set(ROWS) == {name for names in PROCESSES["verdicts"] for name in names}
    assert len(ROWS) >= 40
    assert set(Counter(row["cap_bytes"] for row in ROWS.values()).values()) == {9}


@pytest.mark.parametrize("name", FORCED)
def test_a_verdict_is_right(name: str) -> None:
    """What fits rendered as it was forced; what does not ran out of memory, or made do with less."""
    row = ROWS[name]
    assert not row["error"]
    assert (least(name) <= row["allowed_bytes"]) == row["rendered"]


def test_what_is_planned_renders() -> None:
    """Under every cap a mixed batch, whole and unchanged."""
    planned = [row for name, row in ROWS.items() if "as planned" in name]
    assert all(row["rendered"] and row["pictures"] == 8 and not row["refused"] for row in planned)


def test_the_table_is_of_these_verdicts() -> None:
    """The committed table is what `renderer bench memory` makes of these rows."""
    rows = []
    for name, row in ROWS.items():
        forced = name in FORCED
        verdict = least(name) <= row["allowed_bytes"] if forced else True
        more = {"least_bytes": least(name)} if forced else {}
        rows.append(row | more | {"verdict": verdict, "right": verdict == row["rendered"]})
    written = (BENCHMARKS / "memory-h200.md").read_text(encoding="utf-8")
    assert "\n".join(memory.verdict_lines(rows)) in written
