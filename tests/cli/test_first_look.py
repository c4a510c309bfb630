"""How far the look at what goes into pictures is, where it takes long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from renderer.cli import command, first_look


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        Image.new("RGB", (64, 64), (0, 0, number)).save(tmp_path / f"{number}.png")
    path = tmp_path / "m.yaml"
    path.write_text('jobs: [{id: "{stem}", model: demo, prompt: a, image: "*.png"}]')
    return path


def test_it_is_told_where_it_takes_long(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error; a quick one says nothing."""
    assert command.main(["plan", str(manifest)]) == 0
    assert "looking" not in capsys.readouterr().err
    monkeypatch.setattr(first_look, "_TELL_AFTER_S", 0.0)
    assert command.main(["plan", str(manifest), "--json"]) == 0
    told = capsys.readouterr()
    assert "m: looking at the pictures that go in, 1 of 3" in told.err
    assert json.loads(told.out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert command.main(["plan", str(manifest)]) == 0
    assert "m: looking at the pictures that go in: 1 of 3 |" in capsys.readouterr().err


def test_a_log_for_machines_has_it_as_an_event(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(first_look, "_TELL_AFTER_S", 0.0)
    manifest.write_text(manifest.read_text().replace("}]", "}, {prompt: b, imag: c}]"))
    assert command.main(["render", str(manifest), "--log-format", "json"]) == 2
    first = json.loads(capsys.readouterr().err.splitlines()[0])
    told = {"event": "busy", "what": "looking at the pictures that go in", "done": 1, "total": 3}
    assert first | told == first


def test_so_is_how_far_pictures_are_replayed(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that were made of photos are looked at with them."""
    monkeypatch.setattr(first_look, "_TELL_AFTER_S", 0.0)
    assert command.main(["replay", *(str(manifest.parent / f"{number}.png") for number in range(3))]) == 2
    assert "replay: reading how pictures were made, 1 of 3" in capsys.readouterr().err
