"""What control adds to a step, measured: here with the demo model, whose figures mean nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from renderer.benchmarks import control_steps
from renderer.benchmarks.control_steps import ControlCase
from renderer.engine import stores
from renderer.protocol import Setup


def test_all_kinds_are_measured(tmp_path: Path) -> None:
    """Each case by itself, with networks of random weights that are written once."""
    setup = Setup(model="demo", precision="bf16", profile="stream")
    store = shutil.copytree(stores.find(setup, lambda _: None).folder, tmp_path / "bf16")
    plain = ControlCase(2, side=64, steps=2, guidance=1.0)
    kinds: list[dict[str, Any]] = [{}, {"nets": 1, "regions": 1, "context": True}]
    rows = control_steps.measured(store, [replace(plain, **each) for each in kinds])
    assert [row["control_bytes"] > 0 for row in rows] == [False, True]
    assert rows[0]["latents"] != rows[1]["latents"]
    assert rows[1]["forecast_bytes"] > rows[0]["forecast_bytes"] > 0
    assert all(row["step_s"] > 0 for row in rows)
    assert len(list(tmp_path.glob("control-*.safetensors"))) == 1
