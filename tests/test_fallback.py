"""A model that cannot be streamed, from its manifest to its sidecars: rendered all the same, and everybody is told.

The plan is made for a card of 8 GiB; the worker is a real one, and computes on what is here.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from renderer import cli, machine
from renderer.gpus import Gpu
from renderer.job import Sidecar
from renderer.machine import Machine
from tests.engine.making import copy_model, without_vision

GIB = 2**30
REASON = "no vision tower"


@pytest.fixture
def project(demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest of two pictures, with a model whose text encoder lacks what pictures from text do not need."""
    without_vision(copy_model(demo_folder, tmp_path / "blind"))
    (tmp_path / "night.yaml").write_text(
        "defaults: {model: ./blind, precision: bf16, steps: 2, size: 64x64}\njobs: [a red circle, a blue square]\n",
        encoding="utf-8",
    )
    card = Gpu(0, "a card", "GPU-1", 8 * GIB, 8 * GIB, "580.1", (8, 9))
    monkeypatch.setattr(machine, "look", lambda: Machine((card,), 2, 64 * GIB, 64 * GIB))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
    return tmp_path


def test_rendered_and_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The log says why once, and every sidecar; no packed store is made."""
    assert cli.main(["render", "night.yaml"]) == 0
    assert capsys.readouterr().err.count(f"not streamed, which is slower: its text encoder has {REASON}") == 1
    sidecars = [Sidecar.model_validate_json(path.read_bytes()) for path in (project / "outputs/night").glob("0*.json")]
    assert len(sidecars) == 2
    for sidecar in sidecars:
        assert (sidecar.engine.name, sidecar.engine.profile) == ("native", "disk")
        assert REASON in (sidecar.engine.instead_of_streaming or "")
    assert not (project / "models").exists()


@pytest.mark.usefixtures("project")
def test_planned(capsys: pytest.CaptureFixture[str]) -> None:
    """`renderer plan` says so in words and in JSON; whoever asks for a native profile is told nothing of it."""
    assert cli.main(["plan", "night.yaml"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "profile disk" in said
    assert f"not streamed, which is slower: its text encoder has {REASON}" in said
    assert cli.main(["plan", "night.yaml", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["forecast"]["groups"]
    assert (told["precision"], REASON in told["instead_of_streaming"]) == ("bf16", True)
    assert cli.main(["plan", "night.yaml", "--profile", "resident"]) == 0
    assert "not streamed" not in capsys.readouterr().out


@pytest.mark.usefixtures("project")
def test_streaming_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """`--profile stream` is an error before anything is rendered, with what to do; `plan` says the same."""
    assert cli.main(["render", "night.yaml", "--profile", "stream"]) == 3
    said = capsys.readouterr().err
    assert REASON in said
    assert "hint: without --profile stream" in said
    assert cli.main(["plan", "night.yaml", "--profile", "stream"]) == 0
    assert REASON in " ".join(capsys.readouterr().out.split())
