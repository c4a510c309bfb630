"""What was measured of pictures that are taken apart: bits, slots, and the memory that is forecast."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from renderer.catalog import QWEN_IMAGE_ARCHITECTURE
from renderer.estimate import Streaming, Work

ROWS = [json.loads(line) for line in Path(__file__).with_name("layers-h100.jsonl").read_text().splitlines()]
BLOCKS = 6


def test_bits_are_diffsynths() -> None:
    """The whole and its layers, through few slots and many; at fp8 those of one another."""
    told = {row["case"]: (row["whole"], row["bits"]) for row in ROWS}
    assert told["bf16-3-slots"] == told["bf16-6-slots"] == told["diffsynth-bf16"]
    assert told["fp8-3-slots"] == told["fp8-6-slots"] != told["bf16-3-slots"]


def test_few_slots_cost_little() -> None:
    steps = {row["case"]: row["step_s"] for row in ROWS}
    assert steps["fp8-3-slots"] < 1.05 * steps["fp8-6-slots"]
    assert steps["bf16-3-slots"] < 1.05 * steps["diffsynth-bf16"]


@pytest.mark.parametrize("row", [row for row in ROWS if "slots" in row], ids=lambda row: str(row["case"]))
def test_a_steps_memory_is_forecast(row: dict[str, int | str]) -> None:
    """Of tensors, where prompts are at hand: never too little, and at most a tenth too much."""
    shape = replace(QWEN_IMAGE_ARCHITECTURE, layers=BLOCKS)
    streaming = Streaming(shape, "fp8" if row["precision"] == "fp8" else "bf16", int(row["slots"]))
    work = Work(640, 640, 62, takes_in=True, layer_num=4)
    assert work.tokens == row["tokens"]
    expected = streaming.estimate([work]).stage("denoise").bytes
    assert int(row["allocated_bytes"]) <= expected <= 1.1 * int(row["allocated_bytes"])
