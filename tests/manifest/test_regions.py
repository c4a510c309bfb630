"""What a manifest says of regions: prompts and masks for each combination, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from renderer.errors import ManifestError
from renderer.job import Picture
from renderer.manifest import manifest, replay
from renderer.manifest.replay import ReplayEntry
from renderer.outputs import input_files
from renderer.outputs.folder import OutputFolder
from tests.nights import make_night

EDIT = "model: Qwen/Qwen-Image-Edit-2511, images: [wide.png], size: 512x512, steps: 40"
LONG = "{x}" * 1001


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Masks and pictures."""
    for name, size in {"left": (64, 64), "right": (128, 128), "wide": (96, 64)}.items():
        Image.linear_gradient("L").resize(size).save(tmp_path / f"{name}.png")
    return tmp_path


def loaded(folder: Path, job: str) -> manifest.Manifest:
    path = folder / "job.yaml"
    path.write_text(f"defaults: {{model: demo, prompt: a, steps: 4, size: 64x64}}\njobs: [{job}]", encoding="utf-8")
    return manifest.load(path)


def pictures(folder: Path, job: str) -> tuple[Picture, ...]:
    return loaded(folder, job).pictures


def test_prompts_and_masks_have_the_matrix_names(folder: Path) -> None:
    """Of each picture its own; masks go in as masks, and name nothing."""
    job = '{id: "{side}", matrix: {side: [left, right]}, regions: [{prompt: "on the {side}", mask: "{side}.png"}]}'
    first, second = pictures(folder, job)
    assert [each.job.regions[0].prompt for each in (first, second)] == ["on the left", "on the right"]
    assert first.job.mask_inputs == first.job.inputs == (first.job.regions[0].mask,)
    assert Path(second.inputs[0].path).name == "right.png"
    assert first.place.matrix == {"side": "left"}


def test_over_a_picture(folder: Path) -> None:
    """Each file of a pattern has its regions."""
    (folder / "photos").mkdir()
    Image.new("RGB", (64, 64), "teal").save(folder / "photos/shop.png")
    (found,) = pictures(folder, "{image: photos/*.png, regions: [{prompt: '{stem}', mask: left.png}]}")
    assert found.job.input_image is not None
    assert found.job.regions[0].prompt == "shop"
    assert [Path(each.path).name for each in found.inputs] == ["shop.png", "left.png"]


def test_a_model_that_has_learned_none_is_doubted(folder: Path) -> None:
    job = "{model: Qwen/Qwen-Image, steps: 40, size: '1:1', regions: [{prompt: a, mask: left.png}]}"
    (doubt,) = map(str, loaded(folder, job).warnings)
    assert "has not learned regions by itself" in doubt


def test_a_choice_that_is_none_is_doubted(folder: Path) -> None:
    """A prompt has choices, and a region's has none."""
    (doubt,) = map(str, loaded(folder, "{regions: [{prompt: 'a {{red|blue}} car', mask: left.png}]}").warnings)
    assert "regions[0].prompt: has what looks like a choice, and none is drawn in a region" in doubt


def test_they_come_back(folder: Path) -> None:
    """With the masks that were kept, and what stands beside the picture."""
    regions = "[{prompt: 'a {{b}}', mask: left.png}, {prompt: c, mask: right.png}]"
    asked = loaded(folder, f"{{regions: {regions}, context_image: right.png}}")
    make_night(asked, folder / "out")
    for source in asked.pictures[0].inputs:
        input_files.keep(OutputFolder(folder / "out/job"), source)
    (entry,) = replay.collect([folder / "out/job/001.png"])
    assert isinstance(entry, ReplayEntry)
    assert replay.as_manifest([entry]).pictures[0].job == asked.pictures[0].job


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("{regions: [{prompt: a, mask: none.png}]}", "regions[0].mask: there is no file none.png"),
        ("{regions: [{prompt: a}]}", "regions[0].mask: is missing"),
        ("{regions: [{mask: left.png}]}", "regions[0].prompt: is missing"),
        ("{regions: [{prompt: ' ', mask: left.png}]}", "regions[0].prompt: must not be empty"),
        ("{regions: [{prompt: a, mask: left.png, maks: b}]}", 'did you mean "mask"'),
        ("{regions: [a]}", "must be a mapping"),
        ("{regions: []}", "must not be empty"),
        ("{regions: [{prompt: a, mask: wide.png}]}", "regions[0].mask: is 96x64, and the picture 64x64"),
        ("{regions: [{prompt: a, mask: '*.png'}]}", "no file *.png"),
        ("{regions: [{prompt: '{y}', mask: left.png}], matrix: {x: [a]}}", "{y} is not a name of the matrix"),
        ("{regions: [{prompt: '{x}', mask: left.png}], matrix: {x: ['{{a|b}}']}}", "and no region is"),
        ("{regions: [{prompt: '{x}', mask: left.png}], matrix: {x: [a, '']}}", "[0].prompt: is empty for one"),
        (f"{{regions: [{{prompt: '{LONG}', mask: left.png}}], matrix: {{x: [aaaaaaaaaa]}}}}", "10,010 characters"),
        ("{entities: [a]}", "write regions"),
        (f"{{{EDIT}, regions: [{{prompt: a, mask: left.png}}]}}", "has no regions"),
    ],
)
def test_problems(folder: Path, job: str, said: str) -> None:
    """Each with its place."""
    with pytest.raises(ManifestError) as caught:
        pictures(folder, job)
    (problem,) = map(str, caught.value.problems)
    assert said in problem
