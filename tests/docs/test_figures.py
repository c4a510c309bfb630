"""The README's figures are those of the files that it names."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.docs.reading import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
GIB = 2**30

OURS = {
    "512x512, eight in flight": ["3-slots-8-small"],
    "512x512, alone": ["3-slots-small", "resident-small"],
    "768x768, alone": ["3-slots-768", "resident-768"],
    "1024x1024, four in flight": ["3-slots-4-of-1024"],
    "1024x1024, alone": ["3-slots-1024", "resident-1024"],
    "2048x2048, alone": ["3-slots-2048"],
}
"""The cases of which a row has seconds a step and memory."""

OTHERS = {
    "DiffSynth, bf16, all on the GPU": ("h100", ["diffsynth-bf16"]),
    "DiffSynth, FP8, limited to 16 GB, to 10 GB": ("h200", ["diffsynth-fp8-16", "diffsynth-fp8-10"]),
    "diffusers, bf16, all on the GPU": ("h200", ["diffusers-bf16"]),
    "diffusers, bf16, group offload": ("h200", ["diffusers-group-offload"]),
}
"""The cases of which a row has seconds a step, all of them, and then memory."""


def measured(card: str, case: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((ROOT / f"tests/benchmarks/engine-{card}.json").read_text())["rows"][case]
    return rows


def told(label: str) -> list[str]:
    """The numbers of the row that begins with `label`."""
    (row,) = re.findall(rf"^\| {re.escape(label)}[^|]*\|(.*)$", README, re.MULTILINE)
    return re.findall(r"\d+(?:\.\d+)?", row)


def check(numbers: list[str], figures: list[float]) -> None:
    """Each number is its figure, rounded to as many digits as it has."""
    rounded = [f"{figure:.{len(number.partition('.')[2])}f}" for number, figure in zip(numbers, figures, strict=True)]
    assert numbers == rounded


@pytest.mark.parametrize(("label", "cases"), OURS.items(), ids=OURS)
def test_our_rows(label: str, cases: list[str]) -> None:
    found = [measured("h100", case)[0] for case in cases]
    check(told(label), [figure for row in found for figure in (row["step_s"], row["reserved_bytes"] / GIB)])


def test_our_largest_row() -> None:
    """That of 1328x1328 tells of two blocks as well."""
    three, two, whole = (measured("h100", case)[0] for case in ("3-slots", "2-slots", "resident"))
    streamed = [three["step_s"], three["reserved_bytes"] / GIB, 2, two["reserved_bytes"] / GIB]
    check(told("1328x1328, alone"), [*streamed, whole["step_s"], whole["reserved_bytes"] / GIB])


@pytest.mark.parametrize(("label", "source"), OTHERS.items(), ids=OTHERS)
def test_others_rows(label: str, source: tuple[str, list[str]]) -> None:
    card, cases = source
    found = [row for case in cases for row in measured(card, case)]
    check(told(label), [row["step_s"] for row in found] + [row["reserved_bytes"] / GIB for row in found])


def test_the_decode() -> None:
    """Seconds and memory of a decode of 1328x1328, ours and DiffSynth's."""
    lines = (ROOT / "tests/benchmarks/decodes-h100.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["what"] == "decode" and row["size"] == [1328, 1328]]
    ours, theirs = (next(row for row in rows if row["form"] == form) for form in ("kernels", "diffsynth"))
    (sentence,) = re.findall(r"Decoding a picture of 1328x1328 takes [^.]*\.[\d\D]*?GiB\. ", README)
    figures = [figure for row in (ours, theirs) for figure in (row["seconds"], row["allocated_bytes"] / GIB)]
    check(re.findall(r"\d+\.\d+", sentence), figures)
