"""YAML to values: the core schema, the marks, and everything that is refused."""

from __future__ import annotations

import time

import pytest
import yaml

from renderer.manifest.yaml_reader import read


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with libyaml and with PyYAML's own scanner."""
    monkeypatch.setattr(yaml, "__with_libyaml__", request.param == "libyaml")


def problems_of(text: str | bytes) -> list[str]:
    document = read(text if isinstance(text, bytes) else text.encode(), "f")
    return [str(problem) for problem in document.problems]


class TestSyntax:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("a: [1, 2\nb: }", 2),
            ("a: 1\n b: 2", 2),
            ("a: b: c", 1),
            ("a: 1\nb: @x", 2),
            ("a: 'x", 1),
            ("a: {b: 1", 1),
            ("a:\n\t- b", 2),
            ("a: %x", 1),
            ("- a\nb: 1", 2),
            ("a: |9x\n", 1),
            ("a: !y!z 1", 1),
            ("&", 1),
            ("%", 1),
        ],
    )
    def test_place(self, text: str, line: int) -> None:
        """Every error of syntax is one problem, in or just after its line."""
        document = read(text.encode(), "f")
        assert not document.complete
        assert document.value is None
        (problem,) = document.problems
        assert line <= problem.line <= line + 1
        assert problem.column >= 1

    def test_hint(self) -> None:
        """The commonest slip, a colon in a text, comes with what helps."""
        (problem,) = problems_of("prompt: A sign: OPEN")
        assert problem.startswith("f:1:15: mapping values are not allowed")
        assert problem.endswith('(quote text that holds ": ")')

    def test_earlier_problems_are_kept(self) -> None:
        """What was found before the syntax broke is told too."""
        assert [problem.split(" ")[0] for problem in problems_of("a: 1\na: 2\nb: 'x\n")][:1] == ["f:2:1"]
        assert len(problems_of("a: 1\na: 2\nb: 'x\n")) == 2


class TestSyntaxHints:
    @pytest.mark.parametrize(
        ("text", "place", "hint"),
        [
            ('- id: a\n  prompt: "OPEN" in neon', "2:18", "quote the whole text, like '\"OPEN\" in neon'"),
            ('- "OPEN" in neon', "1:10", "quote the whole text"),
            ('- prompt: "OPEN" in neon\r\n', "1:18", "quote the whole text"),
            ("- prompt: 'it's a cat'", "1:15", "write an apostrophe within '…' twice"),
            ('- prompt: "a "quoted" word"', "1:15", 'write \\" for a quotation mark'),
            ("- prompt: [red] car", "1:17", "quote text that begins with [ or {"),
            ("- prompt: {city} at night", "1:18", "quote text that begins with [ or {"),
            ("- prompt: a\n   size: b\n", "2:8", "indent the key like the one above it"),
            ("- id: a\n - b\n", "2:2", None),
            ("[{id: a, prompt: shirt #10}]\n", "2:1", 'quote text that holds " #", which begins a comment'),
            ('["a" b]', "1:6", "put a comma between the parts"),
            ("[a, b\n", "2:1", "close the bracket"),
            ("- id: a\n  prompt\uff1aa cat\n", "2:3", "write a plain colon and a space behind a key"),
            ("- id: a\n  prompt:a cat\n", "2:3", "write a space behind the colon"),
            ("- prompt: a #b\n  c\n", "2:3", "indent text that goes on; a line with # in it ended the text before"),
            ("- prompt: a: b", "1:12", 'quote text that holds ": "'),
            ("- prompt: -\n", "1:11", "begin a list in a line of its own"),
            ('- "never closed\n', "2:1", "close the quotation mark"),
            ("- >- x\n", "1:6", "begin the text in the next line"),
            ("- prompt: a\n\tsize: b\n", "2:1", "indent with spaces"),
        ],
    )
    def test_by_what_was_meant(self, text: str, place: str, hint: str | None) -> None:
        """What the parser did not expect is answered by what the writer most likely meant, at its line."""
        problem = problems_of(text)[0]
        assert problem.startswith(f"f:{place}: ")
        assert (hint or "indent alike what stands side by side") in problem

    def test_escapes(self) -> None:
        """A backslash that is none of YAML's; halves of characters have hints of their own."""
        assert "write \\\\ for a backslash" in problems_of('- "C:\\dir"')[0]
        problem = problems_of('- "\\ud83c\\udf82"')[0]
        assert "write the character itself" in problem or "U+D83C is not allowed" in problem

    def test_a_line_of_a_million_letters(self) -> None:
        """Only what is near is looked at."""
        began = time.process_time()
        assert "quote the whole text" in problems_of('- "' + "a" * 10**6 + '" b' + "c" * 10**6)[0]
        assert time.process_time() - began < 2
