"""The cells that were measured on a GPU, each with its forecast; `python -m tests.estimate.cells` makes the tables.

`renderer bench memory` measures them, and writes the lines of a card's file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from renderer.benchmarks.cells import FROM_TEXT, WITH_INPUTS, Comparison, cell
from renderer.benchmarks.cells import table as table_of

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
FILES = sorted(BENCHMARKS.glob("memory-*.jsonl"))
INPUT_FILES = sorted(BENCHMARKS.glob("inputs-*.jsonl"))
FILE = BENCHMARKS / "memory-h200.jsonl"


def cells(file: Path) -> Iterator[Comparison]:
    """All cells of a file, in its order."""
    for line in file.read_text(encoding="utf-8").splitlines():
        yield cell(json.loads(line))


def table(file: Path) -> Iterator[str]:
    """The cells of a file as a table in Markdown."""
    yield from table_of(cells(file), WITH_INPUTS if file in INPUT_FILES else FROM_TEXT)


if __name__ == "__main__":
    for each in (*FILES, *INPUT_FILES):
        print("\n".join([each.stem, "", *table(each), ""]))  # noqa: T201
