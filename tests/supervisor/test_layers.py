"""Pictures that are taken apart: all files of one are there, and right, or it is not done; nothing is left over."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from renderer.job import Job, Keep, Picture
from renderer.manifest.manifest import Manifest
from renderer.outputs import done, picture_files
from renderer.outputs.folder import OutputFolder
from renderer.planning import prune
from renderer.planning.plan import make_plan
from renderer.report import exporting, gather
from renderer.report.gallery import Gallery
from renderer.system.files import PART_PREFIX, WritePoint, disk_error
from tests.fakes import draw, draw_layers
from tests.making import make_manifest, pixels_of
from tests.supervisor.test_torture import run_until_killed


def of_layers(count: int | None, **keep: str) -> Manifest:
    """Two pictures of so many layers."""
    plain = make_manifest(("a", "b"))
    update = {"layer_num": count}
    pictures = [
        one.model_copy(update={"job": one.job.model_copy(update=update), "keep": Keep(**keep)})
        for one in plain.pictures
    ]
    return Manifest(plain.file, plain.name, tuple(pictures))


def renamed(manifest: Manifest) -> Manifest:
    """The same pictures, each under the other's name."""
    outputs = [one.output for one in reversed(manifest.pictures)]
    pictures = zip(manifest.pictures, outputs, strict=True)
    return Manifest(
        manifest.file, manifest.name, tuple(one.model_copy(update={"output": name}) for one, name in pictures)
    )


def rgba(path: Path) -> bytes:
    with Image.open(path) as image:
        assert image.mode == "RGBA"
        return image.tobytes()


def texts(path: Path) -> dict[str, str]:
    with PngImageFile(path) as image:
        return dict(image.text)


def check(folder: OutputFolder, pictures: tuple[Picture, ...]) -> int:
    """Every sidecar that has its picture has all layers too, those of its own job; how many there are."""
    found = 0
    for name in {one.output for one in pictures}:
        there = done.find(folder, name)
        if there is None or not there.is_whole(folder, thorough=True):
            continue
        sidecar = picture_files.read_sidecar(folder.sidecar(name))
        assert sidecar is not None
        job: Job = sidecar.job
        assert pixels_of(folder.path / sidecar.file.name) == draw(job)
        assert [rgba(folder.path / layer.name) for layer in sidecar.layers] == draw_layers(job)
        found += 1
    return found


def pictures_in(folder: OutputFolder) -> set[str]:
    named = {path.name for path in folder.path.iterdir() if path.suffix in {".png", ".webp"}}
    return named - {"contact-sheet.png"}


def files_of(names: list[str], layers: int, suffix: str = ".png") -> set[str]:
    return {f"{name}{suffix}" for name in names} | {
        f"{name}.layer-{number}.png" for name in names for number in range(1, layers + 1)
    }


BOTH = ["p000", "p001"]


@pytest.mark.parametrize("point", ["part-written", "renamed"])
@pytest.mark.parametrize("passing", [2, 4, 7])
def test_death_while_they_are_written(tmp_path: Path, point: WritePoint, passing: int) -> None:
    manifest = of_layers(2)
    folder = OutputFolder(tmp_path / manifest.name)
    assert run_until_killed(tmp_path, die_at=(point, passing), manifest=manifest) == signal.SIGKILL
    check(folder, manifest.pictures)
    assert run_until_killed(tmp_path, manifest=manifest) == 0
    assert check(folder, manifest.pictures) == 2
    assert pictures_in(folder) == files_of(BOTH, 2)
    sidecar = picture_files.read_sidecar(folder.sidecar("p000"))
    assert sidecar is not None
    assert [(each.covered, each.box) for each in sidecar.layers] == [(0.5, (0, 0, 64, 32))] * 2


@pytest.mark.parametrize("passing", [None, 5])
def test_what_is_a_layer_too_many_goes(tmp_path: Path, passing: int | None) -> None:
    """Three layers become one: whether or not the run dies on its way, no file of the old ones stays in the end."""
    before, after = of_layers(3), of_layers(1)
    folder = OutputFolder(tmp_path / before.name)
    assert run_until_killed(tmp_path, manifest=before) == 0
    if passing is not None:
        assert run_until_killed(tmp_path, die_at=("renamed", passing), manifest=after) == signal.SIGKILL
    assert run_until_killed(tmp_path, manifest=after) == 0
    assert check(folder, after.pictures) == 2
    assert pictures_in(folder) == files_of(BOTH, 1)


@pytest.mark.parametrize("passing", [None, 3])
def test_they_move_with_their_picture(tmp_path: Path, passing: int | None) -> None:
    """Two pictures change places: layers go with them, and nothing is rendered again, whenever the run dies."""
    before = of_layers(2)
    after, folder = renamed(before), OutputFolder(tmp_path / before.name)
    assert run_until_killed(tmp_path, manifest=before) == 0
    if passing is not None:
        assert run_until_killed(tmp_path, die_at=("linked", passing), manifest=after) == signal.SIGKILL
        plan = make_plan(after, tmp_path)
        assert not plan.to_render()
    assert run_until_killed(tmp_path, manifest=after) == 0
    assert check(folder, after.pictures) == 2
    assert pictures_in(folder) == files_of(BOTH, 2)
    for one in after.pictures:
        assert rgba(folder.layer(one.output, 2)) == draw_layers(one.job)[1]


def test_kept_another_way(tmp_path: Path) -> None:
    """Layers stay PNGs, with every value; what the files say of themselves goes where that is asked for."""
    before, after = of_layers(2), of_layers(2, format="webp", embed="none")
    folder = OutputFolder(tmp_path / before.name)
    assert run_until_killed(tmp_path, manifest=before) == 0
    told = texts(folder.layer("p000", 1))
    assert '"layer_num":2' in told["renderer"]
    assert "Layers: 2" in told["parameters"]
    assert run_until_killed(tmp_path, manifest=after) == 0
    assert check(folder, after.pictures) == 2
    assert pictures_in(folder) == files_of(BOTH, 2, ".webp")
    assert not texts(folder.layer("p000", 1))


def full_after(writes: int) -> Callable[[], None]:
    """A disk that takes so many more files of pictures, and then nothing."""

    def fill() -> None:
        left, write = writes, OutputFolder.write

        def written(folder: OutputFolder, path: Path, data: bytes, *, lasting: bool = True) -> None:
            nonlocal left
            left -= folder.aside in path.parents or path.stem.startswith(("p0", f"{PART_PREFIX}change"))
            if left < 0:
                raise disk_error(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            write(folder, path, data, lasting=lasting)

        pytest.MonkeyPatch().setattr(OutputFolder, "write", written)

    return fill


@pytest.mark.parametrize("layers", [2, None])
def test_a_disk_that_fills_while_labels_are_written_costs_nothing(tmp_path: Path, layers: int | None) -> None:
    """Wherever it does: all files stay as they were, or are whole beside, and nothing is rendered again."""
    before, after = of_layers(layers), of_layers(layers, embed="none")
    folder = OutputFolder(tmp_path / before.name)
    assert run_until_killed(tmp_path, manifest=before) == 0
    for writes in range(9):
        run_until_killed(tmp_path, manifest=after if writes % 2 else before, prepare=full_after(writes))
        assert not make_plan(before, tmp_path).to_render()
    assert run_until_killed(tmp_path, manifest=after) == 0
    assert check(folder, after.pictures) == 2
    assert pictures_in(folder) == files_of(BOTH, layers or 0)
    assert not folder.aside.exists()
    assert not texts(folder.picture("p000"))


@pytest.mark.parametrize("spoilt", ["gone", "cut"])
def test_a_picture_that_lacks_a_layer_is_not_done(tmp_path: Path, spoilt: str) -> None:
    manifest = of_layers(2)
    folder = OutputFolder(tmp_path / manifest.name)
    assert run_until_killed(tmp_path, manifest=manifest) == 0
    layer = folder.layer("p001", 2)
    if spoilt == "gone":
        layer.unlink()
    else:
        layer.write_bytes(layer.read_bytes()[:-9])
    assert [item.picture.output for item in make_plan(manifest, tmp_path).to_render()] == ["p001"]
    assert run_until_killed(tmp_path, manifest=manifest) == 0
    assert check(folder, manifest.pictures) == 2


def test_the_page_tells_of_them(tmp_path: Path) -> None:
    """How much of the picture each covers, and files that a server hands out."""
    manifest = of_layers(2)
    item = make_plan(manifest, tmp_path).items[0]
    assert "layer_files" not in gather.describe(item)
    assert run_until_killed(tmp_path, manifest=manifest) == 0
    item = make_plan(manifest, tmp_path).items[0]
    layers = [{"file": f"p000.layer-{number}.png", "covered": 0.5} for number in (1, 2)]
    assert gather.describe(item)["layer_files"] == layers
    gallery = Gallery(manifest, tmp_path)
    served = gallery.file("p000.layer-2.png")
    assert served is not None
    assert served.path.is_file()
    assert gallery.file("p000.layer-3.png") is None


def test_export_and_prune_take_them_along(tmp_path: Path) -> None:
    manifest = of_layers(2)
    folder = OutputFolder(tmp_path / manifest.name)
    assert run_until_killed(tmp_path, manifest=manifest) == 0
    exporting.export([make_plan(manifest, tmp_path)], tmp_path / "out")
    assert files_of(BOTH, 2) <= {path.name for path in (tmp_path / "out").iterdir()}
    fewer = Manifest(manifest.file, manifest.name, manifest.pictures[:1])
    orphans = prune.look(make_plan(fewer, tmp_path))
    wanted = ["p001.png", "p001.json", "p001.layer-1.png", "p001.layer-2.png"]
    assert orphans.bytes == sum((folder.path / name).stat().st_size for name in wanted)
    prune.remove(orphans)
    assert pictures_in(folder) == files_of(BOTH[:1], 2)
    layer = folder.layer("p000", 1)
    layer.write_bytes(layer.read_bytes() + b"mine")
    assert prune.look(make_plan(Manifest(manifest.file, manifest.name, ()), tmp_path)).changed == ("p000",)
