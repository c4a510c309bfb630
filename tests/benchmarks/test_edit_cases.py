"""What an edit's step takes, on the demo model: what is measured at full size runs through the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from renderer.benchmarks import edit_cases, edit_steps
from renderer.catalog import QWEN_IMAGE_ARCHITECTURE
from renderer.engine import stores
from renderer.estimate import Streaming, Work, duration
from renderer.machine.rates import Rates
from renderer.protocol import Setup


def test_an_edit_beside_as_many_tokens_from_text() -> None:
    """The table says how many times as long a token takes."""
    store = stores.find(Setup(model="demo-edit", precision="bf16", profile="stream"), lambda _: None).folder
    measured = []
    for name, case in edit_cases.SMALL_EDITS.items():
        (found,) = edit_steps.measured(store, [case])
        measured.append({"case": name, **found, "reserved_bytes": 2**30})
    assert (
        measured[0]["tokens"] - measured[0]["text_tokens"] == measured[1]["tokens"] - measured[1]["text_tokens"] == 272
    )
    assert measured[0]["text_tokens"] > 196
    told = list(edit_cases.lines(measured))
    assert told[2].startswith(f"| edits-demo | {measured[0]['tokens']} | 2 | {measured[0]['step_s']:.3f} | ")


HERE = Path(__file__).parent


@pytest.fixture(params=["h100", "h200"])
def rows(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a card gave at full size, and its rates."""
    lines = (HERE / f"edits-{request.param}.jsonl").read_text(encoding="utf-8").splitlines()
    found = {row.pop("case"): row for row in map(json.loads, lines)}
    if "rates" not in found:
        engine = (HERE / f"engine-{request.param}.json").read_text(encoding="utf-8")
        found["rates"] = json.loads(engine)["rates"]
    return found


def test_at_full_size(rows: dict[str, Any]) -> None:
    """Through 3 slots as fast as resident and with the same bits, in 3 GiB; hardly slower than as many tokens."""
    found = rows
    few, many, text = (found[case] for case in ("edits-3-slots", "edits-resident", "edits-text-3-slots"))
    assert few["latents"] == many["latents"]
    assert few["step_s"] < 1.05 * many["step_s"]
    assert few["step_s"] / few["tokens"] < 1.10 * text["step_s"] / text["tokens"]
    assert few["reserved_bytes"] < 3 * 2**30


@pytest.mark.parametrize("case", edit_cases.EDIT_CASES)
def test_as_forecast(rows: dict[str, Any], case: str) -> None:
    """Its seconds at that card's measured rates, and the bytes of its tensors."""
    row, known = rows[case], Rates.model_validate(rows["rates"])
    edited = bool(row["edited"])
    work = Work(
        row["width"],
        row["height"],
        row["text_tokens"],
        204 if edited else 0,
        guided=row["guidance"] != 1.0,
        edited=((1024, 1024),) if edited else (),
        split=edited,
    )
    streaming = Streaming(QWEN_IMAGE_ARCHITECTURE, "fp8", row["slots"])
    assert duration.sweep(streaming, [work], known).seconds == pytest.approx(row["step_s"], rel=0.05)
    together = [work.prompt_tokens, *([work.negative_tokens] if work.guided else [])]
    assert streaming.estimate([work], together).allocated == pytest.approx(row["allocated_bytes"], rel=0.05)
