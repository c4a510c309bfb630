"""Manifests of one night whose folders lie on several disks: what one disk does not take costs its manifests alone."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from renderer.cli import notify, render
from renderer.cli.manifests import Loaded
from renderer.errors import EXIT_FAILED, DiskError, MachineError
from renderer.manifest.manifest import Manifest
from renderer.outputs.folder import OutputFolder
from renderer.outputs.summary import Summary
from renderer.planning.plan import make_plan
from renderer.report import best
from renderer.supervisor import batch, events, run
from renderer.system import files
from tests.fakes import InlineWorker
from tests.making import make_manifest
from tests.supervisor.running import Night, counts
from tests.supervisor.test_several import Workers
from tests.supervisor.test_together import of


def go(night: Night, *manifests: Manifest, **changes: object) -> dict[str, Summary]:
    settings = dataclasses.replace(night.settings, **changes)  # type: ignore[arg-type]
    return {each.name: each for each in run.render(manifests, settings, night.heard.append, night.stop)}


def three() -> list[Manifest]:
    return [of(make_manifest("abcd"), name) for name in ("one", "two", "three")]


def put_on(disk: Path, night: Night, *manifests: Manifest) -> None:
    """Have these manifests' folders lie on another disk."""
    for manifest in manifests:
        (disk / manifest.name).mkdir(parents=True)
        night.folder(manifest).path.symlink_to(disk / manifest.name)


def fill(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the folders of these manifests take no picture."""
    write_whole = files.write_whole

    def full(path: Path, data: bytes, *, lasting: bool = True, guard: files.WriteGuard) -> None:
        if path.suffix == ".png" and path.parent.name in names:
            raise files.disk_error(path, OSError(28, "No space left on device"))
        write_whole(path, data, lasting=lasting, guard=guard)

    monkeypatch.setattr(files, "write_whole", full)


def test_a_disk_that_is_taken_out_costs_its_manifest(night: Night, tmp_path: Path) -> None:
    """In the middle of a sweep with pictures of all: the others are rendered, and the morning hears of it."""
    manifests = one, *_ = three()
    put_on(tmp_path / "usb", night, one)

    def watch(what: events.Event) -> None:
        night.heard.append(what)
        if isinstance(what, events.PictureDone) and what.item.batch == "one":
            (tmp_path / "usb").rename(tmp_path / "pocket")

    settings = dataclasses.replace(night.settings, hire=Workers(capacity=6))
    summaries = run.render(manifests, settings, watch, night.stop)
    assert [(each.ending, each.rendered) for each in summaries] == [("error", 1), ("complete", 4), ("complete", 4)]
    assert "which is not there (mount or make what it leads to" in summaries[0].error
    assert render.exit_code(summaries, Loaded(tuple(manifests))) == EXIT_FAILED
    told = notify._at_the_end(summaries, (), None)
    assert (told.good, "stopped with an error: cannot write" in told.body) == (False, True)
    (remark,) = night.of(events.Remark)
    assert remark.text.endswith("one ends here, and two, three go on, on another disk")


def test_a_full_disk_costs_all_manifests_of_it_and_no_others(
    night: Night, monkeypatch: pytest.MonkeyPatch, other_disk: Path
) -> None:
    """The two that share it end at once, with nothing rendered in vain; with `strict` the night ends."""
    manifests = one, two, _ = three()
    put_on(other_disk, night, one, two)
    fill(monkeypatch, "one", "two")
    found = go(night, *manifests)
    assert {name: (each.ending, each.rendered) for name, each in found.items()} == {
        "one": ("error", 0),
        "two": ("error", 0),
        "three": ("complete", 4),
    }
    assert "No space left" in found["two"].error
    assert len([what for what in night.of(events.PictureBegan) if what.item.batch == "two"]) <= 1
    with pytest.raises(DiskError, match="No space left"):
        go(night, *manifests, strict=True, force=True)


def test_the_morning_s_sheet_shows_what_is_there(night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thumbnail has no room on the full disk of one, and another's pictures are gone: the others are shown."""
    manifests = three()
    go(night, *manifests)
    plans = [make_plan(manifest, tmp_path) for manifest in manifests]
    shutil.rmtree(plans[2].folder.path)
    write = OutputFolder.write

    def full(folder: OutputFolder, path: Path, data: bytes) -> None:
        if folder == plans[0].folder:
            raise DiskError("cannot write thumbs: No space left on device")
        write(folder, path, data)

    monkeypatch.setattr(OutputFolder, "write", full)
    sheet = tmp_path / "sheet.jpg"
    assert best.write_sheet(sheet, [(plan, {"p000"}) for plan in plans])
    with Image.open(sheet) as image:
        side = image.width // 3
        shown = [image.crop((place * side + 20, 20, (place + 1) * side - 20, 120)).getextrema() for place in range(3)]
    assert [darkest != ((255, 255),) * 3 for darkest in shown] == [True, True, False]


def test_the_last_disk_that_is_full_ends_the_night(
    night: Night, monkeypatch: pytest.MonkeyPatch, other_disk: Path
) -> None:
    manifests = one, *_ = three()
    put_on(other_disk, night, one)
    fill(monkeypatch, "one", "two", "three")
    with pytest.raises(DiskError, match="No space left"):
        go(night, *manifests)
    assert {what.summary.ending for what in night.of(events.BatchEnded)} == {"error"}


def test_a_disk_that_is_not_there_at_the_beginning_costs_its_manifest(night: Night, tmp_path: Path) -> None:
    manifests = one, *_ = three()
    put_on(tmp_path / "usb", night, one)
    shutil.rmtree(tmp_path / "usb")
    found = go(night, *manifests)
    assert [counts(each) for each in found.values()] == [(0, 0, 0, 4), (4, 0, 0, 0), (4, 0, 0, 0)]
    assert "is a link to" in found["one"].error
    with pytest.raises(DiskError, match="is a link to"):
        go(night, one)


def test_pictures_are_held_against_the_disk_that_they_go_to(
    night: Night, monkeypatch: pytest.MonkeyPatch, other_disk: Path
) -> None:
    """A small disk holds one manifest's not, and that one is refused before it begins; the others have room."""
    manifests = one, *_ = three()
    put_on(other_disk, night, one)
    monkeypatch.setattr("renderer.machine.hardware.free_disk_bytes", lambda path: 100 if path.name == "one" else 10**12)
    found = go(night, *manifests)
    assert [counts(each) for each in found.values()] == [(0, 0, 0, 4), (4, 0, 0, 0), (4, 0, 0, 0)]
    told = rf"4 pictures take \d+ kB in {re.escape(str(night.folder(one).path))} at the least"
    assert re.search(told, found["one"].error)
    with pytest.raises(MachineError, match="pictures take"):
        go(night, *manifests, strict=True)


def test_a_summary_that_cannot_be_written_is_no_good_ending(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pictures are there; still the morning hears that something is wrong."""

    def lost(*_: object) -> None:
        raise DiskError("cannot write summary.json: Permission denied")

    monkeypatch.setattr(batch, "write_summary", lost)
    summary = go(night, make_manifest(), hire=InlineWorker)["test"]
    assert (summary.ending, summary.rendered, summary.error) == (
        "error",
        3,
        "cannot write summary.json: Permission denied",
    )
