"""YAML to values: the core schema, the marks, and everything that is refused."""

from __future__ import annotations

import pytest
import yaml

from renderer.errors import shorten
from renderer.manifest.document import Mark, spell
from renderer.manifest.yaml_reader import read


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with libyaml and with PyYAML's own scanner."""
    monkeypatch.setattr(yaml, "__with_libyaml__", request.param == "libyaml")


class TestMarks:
    def test_values_and_keys(self) -> None:
        """Every value and every key has its line and column, counted from 1 in characters."""
        document = read("你好: [a, {b: 'é'}]\nc:\n  - d\n".encode(), "f")
        assert document.mark(("你好", 1, "b"), at_key=True) == Mark(1, 10)
        assert document.mark(("你好", 1, "b")) == Mark(1, 13)
        assert document.mark(("c",), at_key=True) == Mark(2, 1)
        assert document.mark(("c", 0)) == Mark(3, 5)

    def test_missing_value(self) -> None:
        """A value that was not written stands where the value around it begins."""
        document = read(b"a: 1\njobs:\n  - x: 1\n", "f")
        assert document.mark(("jobs", 0, "prompt")) == Mark(3, 5)
        assert document.mark(("nothing", "at", "all")) == Mark(1, 1)

    @pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
    def test_line_breaks(self, line_break: str) -> None:
        """Lines are counted alike on every system."""
        document = read(f"a: 1{line_break}b: 2{line_break}c: *x".encode(), "f")
        assert [problem.line for problem in document.problems] == [3]

    def test_byte_order_mark(self) -> None:
        """A byte order mark at the start is no part of the text."""
        assert read(b"\xef\xbb\xbfa: 1", "f").value == {"a": 1}

    def test_spell(self) -> None:
        """A route is written as people write it."""
        assert spell(("jobs", 0, "matrix", "city", 2)) == "jobs[0].matrix.city[2]"
        assert spell(()) == ""

    def test_shorten(self) -> None:
        """What stands in a message is one short line that cannot turn the terminal's writing around."""
        assert shorten("a\n  b") == "a b"
        assert shorten("x" * 100) == "x" * 59 + "…"
        assert shorten("a\u202eb\x1b[0m") == "a\ufffdb\ufffd[0m"
