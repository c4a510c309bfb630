"""`renderer bench engine --part edits`: what a step of an edit takes, beside one of as many tokens from text.

With Qwen-Image-Edit-2511's way of taking pictures (`zero_cond_t`): one of 1024x1024 goes in, and one comes out. They
are measured in `edit_steps`. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from renderer.benchmarks.running import Figures
from renderer.text import GIB


@dataclass(frozen=True, slots=True)
class EditCase:
    """A picture of some size through so many slots, of which `edited` pixels go in besides; 0: it is from text."""

    slots: int
    width: int = 1024
    height: int = 1024
    edited: int = 1024 * 1024
    steps: int = 8
    guidance: float = 4.0


EDIT_CASES: Mapping[str, EditCase] = MappingProxyType(
    {
        "edits-3-slots": EditCase(3),
        "edits-resident": EditCase(60),
        "edits-3-slots-unguided": EditCase(3, guidance=1.0),
        "edits-text-3-slots": EditCase(3, 2048, 1024, edited=0),
        "edits-text-resident": EditCase(60, 2048, 1024, edited=0),
    }
)
"""Edits, and pictures from text of as many tokens."""

SMALL_EDITS: Mapping[str, EditCase] = MappingProxyType(
    {
        "edits-demo": EditCase(2, 256, 256, edited=64 * 64, steps=2, guidance=1.0),
        "edits-demo-text": EditCase(2, 256, 272, edited=0, steps=2, guidance=1.0),
    }
)

OF_TEXT: Mapping[str, str] = MappingProxyType(
    {"edits-3-slots": "edits-text-3-slots", "edits-resident": "edits-text-resident", "edits-demo": "edits-demo-text"}
)
"""The case from text that each edit stands beside."""


def lines(rows: Sequence[Figures]) -> Iterator[str]:
    """A table of the rows, each edit beside the picture from text of as many tokens; and whether slots change a bit."""
    if not rows:
        return
    by_case = {row["case"]: row for row in rows}
    columns = ("what renders", "tokens", "slots", "s/step", "from text", "times", "encode, s", "peak reserved, GiB")
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        beside = by_case.get(OF_TEXT.get(row["case"], ""))
        told = ["", ""]
        if beside is not None:  # by the token: the text's are not quite as many
            own, others = (each["step_s"] / each["tokens"] for each in (row, beside))
            told = [f"{beside['step_s']:.3f}", f"{own / others:.3f}"]
        cells = [row["case"], str(row["tokens"]), str(row["slots"]), f"{row['step_s']:.3f}", *told]
        cells += [f"{row['encode_s']:.2f}", f"{(row['reserved_bytes'] or 0) / GIB:.2f}"]
        yield f"| {' | '.join(cells)} |"
    yield ""
    few, many = by_case.get("edits-3-slots"), by_case.get("edits-resident")
    if few and many:
        same = "the same bits" if few["latents"] == many["latents"] else "NOT the same bits"
        times = few["step_s"] / many["step_s"]
        yield f"- Edits through 3 slots and resident: {same}; a step takes {times:.3f} times as long."
        yield ""
