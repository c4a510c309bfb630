"""What goes into pictures on its way to a worker: kept first, sent with the order, and never another picture's."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from renderer.engine import inputs
from renderer.manifest import manifest
from renderer.manifest.manifest import Manifest
from renderer.protocol import AnyOrder, Render
from renderer.supervisor import events
from tests.fakes import InlineWorker
from tests.supervisor.running import Night, counts


class Unpacking(InlineWorker):
    """Unpacks what comes with each order, as a real worker does."""

    seen: list[list[str]]

    def send(self, order: AnyOrder, payload: bytes = b"") -> None:
        if isinstance(order, Render):
            self.seen.append(sorted(inputs.unpack(order, payload)))
        super().send(order, payload)


@pytest.fixture(autouse=True)
def seen() -> list[list[str]]:
    Unpacking.seen = []
    return Unpacking.seen


def written(folder: Path, colour: str = "teal") -> Manifest:
    """Two pictures over one file, one of them within a mask, and one from noise."""
    Image.new("RGB", (64, 64), colour).save(folder / "shop.png")
    Image.new("L", (64, 64), 255).save(folder / "mask.png")
    path = folder / "edit.yaml"
    path.write_text(
        "defaults: {model: demo, size: 64x64, steps: 2}\n"
        "jobs: [{prompt: a, image: shop.png}, {prompt: b, image: shop.png, mask: mask.png}, c]\n",
        encoding="utf-8",
    )
    return manifest.load(path)


def test_inputs_are_kept_once_and_go_with_their_orders(tmp_path: Path, seen: list[list[str]]) -> None:
    night, edit = Night(tmp_path / "out"), written(tmp_path)
    assert counts(night.render(edit, hire=Unpacking)) == (3, 0, 0, 0)
    wanted = [sorted(each.sha256 for each in picture.job.inputs) for picture in edit.pictures]
    assert seen == wanted
    kept = {path.stem for path in night.folder(edit).inputs.iterdir()}
    assert kept == {sha256 for each in wanted for sha256 in each}
    (tmp_path / "shop.png").unlink()
    assert counts(night.render(edit, hire=Unpacking, force=True))[:3] == (3, 0, 0)


def test_what_changed_since_it_was_planned_is_not_rendered(tmp_path: Path) -> None:
    """Those pictures fail with a reason, and cost nobody else anything; planned anew they are other pictures."""
    night, edit = Night(tmp_path / "out"), written(tmp_path)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "shop.png")
    assert counts(night.render(edit, hire=Unpacking)) == (1, 0, 2, 0)
    assert all("has changed since" in what.message for what in night.of(events.PictureFailed))
    again = written(tmp_path, "red")
    assert counts(night.render(again, hire=Unpacking)) == (2, 1, 0, 0)


def test_twins_of_one_that_cannot_be_kept_end_too(tmp_path: Path) -> None:
    """Two names of one picture whose input has nowhere to be kept: both fail, and the run ends."""
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "shop.png")
    path = tmp_path / "edit.yaml"
    path.write_text(
        "defaults: {model: demo, size: 64x64, steps: 2}\n"
        "jobs: [{id: a, prompt: a, image: shop.png}, {id: b, prompt: a, image: shop.png}, c]\n",
        encoding="utf-8",
    )
    night, edit = Night(tmp_path / "out"), manifest.load(path)
    night.folder(edit).path.mkdir(parents=True)
    night.folder(edit).inputs.write_text("a file where the folder belongs")
    assert counts(night.render(edit, hire=Unpacking)) == (1, 0, 2, 0)
