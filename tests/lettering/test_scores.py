"""How near what was read is to what was wanted."""

from __future__ import annotations

import time

import pytest

from renderer.job import Box, Forgiven, Lettering, ReadLine
from renderer.lettering.quotes import MOST_TEXTS
from renderer.lettering.scores import compare


def score(wanted: str, *lines: str, forgives: tuple[Forgiven, ...] = ("case", "spaces")) -> float:
    read = [
        ReadLine(text=text, confidence=1.0, box=Box(left=0, top=10 * place, right=9, bottom=10 * place + 9))
        for place, text in enumerate(lines)
    ]
    return compare(Lettering(texts=(wanted,), forgives=forgives), read, "test").score


@pytest.mark.parametrize(
    ("wanted", "lines", "expected"),
    [
        ("OPEN", ["OPEN"], 1.0),
        ("Open", ["OPEN"], 1.0),
        ("GRAND OPENING", ["GRANDOPENING"], 1.0),
        ("GRAND OPENING", ["GRAND", "OPENING"], 1.0),
        ("OPEN", ["we are OPEN today"], 1.0),
        ("OPEN", ["welcome", "0PEN", "now"], 0.75),
        ("OK", ["SMOKE"], 0.0),  # a part of a word is no text
        ("营业中", ["今日营业中"], 1.0),
        ("营业中", ["营业"], 2 / 3),
        ("OPEN", [], 0.0),
        ("ＯＰＥＮ", ["OPEN"], 1.0),
    ],
)
def test_a_text_among_lines(wanted: str, lines: list[str], expected: float) -> None:
    assert score(wanted, *lines) == pytest.approx(expected)


def test_what_is_forgiven() -> None:
    assert score("Hi, you", "hi you", forgives=()) < 1
    assert score("Hi, you", "hi you", forgives=("case", "punctuation")) == 1
    assert score("Hi you", "Hiyou", forgives=()) < 1


def test_where_it_stands_and_the_worst_of_several() -> None:
    """A text in two lines stands in both; a picture is as good as the text that is least well there."""
    lines = [ReadLine(text=text, confidence=1.0, box=Box(left=x, top=x, right=x + 9, bottom=x + 9)) for x, text in
             ((0, "GRAND"), (20, "OPENING"), (40, "TODEY"))]  # fmt: skip
    found = compare(Lettering(texts=("Grand opening", "Today")), lines, "test")
    assert found.texts[0].box == Box(left=0, top=0, right=29, bottom=29)
    assert (found.score, found.texts[1].read) == (0.8, "TODEY")


def test_a_picture_full_of_letters_takes_a_bounded_time() -> None:
    """What stands behind its first two hundred lines, or two thousand letters, is not looked for."""
    long = "lorem ipsum dolor sit " * 10
    assert score("OPEN", "OPEN", *[long] * 200) == 1
    assert score("OPEN", *[long] * 12, "OPEN") < 1
    assert score("OPEN", *["a"] * 199, "OPEN") == 1
    assert score("OPEN", *["a"] * 200, "OPEN") == 0
    began = time.process_time()
    lines = [ReadLine(text=long, confidence=1.0, box=Box(left=0, top=0, right=9, bottom=9))] * 12
    compare(Lettering(texts=tuple(f"{number} {long * 3}" for number in range(MOST_TEXTS))), lines, "test")
    assert time.process_time() - began < 6  # a minute, while each place of the table was visited


def test_of_runs_that_are_as_near_the_shortest_is_told() -> None:
    """Words before it that make it no nearer are not a part of it."""
    lines = [ReadLine(text="a NPPO N0E", confidence=1.0, box=Box(left=0, top=0, right=9, bottom=9))]
    (found,) = compare(Lettering(texts=("0O0 E0ENOE N",)), lines, "test").texts
    assert found.read == "N0E"
