"""The probe: one JSON object, whatever is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

from renderer.engine import probe

COMMAND = (sys.executable, "-m", "renderer.engine.probe")


def test_says_what_works() -> None:
    """Versions are told, every GPU's kernels are tried, and nothing is wrong with the libraries installed here."""
    found = probe.probe()
    assert found["troubles"] == {}
    assert found["python"].startswith("3.")
    assert all(found[library] for library in ("torch", "diffsynth", "transformers"))
    assert all(gpu["kernel"] == "ok" for gpu in found["gpus"])


def test_renamed_class_in_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that DiffSynth's VRAM management names and transformers lacks is found without opening a model."""
    monkeypatch.delattr(modeling_qwen2_5_vl, "Qwen2_5_VisionRotaryEmbedding")
    assert "Qwen2_5_VisionRotaryEmbedding" in probe.probe()["troubles"]["transformers"]


def test_broken_library(tmp_path: Path) -> None:
    """A torch that cannot be imported, and prints, is text in the answer: no traceback, nothing else on stdout."""
    (tmp_path / "torch.py").write_text("print('noise')\nraise OSError('libcudart.so.13: cannot open')\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    answer = subprocess.run(COMMAND, capture_output=True, env=environment, timeout=60, check=True)
    found = json.loads(answer.stdout)
    assert found["troubles"]["torch"] == "OSError: libcudart.so.13: cannot open"
    assert "diffsynth" in found["troubles"]
    assert found["gpus"] == []
