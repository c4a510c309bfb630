"""The benchmarks' own code, on the demo model and on the CPU: what they measure at full size runs through the same."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from renderer.benchmarks import bare, few, parts, running, streamed
from renderer.benchmarks import engine as bench
from renderer.benchmarks.few import FewCase
from renderer.catalog import cards
from renderer.engine import encoding, prompts, stores
from renderer.engine.slots import Slots
from renderer.engine.streaming import StreamingEngine
from renderer.errors import UsageError
from renderer.machine.rates import of_card
from renderer.protocol import Setup
from renderer.weights.store import BlockFile

BENCHMARKS = Path(__file__).resolve().parent
RATES = of_card(cards.find("H100").card)


@pytest.fixture(scope="module")
def engine() -> StreamingEngine:
    store = stores.find(Setup(model="demo", precision="bf16", profile="stream"), lambda _: None).folder
    return bare.forgetful(streamed.open_engine(store, slots=2, in_flight=1))


@pytest.fixture(scope="module")
def demo(engine: StreamingEngine) -> running.Figures:
    return streamed.measure(engine, streamed.ENGINE_CASES["demo"])


def test_a_case_is_measured(engine: StreamingEngine, demo: running.Figures) -> None:
    """Two pictures through two slots: seconds a step, what was compiled, and bits that come again."""
    first, again = demo, streamed.measure(engine, streamed.ENGINE_CASES["demo"])
    assert first["step_s"] > 0
    assert (first["slots"], first["pictures"], first["kernels_compiled"]) == (2, 2, 0)
    assert first["sha256"] == again["sha256"]
    assert first["latents"] == again["latents"]
    assert len(set(first["latents"])) == 2
    json.dumps(first)


def test_a_slow_bus_brings_each_block_several_times(
    engine: StreamingEngine, demo: running.Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many times as it is slower; the pictures are the same, and a forecast has the bus that there was."""
    copied: list[torch.Tensor] = []
    put = torch.Tensor.copy_

    def noted(target: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        copied.append(target)
        return put(target, *given, **named)

    with bare.slow_bus(3):
        slots = Slots(engine._source, 2, "cpu")
        monkeypatch.setattr(torch.Tensor, "copy_", noted)
        for _ in slots.sweep():
            pass
    monkeypatch.undo()
    assert len(copied) == 3 * engine._source.count
    row = {**demo, "case": "slow-bus-1-small", "side": 512, "pictures": 1, "slots": 3, "precision": "fp8"}
    fast, slow = (bench.forecast({**row, "copies": copies}, RATES).bus_s for copies in (1, 7))
    assert slow == pytest.approx(7 * fast)


@pytest.mark.parametrize(
    "case", [streamed.ENGINE_CASES["demo"], replace(streamed.ENGINE_CASES["demo"], slots=4, guidance=1.0)]
)
def test_prompts_are_encoded_within_what_is_measured(
    engine: StreamingEngine, monkeypatch: pytest.MonkeyPatch, case: streamed.Case
) -> None:
    """Whatever was encoded before, in this process or another: its seconds and its memory are a case's own."""
    encoded: list[list[str]] = []
    encode = encoding.encode

    def noted(group: Any, call: Any, sweep: Any) -> Any:
        encoded.append([prompt.text for prompt in group])
        return encode(group, call, sweep)

    monkeypatch.setattr(prompts, "encode", noted)
    row = streamed.measure(engine, case)
    texts = [streamed.BENCH_PROMPT, ""] if case.guidance != 1.0 else [streamed.BENCH_PROMPT]
    assert encoded == [texts, texts]  # of the pictures that warm up, and of those that are measured
    assert row["encode_s"] > 0
    assert (row["slots"], row["guidance"]) == (case.slots, case.guidance)


def test_the_tables_show_what_was_measured(demo: running.Figures) -> None:
    """A row a case, a row a cap, and the remarks that follow from them."""
    case = {"case": "resident", **demo, "reserved_bytes": 3 * 2**30, "step_s": 0.5, "encode_s": 1.25}
    cap = {
        "case": "cap-6",
        "cap_bytes": 6 * 2**30,
        "pictures": 8,
        "steps": 10,
        "slots": [2, 3],
        "in_flight": 2.5,
        "adjustments": ["2 slots"],
        "pictures_per_hour": 321.0,
        "reserved_bytes": 5 * 2**30,
        "rss_bytes": 1,
    }
    peer = {"case": "diffsynth-bf16", "side": 128, "step_s": 9.0, "after_s": 1.0, "reserved_bytes": 1, "rss_bytes": 1}
    rows = {"resident": [case], "bf16-3-slots": [case], "cap-6": [cap]}
    rows["diffsynth-bf16"] = [{**peer, "sha256": "of another VAE", "latents": case["latents"]}]
    found = {"rows": rows, "rates": RATES.model_dump()}
    told = "\n".join(bench.lines(found))
    expected = f"{bench.forecast(case, RATES).seconds / 2:.3f} | {bench.floor_s(case, RATES) / 2:.3f}"
    assert f"| renderer, resident | 128² | 4 | 2 | 0.500 | {expected} | 1.25 |" in told
    assert "| renderer, resident | 128² | 4 | 2 | 0.500 |  |  | 1.25 |" in "\n".join(bench.lines({"rows": rows}))
    assert "| 6 | 8 | 2-3 | 2.5 | 5.00 | 321 | 2 slots |" in told
    assert "bf16 at 128²: latents are the same bits as DiffSynth's own call" in told
    rows["diffsynth-bf16"][0]["latents"] = ["others"]
    assert "NOT the bits" in "\n".join(bench.lines({"rows": rows}))


def test_many_pictures_of_few_steps(tmp_path: Path) -> None:
    """By the command itself, after a run of two: how many an hour, and a row of the table that says so."""
    cases = {"few-small": FewCase(64, 2, pictures=5)}
    (row,) = few.measure(tmp_path, {**os.environ}, ["few-small"], "model: demo, precision: bf16", cases)
    assert (row["case"], row["pictures"], row["steps"], row["slots"], row["in_flight"]) == ("few-small", 5, 2, 5, 1.0)
    assert row["pictures_per_hour"] > 3600 * 5 / row["seconds"]
    assert 0 < row["start"]["first_sweep_s"] < row["start"]["first_step_s"]
    told = "\n".join(bench.lines({"rows": {"few-512": [row]}}))
    assert f"| 64² | 2 | all | 5 | 1.0 | {row['step_s']:.3f} | {row['pictures_per_hour']:.0f} |" in told
    assert "without guidance" not in "\n".join(bench.lines({"rows": {}}))


def test_floors_are_of_the_card() -> None:
    """A card of half the rates has twice the floor; through few slots, a small picture's is the bus's."""
    resident = {"case": "resident", "slots": 60, "side": 1328, "pictures": 1}
    streaming = {**resident, "case": "3-slots-small", "slots": 3, "side": 512}
    half = RATES.model_copy(
        update={
            "fp8_flops": (RATES.fp8_flops or 0.0) / 2,
            "attention_flops": RATES.attention_flops / 2,
            "pinned_bytes_per_s": (RATES.pinned_bytes_per_s or 0.0) / 2,
        }
    )
    for row in (resident, streaming):
        assert bench.floor_s(row, half) == pytest.approx(2 * bench.floor_s(row, RATES))
        assert bench.floor_s(row, RATES) <= bench.forecast(row, RATES).seconds
    assert bench.floor_s(streaming, RATES) == pytest.approx(59 * 226.8e6 / RATES.bus_bytes_per_s, rel=0.01)


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("engine-*.json")), ids=lambda file: file.stem)
def test_the_committed_table_is_of_the_committed_figures(file: Path) -> None:
    """What `renderer bench engine` makes of the figures stands in the document of their name."""
    written = file.with_suffix(".md").read_text(encoding="utf-8")
    assert "\n".join(bench.lines(json.loads(file.read_text(encoding="utf-8")))) in written


def test_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    """A folder with figures in it gives them back; a part that there is not is refused by name."""
    (tmp_path / "engine.json").write_text(json.dumps({"rows": {"batch": [{"case": "batch"}]}}))
    assert bench.measure(tmp_path, tmp_path, ["batch"])["rows"] == {"batch": [{"case": "batch"}]}
    with pytest.raises(UsageError, match="no part nonsense"):
        bench.measure(tmp_path, tmp_path, ["nonsense"])


def test_loading_is_measured_with_checksums_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn by turn, of the same files: every second time no file is checked."""
    checked: list[bool] = []
    read = BlockFile.read_into

    def noted(file: BlockFile, *arguments: Any, **named: Any) -> None:
        checked.append(file.path not in file.sound)
        read(file, *arguments, **named)

    monkeypatch.setattr(BlockFile, "read_into", noted)
    (tmp_path / "fp8").symlink_to(
        stores.find(Setup(model="demo", precision="fp8", profile="stream"), lambda _: None).folder
    )
    row = parts.PARTS["load"](tmp_path, "2")
    blocks = row["blocks"]
    assert checked == [*[True] * blocks, *[False] * blocks] * 2
    assert (len(row["runs_s"]), len(row["unchecked_runs_s"])) == (2, 2)
    assert row["seconds"] > 0
    assert row["unchecked_s"] > 0
