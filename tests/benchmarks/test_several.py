"""The bench of several devices measures what it says, with the demo model on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

from renderer.benchmarks import several
from renderer.benchmarks.several import CaseOfSeveral, PicturesEach


def test_a_row_for_a_run(tmp_path: Path) -> None:
    """All pictures, when the worker was ready, and what the host's memory held."""
    load = PicturesEach(pictures=2, steps=2, size="64x64", model="demo")
    (row,) = several.measure(tmp_path, os.environ, ["cpu"], [CaseOfSeveral(1, shared=False)], load)
    assert (row["case"], row["pictures"], row["times_one"]) == ("1-resident-own", 2, 1.0)
    assert row["pictures_per_hour"] > 0
    assert len(row["ready_s"]) == 1
