"""The benchmarks' own code, on the demo model and on the CPU: what they measure at full size runs through the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from renderer.benchmarks import engine, streamed
from renderer.engine import stores
from renderer.errors import UsageError
from renderer.protocol import Setup


@pytest.fixture(scope="module")
def store() -> Path:
    return stores.find(Setup(model="demo", precision="bf16", profile="stream"), lambda _: None).folder


def test_a_case_is_measured(store: Path) -> None:
    """Two pictures through two slots: seconds a step, what was compiled, and bits that come again."""
    first, again = (streamed.measure(store, streamed.CASES["demo"]) for _ in range(2))
    assert first["step_s"] > 0
    assert (first["slots"], first["pictures"], first["kernels_compiled"]) == (2, 2, 0)
    assert first["sha256"] == again["sha256"]
    assert first["latents"] == again["latents"]
    assert len(set(first["latents"])) == 2
    json.dumps(first)


def test_the_tables_show_what_was_measured(store: Path) -> None:
    """A row a case, a row a cap, and the remarks that follow from them."""
    case = {"case": "resident", **streamed.measure(store, streamed.CASES["demo"]), "reserved_bytes": 3 * 2**30}
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
    told = "\n".join(engine.lines({"rows": rows}))
    assert "| renderer, resident | 128² | 2 |" in told
    assert "| 6 | 8 | 2-3 | 2.5 | 5.00 | 321 | 2 slots |" in told
    assert "bf16 at 128²: latents are the same bits as DiffSynth's own call" in told
    rows["diffsynth-bf16"][0]["latents"] = ["others"]
    assert "NOT the bits" in "\n".join(engine.lines({"rows": rows}))


def test_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    """A folder with figures in it gives them back; a part that there is not is refused by name."""
    (tmp_path / "engine.json").write_text(json.dumps({"rows": {"batch": [{"case": "batch"}]}}))
    assert engine.measure(tmp_path, tmp_path, ["batch"])["rows"] == {"batch": [{"case": "batch"}]}
    with pytest.raises(UsageError, match="no part nonsense"):
        engine.measure(tmp_path, tmp_path, ["nonsense"])
