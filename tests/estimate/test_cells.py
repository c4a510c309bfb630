"""What is forecast against what a GPU showed: a change of the arithmetic that breaks it is seen here.

Of each card there is a file of lines, and a table of them beside it: a new card's are held against it as they come.
Constants were found with the H200's lines; the H100's only test them.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from renderer.benchmarks.cells import cell
from tests.estimate import cells


@pytest.fixture(scope="module", params=cells.FILES, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


LOWEST = -0.024
"""FP8 blocks hold 3 % less of 2048x2048 than when these were measured: attention's output is gone before the MLP."""


class TestCells:
    def test_there_are_enough(self) -> None:
        """At least seventy: streamed through 2, 3, 10 and 60 slots, and DiffSynth's profiles."""
        assert sum(len(list(cells.cells(file))) for file in cells.FILES) >= 70

    def test_tensors_are_forecast(self, file: Path) -> None:
        """Median error at most 0.3 %, and none of more than 2 %; 2.4 % too low with the FP8 blocks of before."""
        errors = [cell.allocated_error for cell in cells.cells(file)]
        assert statistics.median(map(abs, errors)) <= 0.003
        assert max(errors) <= 0.02
        assert min(errors) >= LOWEST

    def test_each_stage_is_forecast(self, file: Path) -> None:
        """Not the largest alone: tensors of no stage are more than 2.4 % too low, or 9 % too high."""
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            for name, peaks in row["stages"].items():
                error = cell({**row, "stages": {name: peaks}}).allocated_error
                assert LOWEST <= error <= 0.09, (row["jobs"], name)

    def test_what_is_reserved_is_forecast(self, file: Path) -> None:
        """Median error at most 3 %, the worst 8 %, and never more than 2 % too low."""
        errors = [cell.reserved_error for cell in cells.cells(file)]
        assert statistics.median(map(abs, errors)) <= 0.03
        assert max(errors) <= 0.08
        assert min(errors) >= -0.02

    def test_the_table_is_of_these_cells(self, file: Path) -> None:
        """`python -m tests.estimate.cells` writes what stands in the committed table."""
        assert "\n".join(cells.table(file)) in file.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=cells.INPUT_FILES, ids=lambda file: file.stem)
def inputs(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


class TestCellsWithInputs:
    """Edits, pictures that are drawn over, ControlNets, regions, a context: never too low, and hardly too high.

    All are larger than what is recorded, so the recordings' workspace of 32 MiB is in each forecast for nothing.
    """

    def test_there_are_enough(self, inputs: Path) -> None:
        assert len(list(cells.cells(inputs))) >= 30

    def test_tensors_are_forecast(self, inputs: Path) -> None:
        """Median error at most 1 %, and none of more than 3 %; none is too low."""
        errors = [cell.allocated_error for cell in cells.cells(inputs)]
        assert statistics.median(map(abs, errors)) <= 0.01
        assert 0 <= min(errors) <= max(errors) <= 0.03

    def test_each_stage_is_forecast(self, inputs: Path) -> None:
        """None is 0.5 % too low or 9 % too high; a denoise of ControlNets that go past, with two blocks each, 16 %."""
        for row in map(json.loads, inputs.read_text(encoding="utf-8").splitlines()):
            most = 0.16 if row["limit_bytes"] and row["ridden_bytes"] else 0.09
            for name, peaks in row["stages"].items():
                assert -0.005 <= cell({**row, "stages": {name: peaks}}).allocated_error <= most, (row["case"], name)

    def test_what_is_reserved_is_forecast(self, inputs: Path) -> None:
        errors = [cell.reserved_error for cell in cells.cells(inputs)]
        assert statistics.median(map(abs, errors)) <= 0.01
        assert min(errors) >= -0.005
        assert max(errors) <= 0.10

    def test_the_table_is_of_these_cells(self, inputs: Path) -> None:
        assert "\n".join(cells.table(inputs)) in inputs.with_suffix(".md").read_text(encoding="utf-8")
