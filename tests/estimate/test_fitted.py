"""Fitted constants name the data that they are of, and stand nowhere else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from renderer.estimate import fitted

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
BODY = ast.parse(Path(fitted.__file__).read_text(encoding="utf-8")).body
CONSTANTS = [
    (ast.unparse(each.targets[0]), after.value.value)
    for each, after in zip(BODY, [*BODY[1:], ast.Pass()], strict=True)
    if isinstance(each, ast.Assign)
    and isinstance(after, ast.Expr)
    and isinstance(after.value, ast.Constant)
    and isinstance(after.value.value, str)
]


@pytest.mark.parametrize(("names", "said"), CONSTANTS, ids=[names for names, _ in CONSTANTS])
def test_each_says_of_what_data_it_is(names: str, said: str) -> None:
    """A file that is committed; or that it is assumed, or counted."""
    files = re.findall(r"`([\w.-]+\.(?:jsonl?|md))`", said)
    assert files or "ssumed" in said or "counted" in said, names
    assert [file for file in files if not (BENCHMARKS / file).is_file()] == []


def test_every_one_is_explained() -> None:
    """None stands there bare."""
    assigned = [each for each in BODY if isinstance(each, ast.Assign)]
    assert len(assigned) == len(CONSTANTS)
