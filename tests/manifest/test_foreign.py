"""What stands in prompts for other tools: found where it is clearly that, and in no ordinary text."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from renderer.manifest.foreign import _ANY_SIGN, _QUOTED, _SIGNS, findings


def found_in(text: str, *, matrix: bool = False) -> list[str]:
    return [finding.message.split(" is read")[0].split(" stands")[0] for finding in findings(text, matrix=matrix)]


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("a cat <lora:style:0.8>", "<lora:style:0.8>"),
        ("a cat <lora:add-detail>", "<lora:add-detail>"),
        ("a <random:red,blue> cat", "<random:red,blue>"),
        ("a <wildcard:animals> cat", "<wildcard:animals>"),
        ("a __animal__ here", "__animal__"),
        ("a __animals/wild-cats__.", "__animals/wild-cats__"),
        ("in {snow|rain}", "{snow|rain}"),
        ("in {2$$snow|rain|}", "{2$$snow|rain|}"),
        ("a {city} sign", "{city}"),
        ("a {{{masterpiece}}} cat", "{{{masterpiece}}}"),
        ("(masterpiece:1.3)", "(masterpiece:1.3)"),
        ("(red hat, blue coat: .9)", "(red hat, blue coat: .9)"),
        ("[cat:dog:0.5]", "[cat:dog:0.5]"),
        ("[blurry:0.7]", "[blurry:0.7]"),
        ("((masterpiece)), a cat", "((masterpiece))"),
        ("a cat [[blurry]]", "[[blurry]]"),
        ("1.2::masterpiece::, a cat", "1.2::masterpiece::"),
        ("hot dog::2 hot::1", "g::2"),
        ("a cat BREAK a dog", "BREAK"),
        ("a cat, BREAK\na dog", "BREAK"),
        ("a cat AND a dog", "AND"),
        ("embedding:easy, bad", "embedding:easy"),
        ("blurry, EasyNegative", "EasyNegative"),
        ("score_9, score_8_up, a cat", "score_9"),
        ("a cat --ar 16:9", "--ar 16:9"),
        ("a cat \u2014ar 16:9", "\u2014ar 16:9"),
        ("a cat --no dogs --v 6.1", "--no dogs"),
        ("a cat --stylize 250", "--stylize 250"),
        ("a cat --seed 12", "--seed 12"),
        ("prompt:a cat", "prompt:"),
        ("prompt\uff1aa cat", "prompt\uff1a"),
    ],
)
def test_found(text: str, sign: str) -> None:
    """Each is named as it was written, with what it is here."""
    assert found_in(text)[0] == sign


@pytest.mark.parametrize(
    "text",
    [
        "a cat (sleeping) in a box, 16:9, at 10:30",
        "a train at the station (10:30.5, platform 2)",
        "a ratio (of 3:2) and a verse (John 3:16)",
        'a banner with the text "(big sale:1.5) <lora:x:1> BREAK {a|b} --ar 16:9"',
        "海报上写着\u201c(特价:1.5) {甲|乙}\u201d\uff0c一只猫\uff08橘色\uff1a明亮\uff09在雪地里——远处是山",
        "看板に\u300cBREAK\u300dと書いてある",
        "TAKE A BREAK AND RELAX",
        "a COFFEE BREAK at noon; BLACK AND WHITE photograph",
        "the function f((x)) and an array a[[0]]",
        "a code editor with if (a < b) { return [1, 2]; }",
        "snake_case names, __ and ___, a_b__c_d",
        "an e-mail -- unanswered -- on a desk",
        '5\'10" tall, 6" wide, #1, 100 %, C++ :: std::vector',
        "a [brand name] bottle [studio light]",
        "emoticons :) :-( <3 and an arrow -> there",
        "bad weather, a dreamy negative of a film, hands",
        "the seed of a tree --- a dash \u2014 and another",
        "model: a woman in red; size matters",
    ],
)
def test_ordinary_text(text: str) -> None:
    """Parentheses, times, ratios, dashes, code and what stands in quotation marks are just text."""
    assert found_in(text) == []


def test_braces_beside_a_matrix() -> None:
    """With a matrix a name in braces is its value, and double braces are a brace, or around a choice."""
    assert found_in("a {city} {{x}}", matrix=True) == []
    assert found_in("a {city} {{snow|rain}}", matrix=True) == []
    assert found_in("a {city} {snow|rain}", matrix=True) == ["{snow|rain}"]


ALPHABET = 'ab1 .:|_-\u2014"\u201c\u201d<>()[]{}\n,lora BREAK AND embedding --ar 猫\uff1a\u300c'


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.text(st.sampled_from(ALPHABET), max_size=200)), st.booleans())
def test_whatever_is_written(text: str, matrix: bool) -> None:  # noqa: FBT001
    """No text is trouble; what is said stands on one line. What no sign could be in is not searched in vain."""
    for finding in findings(text, matrix=matrix):
        assert finding.message.isprintable()
        assert len(finding.message) < 200
        assert finding.hint
    if not _ANY_SIGN.search(text):
        assert not any(re.search(sign.pattern, _QUOTED.sub(" ", text)) for sign in _SIGNS)


@pytest.mark.parametrize(
    "piece",
    ["(", "((", "[", "[[", "{", "{{", "{a|", "<lora:", "__a", "_", "a:", "[a:", "\u201c", "\u300c", '"', "--", "1.",
     "::", "a::", "BREAK ", "AND ", "(a :", "<random", "embedding:", " ", "\u2014"],
)  # fmt: skip
def test_time_is_in_proportion(piece: str) -> None:
    """A hundred thousand letters that begin a sign again and again, and never end it, are done in a moment."""
    text = piece * (100_000 // len(piece))
    began = time.process_time()
    list(findings(text))
    assert time.process_time() - began < 1
