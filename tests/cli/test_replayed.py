"""`renderer replay --render`: the same pictures once more, and what it ends with. The fakes' worker draws at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from renderer.cli import command
from renderer.cli import render as render_cli
from renderer.cli.manifests import Loaded
from renderer.outputs.folder import OutputFolder
from renderer.outputs.summary import Summary
from renderer.supervisor import run
from renderer.supervisor.settings import Settings, StopRequests
from tests.fakes import InlineWorker
from tests.making import make_manifest
from tests.nights import make_night

Rendering = Callable[..., int]


def drawn(outputs: Path, loaded: Loaded, **settings: Any) -> list[Summary]:
    there = Settings(outputs, force=True, hire=InlineWorker, retries=0, **settings)
    return run.render(loaded.manifests, there, lambda _: None, StopRequests())


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rendering:
    """Replays pictures, rendering them with the fakes' worker; `changes` are of the summary."""

    def call(paths: Sequence[Path], **changes: Any) -> int:
        def rendered(options: argparse.Namespace, loaded: Loaded) -> list[Summary]:
            return [each.model_copy(update=changes) for each in drawn(options.outputs, loaded)]

        monkeypatch.setattr(render_cli, "render_loaded", rendered)
        return command.main(["replay", *map(str, paths), "--render", "--outputs", str(tmp_path / "outputs")])

    return call


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two pictures as the worker draws them."""
    manifest = make_manifest(["a moon", "a star"], "first")
    drawn(tmp_path / "first", Loaded((manifest,)))
    folder = OutputFolder(tmp_path / "first/first")
    return [folder.picture(each.output) for each in manifest.pictures]


def test_all_bits_are_the_same(again: Rendering, pictures: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert again(pictures) == 0
    assert capsys.readouterr().out.count("the same bits") == 2


def test_one_that_differs_is_a_failure(
    again: Rendering, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Though the other is the same."""
    with Image.open(pictures[0]) as image:
        labels = {name: value for name, value in image.info.items() if isinstance(value, str)}
        changed = image.convert("RGB")
    assert labels
    changed.putpixel((0, 0), (1, 2, 3))
    changed.save(pictures[0])
    sidecar = pictures[0].with_suffix(".json")
    assert again([sidecar, pictures[1]]) == 1
    said = capsys.readouterr().out
    assert said.count("the same bits") == 1


@pytest.mark.parametrize("ending", ["deadline", "signal"])
def test_what_was_stopped_is_to_be_gone_on_with(again: Rendering, pictures: list[Path], ending: str) -> None:
    """It is no failure that the time was up."""
    assert again(pictures, ending=ending) == 4


def test_one_that_fails_is_not_held_against_itself(
    again: Rendering, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the old picture lies in the new one's place, and stays there."""
    manifest = replace(make_manifest(["fail"]), name="replay")
    make_night(manifest, tmp_path / "outputs")
    assert again([OutputFolder(tmp_path / "outputs/replay").picture("p000")]) == 1
    assert "p000: not rendered" in capsys.readouterr().out
