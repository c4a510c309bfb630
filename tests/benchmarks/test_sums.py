"""The benchmark of FP8 sums, on small layers."""

from __future__ import annotations

import json

import pytest

from renderer.benchmarks import sums


def test_a_line_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    """Errors and seconds of each layer, both ways; on a CPU sums are float32, and both ways the same."""
    sums.main()
    machine, *rows = map(json.loads, capsys.readouterr().out.splitlines())
    assert machine["what"] == "machine"
    errors = [row for row in rows if row["what"] == "error"]
    assert {(row["width"], row["rows"], row["fast"]) for row in errors} == {
        (layer.width, kind.__name__, fast)
        for layer in sums.SMALL.values()
        for kind in sums.ROWS_LIKE
        for fast in (True, False)
    }
    assert all(0 < row["sums"] <= row["worst_row"] < 0.01 for row in errors)
    assert all(0.02 < row["all"] < 0.06 for row in errors if row["rows"] != "one_sided")  # whose errors cancel
    assert all(row["sums"] == pytest.approx(row["rounding"], rel=0.1) for row in errors)
    assert all(row["seconds"] > 0 and row["tflops"] > 0 for row in rows if row["what"] == "seconds")
    assert len([row for row in rows if row["what"] == "seconds"]) == 2 * len(sums.SMALL)
