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


def test_what_a_compiler_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A C compiler is looked for by the name that CC gives; without a GPU no kernel is compiled."""
    found = probe._compiler_facts(usable=False)
    assert found["kernel"] is None
    monkeypatch.setenv("CC", "no-such-compiler")
    assert probe._compiler_facts(usable=False)["c_compiler"] is False
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert probe._compiler_facts(usable=False)["python_headers"] is False


def test_a_kernel_that_does_not_compile_is_told() -> None:
    """Where there is no GPU, trying says so in words and does not raise."""
    outcome = probe._tried(probe._compile)
    assert outcome == "ok" or ":" in outcome
