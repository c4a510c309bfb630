"""YAML to values: the core schema, the marks, and everything that is refused."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import yaml

from renderer.manifest import decoding
from renderer.manifest.document import MAX_PROBLEMS, Document, Mark
from renderer.manifest.yaml_reader import read


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with libyaml and with PyYAML's own scanner."""
    monkeypatch.setattr(yaml, "__with_libyaml__", request.param == "libyaml")


def value_of(text: str) -> Any:
    document = read(text.encode(), "f.yaml")
    assert document.problems == []
    assert document.complete
    return document.value


def problems_of(text: str | bytes) -> list[str]:
    document = read(text if isinstance(text, bytes) else text.encode(), "f")
    return [str(problem) for problem in document.problems]


class TestScalars:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("16:9", "16:9"),
            ("12:30:45", "12:30:45"),
            ("no", "no"),
            ("Yes", "Yes"),
            ("on", "on"),
            ("y", "y"),
            ("0123", 123),
            ("-07", -7),
            ("+12", 12),
            ("0o17", 15),
            ("0x1F", 31),
            ("0b11", "0b11"),
            ("1_000", "1_000"),
            ("1e3", 1000.0),
            ("1.50", 1.5),
            (".5", 0.5),
            ("5.", 5.0),
            ("-1.5E-2", -0.015),
            (".inf", math.inf),
            ("-.INF", -math.inf),
            ("true", True),
            ("FALSE", False),
            ("tRue", "tRue"),
            ("null", None),
            ("~", None),
            ("", None),
            ("nULL", "nULL"),
            ("2026-11-21", "2026-11-21"),
            ("=", "="),
            ("<<", "<<"),
            ("1328x1328", "1328x1328"),
            ("'12'", "12"),
            ('"true"', "true"),
            ('""', ""),
            ("!!str 12", "12"),
            ("! 12", "12"),
            ("!!int 12", 12),
            ("!!float 3", 3.0),
            ("!!bool true", True),
            ("!!null null", None),
            ("!!seq []", []),
            ("!!map {}", {}),
            ("\n  two\n  lines", "two lines"),
        ],
    )
    def test_core_schema(self, text: str, value: object) -> None:
        """A scalar means what YAML 1.2's core schema says, not what YAML 1.1 made of it."""
        found = value_of(f"a: {text}\n")["a"]
        assert found == value
        assert type(found) is type(value)

    def test_not_a_number(self) -> None:
        """`.nan` is the number that is not one."""
        assert math.isnan(value_of("a: .nan")["a"])

    def test_block_scalars(self) -> None:
        """A literal block keeps its line breaks, a folded one does not."""
        assert value_of("a: |\n  x\n  y\nb: >-\n  x\n  y\n") == {"a": "x\ny\n", "b": "x y"}

    def test_sources(self) -> None:
        """The text of a scalar that is not text is kept as it was written."""
        document = read(b"a: [1.50, 0x1F, '7', text]", "f")
        assert dict(document.sources) == {("a", 0): "1.50", ("a", 1): "0x1F"}

    @pytest.mark.parametrize("number", ["9" * 5000, "1" * 5000 + ".5", "0x" + "F" * 5000, "!!float " + "9" * 5000])
    def test_giant_numbers(self, number: str) -> None:
        """A number of thousands of digits is a problem, not a traceback."""
        (problem,) = problems_of(f"b: 1\na: {number}")
        assert problem == "f:2:4 a: a number of more than 100 characters (quote it if it is text)"

    def test_giant_tagged_integer(self) -> None:
        """A tag makes a giant number no smaller."""
        assert "a number of more than 100 characters" in problems_of("a: !!int " + "9" * 5000)[0]

    def test_key_sees_the_same_schema(self) -> None:
        """A key that is a number, null or a truth value is a problem; `no` and `16:9` are text."""
        assert value_of("no: 1\n16:9: 2\n") == {"no": 1, "16:9": 2}
        assert problems_of("1: a\ntrue: b\n~: c\n'2': d\n") == [
            "f:1:1: the key 1 is not text (quote it)",
            "f:2:1: the key true is not text (quote it)",
            "f:3:1: the key ~ is not text (quote it)",
        ]


class TestRefused:
    def test_repeated_key(self) -> None:
        """A repeated key is a problem that names the first one; the first one's value stays."""
        document = read(b"a: {x: 1}\nb: 2\na: {x: [9]}\n", "f")
        assert [str(problem) for problem in document.problems] == [
            "f:3:1 a: repeated key; it already stands in line 1 (keep one)"
        ]
        assert document.value == {"a": {"x": 1}, "b": 2}
        assert document.mark(("a", "x")) == Mark(1, 8)

    def test_refused_keys_leave_no_marks(self) -> None:
        """What stands under a refused key leaves neither marks nor broken places, even where a key is called ?."""
        document = read(b'"?": {x: 1}\n7: {x: *y}\n? [a]\n: {x: 3}\n', "f")
        assert document.value == {"?": {"x": 1}}
        assert document.mark(("?", "x")) == Mark(1, 10)
        assert document.sources[("?", "x")] == "1"
        assert document.broken == set()

    def test_problems_within_a_repeated_key(self) -> None:
        """What stands under a repeated key is still read, and its own problems are told."""
        assert len(problems_of("a: 1\na: {b: *x, c: {d: 1, d: 2}}\n")) == 3

    def test_alias_and_anchor(self) -> None:
        """Anchors and aliases are problems, and reading goes on."""
        document = read(b"a: &x 1\nb: *x\nc: [*y]\nd: 4\n", "f")
        assert [problem.line for problem in document.problems] == [1, 2, 3]
        assert document.complete
        assert document.value == {"a": 1, "b": None, "c": [None], "d": 4}
        assert document.broken == {("b",), ("c", 0)}
        assert document.is_broken(("b", "below"))
        assert not document.is_broken(("d",))

    def test_alias_as_key(self) -> None:
        """An alias is refused as a key too, and its value is thrown away."""
        document = read(b"*x : 1\nb: 2", "f")
        assert len(document.problems) == 1
        assert document.value == {"b": 2}

    @pytest.mark.parametrize("key", ["[a, b]", "{a: b}"])
    def test_collections_as_keys(self, key: str) -> None:
        """A list or mapping is no key; what follows is read as if it had not been there."""
        document = read(f"? {key}\n: {{c: 1}}\nd: 2\n".encode(), "f")
        assert [str(problem) for problem in document.problems] == ["f:1:3: a key must be text, not a list or mapping"]
        assert document.value == {"d": 2}

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("a: !foo 1", "the tag !foo is not allowed"),
            ("a: !!python/object/apply:os.system [ls]", "the tag !!python/object/apply:os.system is not allowed"),
            ("a: !!python/name:os.system x", "is not allowed"),
            ("a: !!set {x: }", "the tag !!set is not allowed"),
            ("a: !!binary aGk=", "the tag !!binary is not allowed"),
            ("a: !!timestamp 2001-01-01", "is not allowed"),
            ("a: !!int x", "x is not of the tag's kind !!int"),
            ("a: !!int 1.5", "1.5 is not of the tag's kind !!int"),
            ("a: !!seq {}", "the tag !!seq is not allowed here"),
            ("a: !!map []", "the tag !!map is not allowed here"),
            ("a: !!str []", "the tag !!str is not allowed here"),
        ],
    )
    def test_tags(self, text: str, words: str) -> None:
        """Only the core schema's tags are read, and only where they fit."""
        (problem,) = problems_of(text)
        assert problem.startswith("f:1:4 a: ")
        assert words in problem

    def test_second_document(self) -> None:
        """A file is one document."""
        assert problems_of("a: 1\n---\nb: 2\n") == ["f:2:1: a second document begins here (keep one document a file)"]

    def test_directives(self) -> None:
        """A file may say that it is YAML 1.2, and nothing else."""
        assert value_of("%YAML 1.2\n---\na: no\n") == {"a": "no"}
        assert "only YAML 1.2" in problems_of("%YAML 1.1\n---\na: no\n")[0]

    @pytest.mark.parametrize("text", ["", "  \n\n", "\ufeff"])
    def test_empty(self, text: str) -> None:
        """An empty file says so."""
        assert problems_of(text) == ["f:1:1: the file is empty"]

    def test_only_a_comment(self) -> None:
        """A file of comments is nothing, without a problem of YAML's."""
        assert read(b"# hi\n", "f").value is None

    def test_too_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """64 MiB are read, a byte more is not."""
        monkeypatch.setattr(decoding, "MAX_BYTES", 2**20)
        assert problems_of(b"a: " + b"x" * (2**20 - 3)) == []
        assert problems_of(b"a: " + b"x" * (2**20 - 2)) == ["f:1:1: the file has more than 1 MiB (split it)"]

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    def test_other_encodings(self, encoding: str) -> None:
        """Other encodings are refused, with a mark or without."""
        (problem, *_) = problems_of("a: 你好\n".encode(encoding))
        assert problem.startswith("f:1:")

    def test_invalid_utf8(self) -> None:
        """A byte that is not UTF-8 is shown with its place."""
        assert problems_of("a: 1\n你: ".encode() + b"\xff") == [
            "f:2:4: the byte 0xFF is not UTF-8 (save the file as UTF-8)"
        ]

    @pytest.mark.parametrize("character", ["\0", "\x07", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\ufeff", "\uffff"])
    def test_forbidden_characters(self, character: str) -> None:
        """Controls, other line breaks and marks are refused with their place."""
        assert problems_of(f"a: 1\nb: x{character}y") == [f"f:2:5: the character U+{ord(character):04X} is not allowed"]

    @pytest.mark.parametrize("escape", [r"\a", r"\0", r"\e", r"\r", r"\N", r"\L", r"\x9b", r"\uFFFE"])
    def test_forbidden_escapes(self, escape: str) -> None:
        """An escape does not smuggle in what the text may not hold; a line break and a tab are fine."""
        (problem,) = problems_of(f'b: "\\n\\t"\na: "x{escape}"')
        assert problem.startswith("f:2:4 a: the character U+")

    def test_forbidden_escapes_in_keys(self) -> None:
        """Keys hold no control characters either."""
        assert "U+0007" in problems_of(r'"x\a": 1')[0]

    @pytest.mark.parametrize("escape", [r"\ud800", r"\U00110000", r"\q"])
    def test_impossible_escapes(self, escape: str) -> None:
        """Halves of characters and numbers beyond Unicode are problems, whichever parser meets them."""
        (problem,) = problems_of(f'a: "{escape}"')
        assert problem.startswith("f:1:")


class TestBombs:
    @pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "[{a: ", "{[", "{? "])
    def test_nesting(self, opening: str) -> None:
        """A mebibyte of opening brackets is one problem, at once."""
        began = time.process_time()
        document = read((opening * (2**20 // len(opening))).encode(), "f")
        assert time.process_time() - began < 5
        assert not document.complete
        assert "nested more than 20 levels deep" in str(document.problems[-1])

    def test_deepest(self) -> None:
        """Twenty levels are read, twenty-one are not."""
        assert value_of("[" * 20 + "]" * 20)
        assert problems_of("[" * 21 + "]" * 21)

    def test_laughs(self) -> None:
        """A billion laughs is a list of aliases, each a problem."""
        lines = ["a: &a [lol]"] + [f"{chr(98 + n)}: &{chr(98 + n)} [{f'*{chr(97 + n)},' * 9}]" for n in range(8)]
        began = time.process_time()
        document = read("\n".join(lines).encode(), "f")
        assert time.process_time() - began < 1
        assert len(document.problems) == 9 + 72

    def test_many_problems(self) -> None:
        """After two hundred problems reading stops, and says so."""
        document = read(("a: 1\n" * 5000).encode(), "f")
        assert not document.complete
        assert len(document.problems) == MAX_PROBLEMS + 1
        assert "reading stopped here" in document.problems[-1].message

    def test_many_keys(self) -> None:
        """A hundred thousand keys are read in a bounded time."""
        text = "\n".join(f"k{number}: 1" for number in range(20_000))
        assert len(value_of(text)) == 20_000

    def test_long_key(self) -> None:
        """A key as long as a file is read, or refused, but not fatal."""
        assert isinstance(read(b"? " + b"k" * 1_000_000 + b"\n: 1\n", "f"), Document)


class TestComments:
    @pytest.mark.parametrize(
        ("text", "cut"),
        [
            ("a: swatch in #ff8800 on white", Mark(1, 14)),
            ("a: swatch in  #10", Mark(1, 15)),
            ("a: one\n  two #x", Mark(2, 7)),
            ("a: 猫🎂 #x", Mark(1, 7)),
            ("{a: b #c\n}", Mark(1, 7)),
            ("a: b # a comment", None),
            ("a: b ## a comment", None),
            ("a: b#c", None),
            ("a: 'b' #c", None),
            ("a: 12 #c", None),
            ("a: >-\n  b #c", None),
            ("a: b\n#c", None),
        ],
    )
    def test_a_text_that_a_comment_cuts_off(self, text: str, cut: Mark | None) -> None:
        """A comment that begins behind a text without quotes, and without a space of its own, is remembered."""
        found = read(text.encode(), "f")
        assert found.problems == []
        assert found.cuts.get(("a",)) == cut
