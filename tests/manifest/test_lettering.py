"""Which texts a job's pictures are to show."""

from __future__ import annotations

import pytest

from renderer.job import Lettering
from renderer.manifest.manifest import Overrides
from renderer.manifest.shelf import Shelf
from tests.reading import load_text, problem_with, problems_of


def wanted(fields: str) -> list[Lettering | None]:
    return [picture.lettering for picture in load_text(f"jobs: [{{model: demo, {fields}}}]").pictures]


def test_none_is_the_default() -> None:
    assert wanted("prompt: 'says \"OPEN\"'") == [None]
    assert wanted("prompt: 'says \"OPEN\"', lettering: none") == [None]


def test_what_stands_in_quotation_marks_or_in_a_list() -> None:
    assert wanted("prompt: 'says \"OPEN\"', lettering: auto") == [Lettering(texts=("OPEN",))]
    assert wanted("prompt: no text, lettering: auto") == [None]
    assert wanted("prompt: a sign, lettering: [OPEN, 营业中]") == [Lettering(texts=("OPEN", "营业中"))]
    (found,) = wanted("prompt: a sign, lettering: {texts: [OPEN], forgive: [punctuation, case]}")
    assert found == Lettering(texts=("OPEN",), forgives=("case", "punctuation"))
    assert wanted("prompt: 'says {w}', lettering: ['{w}!'], matrix: {w: [A, B]}") == [
        Lettering(texts=("A!",)),
        Lettering(texts=("B!",)),
    ]


def test_a_jobs_list_wins_over_the_defaults() -> None:
    text = 'defaults: {model: demo, lettering: auto}\njobs: [{prompt: "says “A”", lettering: none}, "says “B”"]'
    assert [picture.lettering for picture in load_text(text).pictures] == [None, Lettering(texts=("B",))]


def test_retakes_have_seeds_that_are_nobody_elses() -> None:
    (alone,) = wanted("prompt: a, lettering: [A], seed: 7, retake: 2")
    assert alone is not None
    assert alone.seeds == (7, 8, 9)
    several = wanted("prompt: a, lettering: [A], seeds: [1, 2, 3], retake: 2")
    seeds = [each.seeds for each in several if each]
    assert seeds == [(1, 4, 7), (2, 5, 8), (3, 6, 9)]
    (last,) = wanted(f"prompt: a, lettering: [A], seed: {2**63 - 1}, retake: 1")
    assert last is not None
    assert last.seeds == (2**63 - 1, 0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("lettering: OPEN", "must be auto, none, or a list of texts, not text (put the text in [ ]"),
        ("lettering: []", "must not be empty (write none)"),
        ("lettering: [1]", "and no text (quote it)"),
        ("lettering: {text: auto}", "has no text (it takes texts and forgive)"),
        ("lettering: {forgive: [colour]}", "colour cannot be forgiven (allowed: case, spaces, punctuation)"),
        ("retake: 3", "retake needs lettering (write lettering: auto, or a list of texts)"),
        ("expect: {lettering: 0.9}", "lettering needs the job's lettering"),
        ("lettering: auto, retake: 99", "99 is out of range (allowed: 0 to 20)"),
        ("lettering: auto, expect: {lettering: 90}", "90.0 is out of range (allowed: 0 to 1)"),
    ],
)
def test_what_is_wrong_is_said(fields: str, said: str) -> None:
    assert said in problem_with(fields)


def test_a_strangers_manifest_may_have_it() -> None:
    """A server reads as a run does."""
    fields = "lettering: [A], retake: 1, expect: {lettering: 0.5}"
    assert not problems_of(f"jobs: [{{prompt: a, {fields}}}]", Overrides(shelf=Shelf({"demo": "demo"})))


def test_auto_without_a_text_is_hardly_meant() -> None:
    """Where the job itself says so; the defaults are for jobs without a text as well."""
    (warning,) = load_text("jobs: [{model: demo, prompt: no text, lettering: auto}]").warnings
    assert warning.message == "finds no text in quotation marks"
    assert not load_text("defaults: {model: demo, lettering: auto}\njobs: [no text]").warnings
    assert not load_text("jobs: [{model: demo, prompt: 'says \"A\"', lettering: auto}]").warnings
