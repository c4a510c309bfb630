from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from renderer import encode, metadata
from renderer.errors import UsageError
from renderer.job import Format, Job, Keep, ModelIdentity, fingerprint
from renderer.layout import PICTURE_SUFFIXES
from renderer.metadata import Origin
from tests import readers
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


def origin_of(job: Job) -> Origin:
    model = ModelIdentity(id=job.model, revision="75e0b4be04f60ec59a75f475837eced720f823b6")
    return Origin(fingerprint=fingerprint(job, model), job=job, model=model, software=SOFTWARE)


def write(folder: Path, job: Job, keep: Keep | None = None) -> Path:
    keep = keep or Keep()
    path = folder / f"p{PICTURE_SUFFIXES[keep.format]}"
    path.write_bytes(encode.encode(draw(job), keep.format, metadata.write_labels(origin_of(job), keep)))
    return path


def as_asked(told: metadata.Told) -> tuple[object, ...]:
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
        told = metadata.read(write(tmp_path, job, Keep(format=file_format)))
        assert told.by == "renderer"
        assert as_asked(told) == asked(job)
        assert told.fingerprint == origin_of(job).fingerprint

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(prompt=st.text(st.characters(exclude_categories=["Cs"])), negative=st.text(), form=st.sampled_from(FORMATS))
    def test_any_text_comes_back(self, tmp_path: Path, prompt: str, negative: str, form: Format) -> None:
        """The same for texts that nobody would think of."""
        job = make_job(prompt).model_copy(update={"negative_prompt": negative})
        assert as_asked(metadata.read(write(tmp_path, job, Keep(format=form)))) == asked(job)

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_the_longest_prompt_is_kept_or_left_out(self, tmp_path: Path, file_format: Format) -> None:
        """Ten thousand Chinese letters fit every format once; JPEG leaves out what does not, and stays a picture."""
        job = make_job(PROMPTS["long"])
        path = write(tmp_path, job, Keep(format=file_format))
        assert metadata.read(path).prompt == job.prompt
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
        assert metadata.GENERATED in metadata.read_labels(path).xmp
        assert b"circle" not in path.read_bytes()
        with pytest.raises(UsageError, match="does not say how it was made"):
            metadata.read(path)


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
    @pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed (libimage-exiftool-perl)")
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
        told = metadata.parse_parameters(text)
        assert told is not None
        assert (told.model, told.seed, told.precision) == ('my, "best": model', 1, "bf16")


def _letters(text: str) -> str:
    """A prompt without what its copy may change: white space and control characters."""
    return "".join(letter for letter in text if letter.isprintable() and not letter.isspace())


A1111 = """masterpiece, (a cat:1.2)
second line <lora:x:1>
Negative prompt: lowres, bad
anatomy
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1234567890, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5-pruned, Lora hashes: "x: 1234, y: 5678", Hashes: {"model": "6ce0161689", "lora:x": "12"}, Version: v1.6.0"""


class TestReading:
    def test_another_tool_s_parameters(self, tmp_path: Path) -> None:
        """A picture of AUTOMATIC1111's tells prompt, negative prompt and settings."""
        info = PngInfo()
        info.add_text("parameters", A1111)
        path = tmp_path / "a.png"
        Image.new("RGB", (8, 8)).save(path, pnginfo=info)
        told = metadata.read(path)
        assert told.by == "parameters"
        assert told.prompt == "masterpiece, (a cat:1.2)\nsecond line <lora:x:1>"
        assert told.negative_prompt == "lowres, bad\nanatomy"
        assert (told.steps, told.cfg_scale, told.seed, told.width, told.height, told.model) == (
            20, 7.0, 1234567890, 512, 768, "v1-5-pruned",
        )  # fmt: skip

    @pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
    def test_exif_in_either_byte_order(self, tmp_path: Path, order: str) -> None:
        """Tools disagree on UserComment's byte order; both are read."""
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + A1111.encode(order)
        path = tmp_path / "a.jpg"
        Image.new("RGB", (8, 8)).save(path, exif=exif)
        assert metadata.read(path).seed == 1234567890

    @pytest.mark.parametrize(
        "text",
        ["", "Steps", "a cat", "Steps:" + "a" * 900_000, "Steps:" + "a:" * 400_000, "Steps: " + "[" * 500_000,
         "Steps: " + '"' * 500_000, "\n" * 1_000_000, "Steps: " + "a" * 79 + " " * 500_000],
    )  # fmt: skip
    def test_hostile_texts_take_no_time(self, text: str) -> None:
        """A megabyte made to trip a parser is parsed in a moment, and harmlessly."""
        told = metadata.parse_parameters(text)
        assert told is None or told.seed is None

    @settings(max_examples=200, deadline=None)
    @given(st.text() | st.text('Steps: ,"{}[]\n-x1') | st.text().map(lambda text: f"{A1111}\n{text}"))
    def test_no_text_breaks_the_parser(self, text: str) -> None:
        """Whatever stands there, the answer is a value or None."""
        told = metadata.parse_parameters(text)
        assert told is None or isinstance(told.prompt, str)

    @pytest.mark.parametrize(
        "own",
        ["{", "[]", "null", '{"origin_version": 1}', '{"origin_version": 2}', "9" * 100_000, "[" * 100_000],
    )  # fmt: skip
    def test_a_damaged_label_of_ours_is_passed_over(self, tmp_path: Path, own: str) -> None:
        """What does not fit the schema is not believed; the next label is asked."""
        info = PngInfo()
        info.add_text("renderer", own)
        info.add_text("parameters", A1111)
        path = tmp_path / "a.png"
        Image.new("RGB", (8, 8)).save(path, pnginfo=info)
        assert metadata.read(path).by == "parameters"

    def test_unknown_fields_in_our_label_are_refused(self, tmp_path: Path) -> None:
        """The label's fields are a closed list."""
        own = json.loads(origin_of(make_job()).model_dump_json())
        info = PngInfo()
        info.add_text("renderer", json.dumps({**own, "path": "/etc/passwd"}))
        path = tmp_path / "a.png"
        Image.new("RGB", (8, 8)).save(path, pnginfo=info)
        with pytest.raises(UsageError, match="does not say how it was made"):
            metadata.read(path)

    @pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"not a picture" * 1000])
    def test_what_is_no_picture_is_said_so(self, tmp_path: Path, content: bytes) -> None:
        """A damaged or foreign file is an error in a sentence."""
        path = tmp_path / "a.png"
        path.write_bytes(content)
        with pytest.raises(UsageError, match="cannot be read as a picture"):
            metadata.read(path)

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data(), form=st.sampled_from(FORMATS))
    def test_damaged_files_end_in_a_sentence(self, tmp_path: Path, data: st.DataObject, form: Format) -> None:
        """A file with some bytes changed is read, or refused; never a traceback."""
        path = write(tmp_path, make_job(), Keep(format=form))
        content = bytearray(path.read_bytes())
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=20)):
            content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        try:
            metadata.read(path)
        except UsageError as error:
            assert error.message.isprintable()  # noqa: PT017

    def test_an_enormous_text_is_refused_or_cut(self, tmp_path: Path) -> None:
        """A chunk that unpacks to far more than it takes is not unpacked."""
        info = PngInfo()
        info.add_text("parameters", "a" * 50_000_000, zip=True)
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
        path = tmp_path / "a.png"
        path.write_bytes(buffer.getvalue())
        with pytest.raises(UsageError):
            metadata.read(path)

    def test_a_sidecar_tells_too(self, tmp_path: Path) -> None:
        """A sidecar is read as such, and what is none is refused."""
        path = tmp_path / "p.json"
        path.write_text("{}")
        with pytest.raises(UsageError, match="no sidecar"):
            metadata.read(path)
