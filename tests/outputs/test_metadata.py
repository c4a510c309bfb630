from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from renderer.errors import UsageError
from renderer.job import ControlNet, Format, Input, Job, Keep, ModelIdentity, fingerprint
from renderer.manifest import labels
from renderer.manifest.labels import Told, a1111, containers
from renderer.outputs import encode, metadata
from renderer.outputs.folder import PICTURE_SUFFIXES
from renderer.outputs.metadata import PictureOrigin
from tests import readers, tools
from tests.fakes import SOFTWARE, draw
from tests.making import make_job, pixels_of

FORMATS: tuple[Format, ...] = get_args(Format)

PROMPTS = {
    "plain": "a red circle",
    "quotes": 'a poster with the text "WELCOME", bold; she said: \'hi\' \\ "',
    "lines": "first line\nsecond line\n\nafter an empty one",
    "emoji": "a 🦊 under the 🌈 — naïve café",
    "chinese": "白色背景上的一个红色大圆形，下面写着“你好”",  # noqa: RUF001
    "steps": "how to bake:\nSteps: 1, mix: 2, bake: 3\nSteps: 4",
    "steps-first": "Steps: 20, Sampler: none, Seed: 1\na cake",
    "negative": "a sign\nNegative prompt: not really\nand Negative prompt: again",
    "markup": "<script>alert(1)</script> ]]> & <?xpacket end='w'?> {{ x }} </renderer:origin>",
    "long": "词" * 10_000,
    "controls": "tab\tand \x01 bell \x07",
}


def origin_of(job: Job) -> PictureOrigin:
    model = ModelIdentity(id=job.model, revision="75e0b4be04f60ec59a75f475837eced720f823b6")
    return PictureOrigin(fingerprint=fingerprint(job, model), job=job, model=model, software=SOFTWARE)


def write(folder: Path, job: Job, keep: Keep | None = None) -> Path:
    keep = keep or Keep()
    path = folder / f"p{PICTURE_SUFFIXES[keep.format]}"
    path.write_bytes(encode.encode(draw(job), keep.format, metadata.write_labels(origin_of(job), keep)))
    return path


def as_asked(told: Told) -> tuple[object, ...]:
    return (told.prompt, told.negative_prompt, told.model, told.precision, told.steps, told.cfg_scale, told.width,
            told.height, told.seed)  # fmt: skip


def asked(job: Job) -> tuple[object, ...]:
    return (job.prompt, job.negative_prompt, job.model, job.precision, job.num_inference_steps, job.cfg_scale,
            job.width, job.height, job.seed)  # fmt: skip


class TestOwnLabels:
    @pytest.mark.parametrize("file_format", FORMATS)
    @pytest.mark.parametrize("prompt", [text for name, text in PROMPTS.items() if name != "long"])
    def test_every_character_comes_back(self, tmp_path: Path, prompt: str, file_format: Format) -> None:
        """What a picture tells is what was asked for, in every format, whatever the prompt holds."""
        job = make_job(prompt).model_copy(update={"negative_prompt": prompt})
        told = labels.read(write(tmp_path, job, Keep(format=file_format)))
        assert told.by == "renderer"
        assert as_asked(told) == asked(job)
        assert told.fingerprint == origin_of(job).fingerprint

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(prompt=st.text(st.characters(exclude_categories=["Cs"])), negative=st.text(), form=st.sampled_from(FORMATS))
    def test_any_text_comes_back(self, tmp_path: Path, prompt: str, negative: str, form: Format) -> None:
        """The same for texts that nobody would think of."""
        job = make_job(prompt).model_copy(update={"negative_prompt": negative})
        assert as_asked(labels.read(write(tmp_path, job, Keep(format=form)))) == asked(job)

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_the_longest_prompt_is_kept_or_left_out(self, tmp_path: Path, file_format: Format) -> None:
        """Ten thousand Chinese letters fit every format once; JPEG leaves out what does not, and stays a picture."""
        job = make_job(PROMPTS["long"])
        path = write(tmp_path, job, Keep(format=file_format))
        assert labels.read(path).prompt == job.prompt
        twice = write(tmp_path, job.model_copy(update={"negative_prompt": job.prompt * 3}), Keep(format=file_format))
        assert pixels_of(twice).width == job.width

    @pytest.mark.parametrize("file_format", ["png", "webp"])
    def test_pixels_do_not_change(self, tmp_path: Path, file_format: Format) -> None:
        """Labels are beside the pixels, not in them."""
        job = make_job()
        assert pixels_of(write(tmp_path, job, Keep(format=file_format))) == draw(job)

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_the_same_job_gives_the_same_bytes(self, tmp_path: Path, file_format: Format) -> None:
        """A file's bytes hold no time and no chance."""
        job, keep = make_job(), Keep(format=file_format)
        assert write(tmp_path, job, keep).read_bytes() == write(tmp_path, job, keep).read_bytes()

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_none_is_nothing(self, tmp_path: Path, file_format: Format) -> None:
        """`embed: none` leaves a file that says nothing."""
        data = write(tmp_path, make_job(), Keep(format=file_format, embed="none")).read_bytes()
        assert data == encode.encode(draw(make_job()), file_format)
        assert b"renderer" not in data
        assert b"circle" not in data

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_basic_says_generated_and_no_more(self, tmp_path: Path, file_format: Format) -> None:
        """`embed: basic` says that the picture was generated, and neither its prompt nor its settings."""
        path = write(tmp_path, make_job(), Keep(format=file_format, embed="basic"))
        assert metadata.GENERATED in containers.look(path).xmp
        assert b"circle" not in path.read_bytes()
        with pytest.raises(UsageError, match="does not say how it was made"):
            labels.read(path)


class TestOtherTools:
    @pytest.mark.parametrize("file_format", ["png", "webp", "jpeg"])
    @pytest.mark.parametrize("reader", [readers.sd_prompt_reader, readers.civitai])
    @pytest.mark.parametrize("name", PROMPTS)
    def test_their_parsers_find_prompt_and_settings(
        self, tmp_path: Path, name: str, reader: Callable[[str], readers.Read], file_format: Format
    ) -> None:
        """Whatever the prompts hold, the settings are found, and each prompt is where it belongs."""
        job = make_job(PROMPTS[name]).model_copy(update={"negative_prompt": f"blur\n{PROMPTS[name]}"[:10_000]})
        found = reader(readers.find_text(write(tmp_path, job, Keep(format=file_format))))
        assert {key: found.settings[key] for key in ("Steps", "CFG scale", "Seed", "Size", "Model")} == {
            "Steps": "2", "CFG scale": "4.0", "Seed": "1", "Size": "64x64", "Model": "demo",
        }  # fmt: skip
        assert _letters(found.prompt) == _letters(job.prompt)
        assert _letters(found.negative_prompt) == _letters(job.negative_prompt)

    @pytest.mark.parametrize("name", [name for name in PROMPTS if name not in {"controls", "long"}])
    @pytest.mark.parametrize("file_format", FORMATS)
    @tools.needs("exiftool")
    def test_exiftool_reads_them(self, tmp_path: Path, name: str, file_format: Format) -> None:
        """The tool exiftool finds the digital source type, the tool and the prompt without a warning."""
        tags = readers.exiftool(write(tmp_path, make_job(PROMPTS[name]), Keep(format=file_format)))
        assert tags["DigitalSourceType"] == metadata.GENERATED
        assert tags["CreatorTool"] == "renderer 0"
        assert _letters(tags["Description"]) == _letters(PROMPTS[name])
        told = tags["Parameters" if file_format == "png" else "UserComment"]
        assert "Steps: 2, Sampler: Euler, CFG scale: 4.0, Seed: 1, Size: 64x64, Model: demo" in told
        assert "Warning" not in tags

    def test_odd_values_are_quoted(self) -> None:
        """A model's name with commas and colons does not break the line of settings."""
        job = make_job().model_copy(update={"model": 'my, "best": model'})
        text = metadata.write_parameters(origin_of(job))
        assert 'Model: "my, \\"best\\": model"' in text
        told = a1111.parse(text)
        assert told is not None
        assert (told.model, told.seed, told.precision) == ('my, "best": model', 1, "bf16")


def _letters(text: str) -> str:
    """A prompt without what its copy may change: white space and control characters."""
    return "".join(letter for letter in text if letter.isprintable() and not letter.isspace())


def test_what_holds_a_picture_is_told_in_the_words_of_others() -> None:
    """As sd-webui-controlnet writes it; nothing that went in was edited by that."""
    image = Input(sha256="ab" * 32, width=8, height=8)
    nets = (ControlNet(source="nets/a, b.safetensors", identity="x", image=image, scale=0.5, end=0.75),)
    origin = origin_of(make_job().model_copy(update={"controlnets": nets}))
    told = metadata.write_parameters(origin)
    words = "Module: none, Model: a_b, Weight: 0.5, Resize Mode: Crop and Resize, Guidance Start: 0, Guidance End: 0.75"
    assert f'ControlNet 0: "{words}"' in told
    xmp = metadata.write_labels(origin, Keep()).xmp
    assert metadata.GENERATED in xmp
    assert metadata.EDITED not in xmp


def test_what_was_made_of_a_picture_says_so() -> None:
    """By the words for what is partly generated: drawn over, taken apart, or drawn into a gap of it."""
    image = Input(sha256="ab" * 32, width=8, height=8)
    inpainting = ControlNet(source="gap.safetensors", identity="x", image=image, mask=image)
    of_another: tuple[dict[str, object], ...] = (
        {"input_image": image},
        {"layer_input_image": image, "layer_num": 2},
        {"controlnets": (inpainting,)},
    )
    for more in of_another:
        assert metadata.EDITED in metadata.write_labels(origin_of(make_job().model_copy(update=more)), Keep()).xmp
