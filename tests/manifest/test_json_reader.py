"""JSON as the manifest's reader takes it: any character, the same strictness as YAML, and the same places."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from renderer.manifest import yaml_reader
from renderer.manifest.yaml_reader import read


def problems_of(text: str, file: str = "f.json") -> list[str]:
    return [str(problem) for problem in read(text.encode("utf-8", "surrogatepass"), file).problems]


letters = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\ufeff\ufffe\uffff")
# What lies beyond the first plane and is no character is forbidden too; the reader says so in a test of its own.
texts = st.text(letters, max_size=8)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False), texts)
documents = st.recursive(
    scalars.filter(lambda value: value not in (float("inf"), float("-inf"))),
    lambda below: st.one_of(st.lists(below, max_size=4), st.dictionaries(texts, below, max_size=4)),
    max_leaves=12,
).map(lambda value: {"top": value})
layouts = st.fixed_dictionaries(
    {"ensure_ascii": st.booleans(), "indent": st.sampled_from([None, 0, 2, "\t"])},
    optional={"separators": st.just((",", ":"))},
)


@settings(max_examples=150, deadline=None)
@given(documents, layouts)
def test_whatever_json_writes_is_read(document: Any, layout: dict[str, Any]) -> None:
    """`json.dumps`, however it lays a value out, gives the same value back."""
    found = read(json.dumps(document, **layout).encode(), "f.json")
    assert found.problems == []
    assert found.value == document


@settings(max_examples=100, deadline=None)
@given(documents, layouts)
def test_places_are_those_of_yaml(document: Any, layout: dict[str, Any]) -> None:
    """Where YAML reads the same text, each value stands at the same line and column."""
    text = json.dumps(document, **{**layout, "ensure_ascii": False})
    by_yaml = yaml_reader._Composer("f", text).compose(yaml_reader._events(text))
    if by_yaml.problems or "\t" in text:  # `\/`, tabs and some characters are not libyaml's
        return
    found = read(text.encode(), "f.json")
    assert (dict(found.values), dict(found.keys)) == (dict(by_yaml.values), dict(by_yaml.keys))


@settings(max_examples=150, deadline=None)
@given(documents, st.integers(0, 400), st.integers(0, 4), st.text(st.sampled_from('{}[],:"\\u1e.- \n'), max_size=3))
def test_broken_json_is_explained(document: Any, at: int, cut: int, put: str) -> None:
    """A piece cut out or put in: whatever is no JSON is a problem with a place, and never raises."""
    text = json.dumps(document, indent=1)
    at = min(at, len(text))
    text = text[:at] + put + text[at + cut :]
    try:
        json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
    except ValueError:
        found = read(text.encode(), "f.json")
        assert found.problems
        assert all(1 <= problem.line <= text.count("\n") + 1 for problem in found.problems)
    else:
        assert not [problem for problem in read(text.encode(), "f.json").problems if "not JSON" in problem.message]


def refuse(name: str) -> None:
    raise ValueError(name)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("repeated")
    return dict(pairs)


class TestCharacters:
    def test_a_surrogate_pair_is_one_character(self) -> None:
        """As `json.dumps` writes an emoji, in a file of any name and in what comes through a pipe."""
        for file in ("f.json", "f.yaml", "stdin"):
            found = read(rb'{"a": "a cake \ud83c\udf82"}', file)
            assert (found.problems, found.value) == ([], {"a": "a cake 🎂"})

    @pytest.mark.parametrize(
        ("written", "name"), [(r"\ud83c", "D83C"), (r"\udf82 \ud83c", "DF82"), (r"\u0000", "0000"), (r"\u001b", "001B")]
    )
    def test_what_is_no_character_is_refused(self, written: str, name: str) -> None:
        """Half of a pair, and controls, are refused with their place, as in YAML."""
        assert problems_of(f'{{"a": "{written}"}}') == [f"f.json:1:7 a: the character U+{name} is not allowed"]


class TestStrictness:
    def test_a_repeated_key(self) -> None:
        """A key that stands twice is a problem; `json` itself lets the second win."""
        assert problems_of('{"a": 1,\n "a": 2}') == [
            "f.json:2:2 a: repeated key; it already stands in line 1 (keep one)"
        ]

    def test_a_long_number(self) -> None:
        """A number of thousands of digits is no work."""
        assert "more than 100 characters" in problems_of('{"a": ' + "9" * 5000 + "}")[0]

    def test_depth(self) -> None:
        """A hundred thousand brackets are refused at the twenty-first."""
        assert problems_of("[" * 100_000) == ["f.json:1:21 [0][0][0]: nested more than 20 levels deep"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('{"a": 1,}', "1:9: this is not JSON: expected a key in double quotes"),
            ('{\n"a": 1 "b": 2}', '2:8: this is not JSON: expected "," or "}"'),
            ('{"a" 1}', '1:6: this is not JSON: expected ":" after the key'),
            ('{"a": [1, 2', '1:12: this is not JSON: expected "," or "]"'),
            ('{"a": yes}', "1:7: this is not JSON: expected a value"),
            ('{"a": 012}', "1:7: this is not JSON: expected a value"),
            ('{"a": NaN}', "1:7: this is not JSON: expected a value"),
            ('{"a": "b\nc"}', "1:9: this is not JSON: invalid control character"),
            (r'{"a": "\x"}', r"1:8: this is not JSON: invalid \escape"),
            ('{"a": "b}', "1:7: this is not JSON: unterminated string starting"),
            ('{"a": 1}\r\n{"a": 2}', "2:1: this is not JSON: there is more behind the end of the document"),
        ],
    )
    def test_a_json_file_that_is_none(self, text: str, said: str) -> None:
        """A file called .json gets JSON's problem at its place."""
        (problem,) = problems_of(text)
        assert problem.startswith(f"f.json:{said}")

    def test_json_lines(self) -> None:
        """A document in each line is no manifest, and what makes one of it is said, whatever the file is called."""
        for file in ("f.jsonl", "stdin", "f.json"):
            (problem,) = problems_of('{"prompt": "a"}\n{"prompt": "b"}\n', file)
            assert problem.startswith(f"{file}:2:1: this is not JSON: there is more")
            assert problem.endswith('(put the lines into {"jobs": [ ]}, with commas between them)')

    def test_flow_style_is_still_yaml(self) -> None:
        """A manifest that begins with a brace and is not JSON is YAML, where it is not called .json."""
        assert read(b"{jobs: [a, b,], x: no} # hi", "f.yaml").value == {"jobs": ["a", "b"], "x": "no"}

    def test_a_byte_order_mark(self) -> None:
        """As some editors write it."""
        assert read(b'\xef\xbb\xbf{"a": 1}', "f.json").value == {"a": 1}


def test_the_events_are_yaml_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON never comes to PyYAML."""
    monkeypatch.setattr(yaml, "parse", lambda *_, **__: pytest.fail("YAML was asked"))
    assert read(b' {"a": [1, {}, [], "x"]} ', "f.yaml").value == {"a": [1, {}, [], "x"]}
