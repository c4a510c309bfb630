"""What a manifest says of pictures that go in: found, measured, and every one a picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from renderer.catalog import Layering
from renderer.demo.tokenizer import PICTURE_TOKENS, SPECIAL_TOKENS
from renderer.errors import ManifestError
from renderer.families import QWEN_IMAGE_FAMILY
from renderer.job import Input, ModelIdentity, Picture, Size, fingerprint
from renderer.manifest import manifest
from renderer.manifest.pictures_in import InputSet, is_of_shape

INPAINT = "DiffSynth-Studio/Qwen-Image-Blockwise-ControlNet-Inpaint"


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
            ("{prompt: a, image: .}", ". is a folder (name a file in it"),
            ("{prompt: a, image: 'https://a.org/b.png'}", "there is no file https://a.org/b.png (nothing is fetched"),
            ("{prompt: a, image: 'data:image/png;base64,aGk='}", "(nothing is fetched: name a file on this machine)"),
            ("{prompt: a, image: One.PNG}", '(did you mean "one.png"?)'),
            ("{prompt: a, image: ./onne.png}", '(did you mean "./one.png"?)'),
            ("{prompt: a, image: none/one.png}", "(paths are from the manifest's folder)"),
            ("{prompt: a, image: 'a\\b.png'}", "(write / between folders)"),
            ("{prompt: a, image: one.png, mask: 'm*.png'}", "a mask is one file; {stem} in it stands for"),
            ("{prompt: a, image: '*.PNG'}", "fits no file (one.png has its ending in another case)"),
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


class TestEdits:
    """`images`, for a model that edits: the catalogue's are named, and none of their files is looked at."""

    DEFAULTS = "defaults: {model: Qwen/Qwen-Image-Edit-2511}\n"

    def test_of_several_pictures(self, tmp_path: Path) -> None:
        """In their order, of the first one's shape, and as the model takes pictures."""
        text = f"{self.DEFAULTS}jobs: [{{images: [a.png, b.png], prompt: x}}]"
        (picture,) = pictures(tmp_path, text, a=(200, 100), b=(64, 64))
        job = picture.job
        assert job.edit is not None
        assert [(image.width, image.height) for image in job.edit.images] == [(200, 100), (64, 64)]
        assert (job.edit.pixels, job.edit.numbered, job.edit.zero_cond_t) == (1024 * 1024, True, True)
        assert (job.width, job.height) == (1440, 736)
        assert (job.input_image, job.denoising_strength) == (None, 1.0)
        assert [Path(file.path).name for file in picture.inputs] == ["a.png", "b.png"]

    def test_one_picture_twice_is_doubted(self, tmp_path: Path) -> None:
        """By its pixels, whatever it is called."""
        path = write(tmp_path, f"{self.DEFAULTS}jobs: [{{images: [a.png, b.png], prompt: x}}]", a=(64, 64), b=(64, 64))
        (doubt,) = manifest.load(path).warnings
        assert "jobs[0].images: has one picture twice" in str(doubt)

    def test_a_pattern_beside_another_picture(self, tmp_path: Path) -> None:
        """Each file that fits makes a picture, with the others; `{stem}` is its name, in other paths as well."""
        text = f"{self.DEFAULTS}jobs: [{{id: '{{stem}}', images: ['p/*.png', 'style-{{stem}}.png'], prompt: x}}]"
        found = pictures(tmp_path, text, p__a=(64, 64), p__b=(64, 96), **{"style-a": (64, 64), "style-b": (32, 32)})
        assert [picture.id for picture in found] == ["a", "b"]
        assert [Path(file.path).name for file in found[1].inputs] == ["b.png", "style-b.png"]

    def test_within_a_mask(self, tmp_path: Path) -> None:
        """It is of the first picture, over which is drawn, and which the model looks at as well."""
        text = f"{self.DEFAULTS}jobs: [{{images: [a.png, b.png], mask: m.png, prompt: x}}]"
        (picture,) = pictures(tmp_path, text, a=(64, 64), b=(32, 64), m=(64, 64))
        job = picture.job
        assert job.edit is not None
        assert job.input_image == job.edit.images[0]
        assert [each.sha256 for each in job.inputs] == [file.sha256 for file in picture.inputs]

    def test_what_goes_in_counts(self, tmp_path: Path) -> None:
        """Another pixel, another order, another model's way: other pictures. Another name: the same."""
        ways = ["[a.png, b.png]", "[b.png, a.png]", "[a.png]", "[same-as-a.png]"]
        jobs = "".join(f"\n- {{images: {way}, prompt: x, seed: 1, size: '1:1'}}" for way in ways)
        found = pictures(tmp_path, f"{self.DEFAULTS}jobs:{jobs}", a=(64, 64), b=(32, 32), **{"same-as-a": (64, 64)})
        identity = ModelIdentity(id="m", revision="1")
        prints = [fingerprint(picture.job, identity) for picture in found]
        assert prints[2] == prints[3]
        assert len(set(prints)) == 3

    @pytest.mark.parametrize(
        ("job", "said"),
        [
            ("{model: Qwen/Qwen-Image, images: [a.png]}", r"images: Qwen/Qwen-Image edits no pictures"),
            (
                "{model: Qwen/Qwen-Image-Edit, image: a.png}",
                r"image: Qwen/Qwen-Image-Edit edits pictures, and draws",
            ),
            (
                "{model: Qwen/Qwen-Image-Edit, images: [a.png, a.png]}",
                r"images\[1\]: .* edits one picture, and here are 2",
            ),
            ("{images: [a.png, gone.png]}", r"images\[1\]: there is no file gone\.png"),
            ("{images: [a.png], strength: 0.5}", "strength: does nothing without a mask"),
            ("{images: ['*.png', '?.png']}", r"images\[1\]: a second pattern"),
            (f"{{images: ['{'?' * 300}']}}", r"images: \?+.* fits no file"),
            ("{images: [a.png, line.png]}", r"images\[1\]: line\.png is 6000x10 .*100 times"),
            ("{images: [a.png], image: a.png}", "image: cannot stand beside images"),
            ("{images: a.png}", "images: must be a list"),
        ],
    )
    def test_refused(self, tmp_path: Path, job: str, said: str) -> None:
        """What does not fit, with the field and the place in it."""
        text = f"{self.DEFAULTS}jobs:\n- {job[:-1]}, prompt: x}}"
        assert re.search(rf"^edit\.yaml:3:\d+ jobs\[0\]\.{said}", problem(tmp_path, text, a=(64, 64), line=(6000, 10)))

    def test_names_with_brackets_are_no_patterns(self, tmp_path: Path) -> None:
        """Browsers call what is downloaded twice so; what is there is meant."""
        text = f"{self.DEFAULTS}jobs: [{{images: ['a[1].png', 'a[2].png'], prompt: x}}]"
        (picture,) = pictures(tmp_path, text, **{"a[1]": (64, 64), "a[2]": (32, 32)})
        assert [Path(file.path).name for file in picture.inputs] == ["a[1].png", "a[2].png"]

    def test_more_than_three_are_doubted(self, tmp_path: Path) -> None:
        """It is valid, and more than the models were made for."""
        text = f"{self.DEFAULTS}jobs:\n- {{images: [a.png, b.png, c.png], prompt: x}}\n- {{images: [%s], prompt: x}}"
        sizes = {name: (64, 64 + place) for place, name in enumerate("abcd")}
        found = manifest.load(write(tmp_path, text % "a.png, b.png, c.png, d.png", **sizes)).warnings
        assert [(each.line, each.path) for each in found] == [(4, "jobs[1].images")]
        assert "4 pictures, and Qwen/Qwen-Image-Edit-2511 has learned from one to 3" in found[0].message

    def test_rehearsed(self, tmp_path: Path) -> None:
        """The demo model that edits is shown the first picture, as it takes one, and draws one of its shape."""
        path = write(tmp_path, f"{self.DEFAULTS}jobs: [{{images: [a.png, b.png], prompt: x}}]", a=(96, 54), b=(32, 32))
        (picture,) = manifest.load(path, manifest.Overrides(proof=True)).pictures
        assert (picture.job.model, picture.job.input_image) == ("demo-edit", None)
        assert picture.job.edit is not None
        (shown,) = picture.job.edit.images
        assert (shown.width, picture.job.edit.numbered, picture.job.edit.zero_cond_t) == (96, False, True)
        assert (picture.job.width, picture.job.height) == (352, 192)
        assert picture.job.edit.size_of(shown) == Size(width=352, height=192)


class TestTakenApart:
    LAYERED = "{defaults: {model: Qwen/Qwen-Image-Layered, images: [a.png]}, jobs: [%s]}"

    def test_what_a_job_has(self, tmp_path: Path) -> None:
        """Layers as they are asked for, or four; a size of the picture's shape, of 640x640 pixels or so."""
        usual, two = pictures(tmp_path, self.LAYERED % "a, {prompt: b, layers: 2, size: 1024x1024}", a=(300, 200))
        assert (usual.job.layer_num, usual.job.layers, usual.job.edit) == (4, 4, None)
        assert (usual.job.width, usual.job.height) == (784, 528)
        assert (two.job.layer_num, two.job.width) == (2, 1024)
        assert usual.job.inputs == two.job.inputs == (usual.job.layer_input_image,)
        other = ModelIdentity(id="x")
        assert fingerprint(usual.job, other) != fingerprint(usual.job.model_copy(update={"layer_num": 3}), other)

    def test_transparency_counts(self, tmp_path: Path) -> None:
        """Two pictures that differ in nothing that is seen are two jobs, where what is transparent stays so."""
        text = "{defaults: {model: %s}, jobs: [{prompt: a, %s, id: a}, {prompt: a, %s, id: b}]}"
        for name, alpha in (("one", 0), ("two", 255)):
            Image.new("RGBA", (64, 64), (255, 255, 255, alpha)).save(tmp_path / f"{name}.png")
        one, two = pictures(tmp_path, text % ("Qwen/Qwen-Image-Layered", "images: [one.png]", "images: [two.png]"))
        assert one.job.layer_input_image != two.job.layer_input_image
        one, two = pictures(tmp_path, text % ("demo", "image: one.png", "image: two.png"))
        assert one.job == two.job

    @pytest.mark.parametrize(
        ("job", "words"),
        [
            ("{prompt: a, layers: 0}", "jobs[0].layers: 0 is out of range"),
            ("{prompt: a, layers: 17}", "jobs[0].layers: 17 is out of range"),
            ("{prompt: a, images: [a.png, a.png]}", "takes one picture apart, and here are 2"),
            ("{prompt: a, mask: a.png}", "jobs[0].mask: Qwen/Qwen-Image-Layered takes pictures apart, and draws over"),
            ("{prompt: a, strength: 0.5}", "jobs[0].strength: Qwen/Qwen-Image-Layered takes pictures apart"),
            (
                "{prompt: a, model: demo, layers: 2}",
                "demo takes no pictures apart (this does: Qwen/Qwen-Image-Layered)",
            ),
            ("{prompt: a, model: Qwen/Qwen-Image-Edit, layers: 2}", "Qwen/Qwen-Image-Edit takes no pictures apart"),
        ],
    )
    def test_problems(self, tmp_path: Path, job: str, words: str) -> None:
        assert words in problem(tmp_path, self.LAYERED % job, a=(64, 64))

    def test_without_a_picture(self, tmp_path: Path) -> None:
        text = "{defaults: {model: Qwen/Qwen-Image-Layered}, jobs: [a, {prompt: b, image: a.png}]}"
        told = problem(tmp_path, text, a=(64, 64))
        assert "takes a picture apart, and the job names none (images: [photo.png])" in told
        assert "write images: [photo.png]" in told

    def test_a_layer_is_no_picture_s_name(self, tmp_path: Path) -> None:
        """Whatever is asked for, no picture is where another's layer belongs."""
        found = pictures(tmp_path, "{defaults: {model: demo}, jobs: [{id: a.layer-1, prompt: a}, {id: a, prompt: b}]}")
        assert [each.output for each in found] == ["a.layer-1_", "a"]


class TestBeside:
    """A picture that stands beside the one that is drawn: `context_image`."""

    def test_it_gives_its_shape_and_its_name(self, tmp_path: Path) -> None:
        """Each file of a pattern is beside a picture of its own, in its shape."""
        text = "defaults: {model: demo}\njobs: [{id: '{stem}', prompt: a, context_image: edges/*.png}]"
        first, second = pictures(tmp_path, text, edges__a=(64, 64), edges__b=(300, 100))
        assert (first.id, second.id) == ("a", "b")
        assert first.job.context_image in first.job.inputs
        assert second.job.width > 2 * second.job.height
        assert Path(second.inputs[0].path).name == "b.png"

    def test_another_shape_is_a_problem(self, tmp_path: Path) -> None:
        """Than the size's, or than that of what is drawn over."""
        sized = "jobs: [{model: demo, prompt: a, size: 64x64, context_image: wide.png}]"
        assert "is 300x100, and the picture 64x64" in problem(tmp_path, sized, wide=(300, 100))
        over = "jobs: [{model: demo, prompt: a, image: a.png, context_image: wide.png}]"
        assert "context_image: is 300x100" in problem(tmp_path, over, wide=(300, 100), a=(64, 64))

    def test_models_that_edit_have_none(self, tmp_path: Path) -> None:
        text = "jobs: [{model: Qwen/Qwen-Image-Edit, prompt: a, images: [a.png], context_image: a.png}]"
        assert "has no picture beside one" in problem(tmp_path, text, a=(64, 64))

    def test_a_lora_has_learned_to_look_at_it(self, tmp_path: Path) -> None:
        """The catalogue's, which wants no steps and no guidance of its own, also beside one that does."""
        union, few = "DiffSynth-Studio/Qwen-Image-In-Context-Control-Union", "lightx2v/Qwen-Image-Lightning/4steps-V1.0"
        job = "{prompt: a, context_image: a.png, loras: [%s]}"
        text = f"jobs: [{job % union}, {job % f'{union}, {few}'}, {{prompt: b, context_image: a.png}}]"
        found = manifest.load(write(tmp_path, text, a=(64, 64)))
        assert [each.job.num_inference_steps for each in found.pictures] == [40, 4, 40]
        (doubt,) = map(str, found.warnings)
        assert f"has not learned to look at it by itself (write loras: [{union}])" in doubt


class TestMarks:
    """What a tokenizer takes for no text ends a message, or is a picture's place: in an edit it failed in the night."""

    @pytest.mark.parametrize("mark", ["<|image_pad|>", "<|im_end|>", "<|endoftext|>", "</tool_call>"])
    @pytest.mark.parametrize(
        ("field", "job"),
        [
            ("prompt", "prompt: 'to {where}'"),
            ("negative_prompt", "prompt: x, negative_prompt: 'no {where}'"),
            ("prompt", "model: Qwen/Qwen-Image-Edit-2511, images: [a.png], prompt: 'to {where}'"),
            (
                r"regions\[1\]\.prompt",
                "prompt: x, regions: [{prompt: y, mask: a.png}, {prompt: 'to {where}', mask: a.png}]",
            ),
        ],
    )
    def test_refused_wherever_they_stand(self, tmp_path: Path, mark: str, field: str, job: str) -> None:
        """With the field they are written in; as a matrix fills it."""
        text = f"jobs:\n- {{size: 512x512, {job}, matrix: {{where: [here, '{mark} there']}}}}"
        found = problem(tmp_path, text, a=(64, 64))
        assert re.search(rf":2:\d+ jobs\[0\]\.{field}: has {re.escape(mark)} in it", found)

    def test_what_only_looks_like_them(self, tmp_path: Path) -> None:
        """Text is text: other signs in brackets, and other ways to write the same."""
        wanted = ["<|IM_END|>", "<| im_end |>", "a | b > c", "<b>", "<|neon|>"]
        assert [each.job.prompt for each in pictures(tmp_path, f"jobs: {json.dumps(wanted)}")] == wanted

    def test_the_demos_are_among_them(self) -> None:
        assert {*SPECIAL_TOKENS, *PICTURE_TOKENS} <= {*QWEN_IMAGE_FAMILY.marks}


class TestMasksOfOneColour:
    """What is nowhere white does nothing, and what is all white leaves nothing: valid, and hardly meant."""

    @pytest.mark.parametrize(
        ("job", "said"),
        [
            (
                "{model: demo, image: a.png, mask: black.png}",
                ["mask: black.png is black all over: nothing of the image"],
            ),
            ("{model: demo, image: a.png, mask: white.png}", ["mask: white.png is white all over: nothing is left"]),
            ("{model: demo, image: a.png, mask: white.png, strength: 0.5}", []),
            ("{model: demo-edit, images: [a.png], mask: white.png}", []),
            ("{model: demo, image: a.png, mask: grey.png}", []),
            (
                "{model: demo, size: 64x64, regions: [{prompt: y, mask: white.png}, {prompt: z, mask: black.png}]}",
                ["regions[1].mask: black.png is black all over: its prompt is seen nowhere"],
            ),
            (
                f"{{size: 512x512, controlnets: [{{id: {INPAINT}, image: a.png, mask: black.png}}]}}",
                ["controlnets[0].mask: black.png is black all over: nothing of its image is a gap"],
            ),
        ],
    )
    def test_doubted(self, tmp_path: Path, job: str, said: list[str]) -> None:
        for name, value in {"black": 0, "white": 255, "grey": 128}.items():
            Image.new("L", (64, 64), value).save(tmp_path / f"{name}.png")
        found = manifest.load(write(tmp_path, f"jobs:\n- {job[:-1]}, prompt: x}}", a=(64, 64))).warnings
        assert len(found) == len(said)
        assert all(
            f"{each.path}: {each.message}".startswith(f"jobs[0].{what}") for each, what in zip(found, said, strict=True)
        )


def test_a_size_is_of_a_shape_but_for_its_rounding() -> None:
    """It is a multiple of 16 either way; a picture beside another has no such excuse."""
    photo = Input(sha256="a" * 64, width=1000, height=640)
    assert is_of_shape(photo, Size(width=192, height=128))  # 200 x 128, rounded
    assert not is_of_shape(photo, photo.model_copy(update={"width": 192, "height": 128}))
    assert not is_of_shape(photo, Size(width=1920, height=1280))


@pytest.mark.parametrize(("alone", "fields", "number"), [(False, {}, 4), (False, {"layers": 2}, 2), (True, {}, 0)])
def test_into_how_many_layers(alone: bool, fields: dict[str, int], number: int) -> None:  # noqa: FBT001
    """As the job says, else as is usual; beside one that is taken out alone there are none."""
    assert InputSet(layering=Layering(alone=alone)).settings(fields)["layer_num"] == number
    assert InputSet().settings(fields)["layer_num"] is None
