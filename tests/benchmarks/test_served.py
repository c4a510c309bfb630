"""The benchmark of clients, small: its own commands, a real server, the demo model."""

from __future__ import annotations

import os
from pathlib import Path

from renderer.benchmarks import served
from renderer.benchmarks.served import Crowd
from tests.driving import ROOT


def test_clients_and_a_batch_have_the_same_pictures(tmp_path: Path) -> None:
    """Each client is answered as often as it asks, and the table has a row of it."""
    crowd = Crowd(sizes=("64x64", "80x64"), clients=2, pictures=2, steps=2, model="demo")
    (row,) = served.measure(tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)}, crowd)
    assert row["pictures"] == 4
    assert 0 < row["median_wait_s"] <= row["longest_wait_s"]
    assert row["of_the_batch"] == row["served_per_hour"] / row["batch_per_hour"] > 0
    assert len(list(served.lines([row]))) == 6
