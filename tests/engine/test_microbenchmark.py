"""What the child measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from renderer.engine import microbenchmark
from renderer.text import MIB


def test_a_named_figure_fails_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong says at which figure."""

    def fail(_: microbenchmark.Bench) -> float:
        raise RuntimeError("no engine found")

    monkeypatch.setattr(microbenchmark.Bench, "convolutions", fail)
    with pytest.raises(RuntimeError) as failed:
        microbenchmark.measure("cpu")
    assert failed.value.__notes__ == ["convolutions"]


def test_the_disk_is_read_where_models_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest weights are read; without any, or with tiny ones, nothing is told."""
    monkeypatch.setattr(microbenchmark, "PROBE_READ_BYTES", 4 * MIB)
    assert microbenchmark.disk_bytes_per_s(tmp_path / "missing") is None
    folder = tmp_path / "models" / "one"
    folder.mkdir(parents=True)
    (folder / "small.safetensors").write_bytes(b"0" * 100)
    assert microbenchmark.disk_bytes_per_s(tmp_path) is None
    (folder / "large.safetensors").write_bytes(bytes(17 * MIB))
    found = microbenchmark.disk_bytes_per_s(tmp_path)
    assert found is not None
    assert found > 1e6


@pytest.mark.parametrize(("one_s", "runs"), [(10.0, 3), (0.02, 5), (1e-6, 30)])
def test_runs_fit_the_time(one_s: float, runs: int) -> None:
    """Something slow runs three times, something quick not forever."""
    assert microbenchmark._runs(one_s, 0.1) == runs


def test_an_error_is_the_answer(tmp_path: Path) -> None:
    """The child writes one JSON object also when something is wrong: here, a library that lies about the GPU."""
    (tmp_path / "sitecustomize.py").write_text(
        "import torch.cuda\ntorch.cuda.is_available = lambda: True\n", encoding="utf-8"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    command = (sys.executable, "-m", "renderer.engine.microbenchmark")
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=True)
    assert "error" in json.loads(done.stdout)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_two_seconds_of_a_gpu() -> None:
    """Every figure, in little more than two seconds after the first kernel."""
    found = microbenchmark.measure("cuda")
    assert found.pinned_bytes_per_s is not None
    assert found.pinned_bytes_per_s > found.pageable_bytes_per_s / 2
    assert found.attention_flops < 3 * found.product_flops
