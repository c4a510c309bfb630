"""The cells that were measured on a GPU, each with its forecast; `python -m tests.estimate.cells` makes the table.

`renderer bench memory` measures them, and writes the lines of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from renderer.benchmarks.cells import Cell, cell
from renderer.benchmarks.cells import table as table_of

FILE = Path(__file__).resolve().parent.parent / "benchmarks" / "memory-h200.jsonl"


def cells() -> Iterator[Cell]:
    """All cells, in the order of the file."""
    for line in FILE.read_text(encoding="utf-8").splitlines():
        yield cell(json.loads(line))


def table() -> Iterator[str]:
    """The cells as a table in Markdown."""
    yield from table_of(cells())


if __name__ == "__main__":
    print("\n".join(table()))  # noqa: T201
