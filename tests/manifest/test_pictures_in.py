"""What a manifest says of pictures that go in: found, measured, and every one a picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from renderer.errors import ManifestError
from renderer.job import Picture
from renderer.manifest import manifest


def write(folder: Path, text: str, **sizes: tuple[int, int]) -> Path:
    """A manifest, and pictures of these sizes beside it."""
    for name, size in sizes.items():
        path = folder / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", size, "teal").save(path)
    path = folder / "edit.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def pictures(folder: Path, text: str, **sizes: tuple[int, int]) -> tuple[Picture, ...]:
    return manifest.load(write(folder, text, **sizes)).pictures


def problem(folder: Path, text: str, **sizes: tuple[int, int]) -> str:
    with pytest.raises(ManifestError) as caught:
        manifest.load(write(folder, text, **sizes))
    return "\n".join(map(str, caught.value.problems))


class TestFound:
    def test_a_pattern_is_a_picture_a_file(self, tmp_path: Path) -> None:
        """In the order of names; the id says which, and masks are named after them."""
        text = """
defaults: {model: demo}
jobs:
  - id: "sign-{stem}"
    image: photos/*.png
    mask: masks/{stem}.png
    prompt: "{stem} says {word}"
    matrix: {word: [OPEN, 营业中]}
"""
        sizes = dict.fromkeys(("photos__b", "photos__a", "masks__a", "masks__b"), (64, 64))
        found = pictures(tmp_path, text, **sizes)
        assert [each.id for each in found] == ["sign-a-OPEN", "sign-b-OPEN", "sign-a-营业中", "sign-b-营业中"]
        assert [each.job.prompt for each in found][:2] == ["a says OPEN", "b says OPEN"]
        assert found[0].place.matrix == {"word": "OPEN", "stem": "a"}
        assert [Path(each.path).name for each in found[1].inputs] == ["b.png", "b.png"]
        assert found[0].job.denoising_strength == 1

    def test_the_size_is_the_images_shape(self, tmp_path: Path) -> None:
        """Scaled to the model's usual area; one that is given wins."""
        text = "defaults: {model: demo, image: wide.png}\njobs: [a, {prompt: b, size: 128x128}]"
        first, second = pictures(tmp_path, text, wide=(300, 100))
        assert (first.job.width, first.job.height) == (384, 128) or first.job.width / first.job.height > 2.5
        assert (second.job.width, second.job.height) == (128, 128)
        assert first.job.denoising_strength == 0.6

    def test_a_changed_picture_is_a_changed_job(self, tmp_path: Path) -> None:
        """By its pixels, not its name."""
        text = "defaults: {model: demo}\njobs: [{prompt: a, image: one.png}, {prompt: a, image: two.png, id: b}]"
        first, second = pictures(tmp_path, text, one=(64, 64), two=(64, 64))
        assert first.job == second.job
        (third, _) = pictures(tmp_path, text, one=(64, 48))
        assert third.job.input_image != first.job.input_image

    def test_without_pictures_nothing_changes(self, tmp_path: Path) -> None:
        """Braces are braces, and a job has no inputs."""
        (found,) = pictures(tmp_path, 'jobs: [{prompt: "{stem}", model: demo}]')
        assert (found.job.prompt, found.job.inputs, found.inputs) == ("{stem}", (), ())


class TestProblems:
    @pytest.mark.parametrize(
        ("job", "words"),
        [
            ("{prompt: a, image: none.png}", "edit.yaml:1:53 jobs[0].image: there is no file none.png"),
            ("{prompt: a, image: '*.jpg'}", "fits no file"),
            ("{prompt: a, image: edit.yaml}", "it is no picture"),
            ("{prompt: a, mask: one.png}", "jobs[0].mask: needs an image"),
            ("{prompt: a, strength: 0.5}", "jobs[0].strength: needs an image"),
            ("{prompt: a, image: one.png, strength: 0}", "0 is out of range"),
            ("{prompt: a, image: one.png, strength: 2}", "2.0 is out of range"),
            ("{prompt: a, image: one.png, mask_blur: 2}", "jobs[0].mask_blur: needs a mask"),
            ("{prompt: a, image: one.png, mask: wide.png}", "a mask has the image's shape"),
            ("{prompt: '{sten}', image: one.png}", "{sten} is not a name"),
            ("{prompt: a, image: ''}", "image"),
            ("{prompt: a, init_image: one.png}", "write image"),
            ("{prompt: a, denoising_strength: 1}", "write strength"),
        ],
    )
    def test_each_has_its_line(self, tmp_path: Path, job: str, words: str) -> None:
        text = f"{{defaults: {{model: demo}}, jobs: [{job}]}}"
        assert words in problem(tmp_path, text, one=(64, 64), wide=(640, 64))

    def test_files_are_counted_when_they_are_found(self, tmp_path: Path) -> None:
        """A pattern cannot make more pictures than are allowed."""
        text = "max_pictures: 2\ndefaults: {model: demo}\njobs: [{prompt: a, image: '*.png'}]"
        assert "more than the 2 pictures" in problem(tmp_path, text, a=(64, 64), b=(64, 64), c=(64, 64))

    def test_a_strength_that_does_nothing_is_doubted(self, tmp_path: Path) -> None:
        text = "{defaults: {model: demo}, jobs: [{prompt: a, image: one.png, strength: 1}]}"
        (doubt,) = manifest.load(write(tmp_path, text, one=(64, 64))).warnings
        assert "leaves nothing of the image" in doubt.message
