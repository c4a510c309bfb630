from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from renderer.cli import command
from renderer.cli import replay as replay_cli
from renderer.errors import UsageError
from renderer.job import Keep, LayerFacts
from renderer.manifest import replay
from renderer.manifest.manifest import Manifest, load
from renderer.manifest.replay import PassedOver
from renderer.outputs import input_files, picture_files
from renderer.outputs.folder import OutputFolder
from renderer.outputs.summary import Summary
from renderer.supervisor import run
from renderer.supervisor.settings import Settings
from tests.making import make_job, make_manifest
from tests.manifest.labels import making
from tests.manifest.labels.making import A1111
from tests.manifest.replaying import again, entries_of, foreign
from tests.nights import make_night
from tests.outputs.test_metadata import PROMPTS, write

DATA = Path(__file__).parent / "labels" / "data"


def passed_over(*paths: Path) -> list[PassedOver]:
    return [each for each in replay.collect(paths) if isinstance(each, PassedOver)]


def test_a_layer_is_its_picture(tmp_path: Path) -> None:
    """By itself, and beside it, where it gives no entry of its own."""
    make_night(make_manifest(("a",)), tmp_path)
    folder = OutputFolder(tmp_path / "test")
    told = picture_files.read_sidecar(folder.sidecar("p000"))
    assert told is not None
    layer = folder.layer("p000", 1)
    layer.write_bytes(folder.picture("p000").read_bytes())
    facts = LayerFacts(**{**told.file.model_dump(), "name": layer.name}, covered=1.0)
    picture_files.write_sidecar(folder, "p000", told.model_copy(update={"layers": (facts,)}))
    for paths in ([layer], sorted(folder.path.glob("p000*"))):
        (entry,) = entries_of(*paths)
        assert (entry.id, entry.picture) == ("p000", folder.picture("p000"))
    assert passed_over(foreign(tmp_path, name="mine.layer-1")) == []


class TestEntries:
    @pytest.mark.parametrize("prompt", [text for name, text in PROMPTS.items() if name != "controls"])
    def test_our_own_picture_gives_the_very_job(self, tmp_path: Path, prompt: str) -> None:
        """A picture of ours, of any prompt, gives the job it was made from, seed and all."""
        job = make_job(prompt)
        (entry,) = entries = entries_of(write(tmp_path, job))
        assert entry.notes == ()
        assert replay.as_manifest(entries).pictures[0].job == job

    def test_a_sidecar_gives_it_too(self, tmp_path: Path) -> None:
        """The same from the file beside the picture."""
        manifest = make_manifest(("a",))
        make_night(manifest, tmp_path)
        entries = entries_of(tmp_path / "test" / "p000.json")
        assert replay.as_manifest(entries).pictures[0].job == manifest.pictures[0].job
        assert entries[0].picture.name == "p000.png"

    def test_a_picture_that_says_nothing_is_told_of_by_its_sidecar(self, tmp_path: Path) -> None:
        """The sidecar beside it is asked, if it is this picture's and no other's."""
        manifest = make_manifest(("a",))
        make_night(manifest, tmp_path)
        path = tmp_path / "test" / "p000.png"
        assert entries_of(path)[0].made.job == manifest.pictures[0].job
        path.write_bytes(making.png())
        assert "does not say how it was made" in passed_over(path)[0].message

    def test_another_tool_s_picture(self, tmp_path: Path) -> None:
        """What fits is taken over, what does not is said: a model nobody has here, a size that is none, a LoRA."""
        (entry,) = entries = entries_of(foreign(tmp_path, A1111.replace("512x768", "510x770")))
        said = "\n".join(entry.notes)
        for each in ("v1-5-pruned", "510x770", "LoRA x at 1", "DPM++ 2M Karras"):
            assert each in said
        (picture,) = replay.as_manifest(entries).pictures
        assert (picture.job.model, picture.job.seed, picture.job.num_inference_steps) == (
            "Qwen/Qwen-Image", 1234567890, 20,
        )  # fmt: skip
        assert (picture.job.width, picture.job.height) == (512, 768)
        assert "<lora" not in picture.job.prompt

    @pytest.mark.parametrize("model", ["/etc", "../..", "~root", "{id}", "demo/../demo2", "Qwen/Qwen-Image-Edit"])
    def test_a_model_is_never_a_path(self, tmp_path: Path, model: str) -> None:
        """A folder's name in a stranger's picture is not looked at; nor is a model taken that draws nothing alone."""
        (entry,) = entries = entries_of(foreign(tmp_path, A1111.replace("v1-5-pruned", model)))
        assert "model:" not in entry.text
        assert replay.as_manifest(entries).pictures[0].job.model == "Qwen/Qwen-Image"

    def test_a_model_by_its_short_name(self, tmp_path: Path) -> None:
        """Other tools name a model without its owner: that is taken, and said."""
        (entry,) = entries_of(foreign(tmp_path, A1111.replace("v1-5-pruned", "qwen-image-2512")))
        assert entry.made.job.model == "Qwen/Qwen-Image-2512"
        assert 'the model "qwen-image-2512" is taken for Qwen/Qwen-Image-2512' in entry.notes

    def test_a_prompt_is_never_a_template(self, tmp_path: Path) -> None:
        """Braces in a stranger's prompt are braces."""
        entries = entries_of(foreign(tmp_path, A1111.replace("a cat", "{city} {{x|y}} {")))
        assert "{city} {{x|y}} {" in replay.as_manifest(entries).pictures[0].job.prompt

    def test_two_pictures_of_one_name(self, tmp_path: Path) -> None:
        """Each entry has an id of its own, also where a disk ignores case."""
        paths = []
        for folder, name in (("a", "x"), ("b", "X"), ("c", "x"), ("d", "x-2")):
            (tmp_path / folder).mkdir()
            paths.append(foreign(tmp_path / folder, name=name))
        entries = entries_of(*paths)
        assert [entry.id for entry in entries] == ["x", "X-2", "x-3", "x-2-2"]
        assert len({picture.output for picture in replay.as_manifest(entries).pictures}) == 4

    def test_a_picture_and_its_sidecar_are_one(self, tmp_path: Path) -> None:
        """A folder named with all that is in it gives one entry a picture."""
        make_night(make_manifest(("a", "b")), tmp_path)
        folder = tmp_path / "test"
        assert [entry.id for entry in entries_of(*sorted(folder.iterdir()))] == ["p000", "p001"]

    @pytest.mark.parametrize(
        ("text", "what"),
        [("\nSteps: 20, Seed: 1, Size: 512x512", "prompt"), (f"{'a' * 10_001}\nSteps: 20, Seed: 1", "prompt")],
    )
    def test_what_makes_no_job_costs_itself_alone(self, tmp_path: Path, text: str, what: str) -> None:
        """No prompt, or one that is too long, ends in a sentence; the others are there."""
        (bad,) = passed_over(foreign(tmp_path, text, "bad"), foreign(tmp_path))
        assert f"bad.png tells makes no job: {what}: " in bad.message

    @pytest.mark.parametrize(
        ("settings", "said"),
        [("Steps: 1000, Seed: 1, Size: 512x512", "steps 1000 is out of range (2 to 200)"),
         ("Steps: 20, Seed: 18446744073709551615, Size: 512x512", "seed 18446744073709551615 is out of range"),
         ("Steps: 20, Seed: 1, CFG scale: 0, Size: 512x512", "a CFG scale of 0 is out of range"),
         ("Steps: 20, Seed: -1, Size: 512x512", "the manifest's default: cfg_scale, seed")],
    )  # fmt: skip
    def test_what_is_out_of_range_or_missing_is_said(self, tmp_path: Path, settings: str, said: str) -> None:
        """Nothing falls back to a default without a word."""
        (entry,) = entries_of(foreign(tmp_path, f"a\n{settings}"))
        assert said in "\n".join(entry.notes)

    def test_two_thousand_pictures(self, tmp_path: Path) -> None:
        """Two thousand pictures, all of one name, take a few seconds of the processor."""
        paths = []
        for number in range(2000):
            folder = tmp_path / str(number)
            folder.mkdir()
            paths.append(
                foreign(folder, f"picture {number}, {'a longer prompt ' * 20}\nSteps: 20, Seed: {number}", "x")
            )
        began = time.process_time()
        entries = entries_of(*paths)
        manifest = replay.as_manifest(entries)
        assert time.process_time() - began < 8
        assert len(manifest.pictures) == 2000
        assert entries[-1].id == "x-2000"
        text = "jobs:\n" + "".join(entry.text for entry in entries)
        assert text.split("\n")[manifest.pictures[1000].place.line - 1].startswith('- id: "x-1001"')


class TestCases:
    """Pictures that people have, as small files: what each of them tells."""

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("chinese-be.jpg", ("一张海报", "模糊", 17, 20, 4.0, 1024, 1024)),
            ("comfyui.png", ("a red fox in snow", "blurry", 987654321, 20, 2.5, 1328, 1328)),
            ("exif3-utf8.jpg", ("a red fox", "", 17, 20, 4.0, 1024, 1024)),
            ("lora-hires.png", ("a lighthouse at dusk, oil painting (storm clouds:1.3)", "blurry", 1234567890, 28, 7.0,
                                512, 768)),
            ("novelai.png", ("a red fox", "bad", 3141592653, 28, 5.0, 832, 1216)),
            ("swarm.png", ("a red fox", "bad", 77, 20, 4.0, 1328, 1328)),
            ("text-after-pixels.png", ("a red fox", "bad", 17, 20, 4.0, 1024, 1024)),
        ],
    )  # fmt: skip
    def test_it_tells(self, name: str, told: tuple[object, ...]) -> None:
        (entry,) = entries_of(DATA / name)
        job = entry.made.job
        assert (job.prompt.split("\u3000")[0], job.negative_prompt, job.seed, job.num_inference_steps, job.cfg_scale,
                job.width, job.height) == told  # fmt: skip

    def test_what_is_left_out_is_said(self) -> None:
        (entry,) = entries_of(DATA / "lora-hires.png")
        said = "\n".join(entry.notes)
        for each in ("LoRA fineDetail_v2 at 0.8", "Hires upscale 2", "ADetailer model", "Denoising strength 0.45"):
            assert each in said


class TestComparison:
    def test_bits_are_compared(self, tmp_path: Path) -> None:
        """The same pixels are the same bits, in whatever lossless file; others are counted; JPEG's are not known."""
        path = write(tmp_path, make_job(), Keep(format="webp"))
        same, other = write(tmp_path, make_job()), tmp_path / "other.png"
        with Image.open(same) as image:
            changed = image.convert("RGB")
        red, green, blue = changed.getpixel((0, 0))  # type: ignore[misc]
        changed.putpixel((0, 0), (red ^ 128, green ^ 1, blue))
        changed.save(other)
        (entry,) = entries_of(path)
        assert replay.compare(entry, same) == ""
        expected = f"{2 / (64 * 64 * 3):.1%} of the values differ, by 128 of 255 at most"
        assert replay.compare(entry, other) == expected
        (lossy,) = entries_of(write(tmp_path, make_job(), Keep(format="jpeg")))
        assert "JPEG" in replay.compare(lossy, same)

    @pytest.mark.parametrize("disk", ["with links", "without"])
    def test_a_picture_in_the_way_keeps_its_pixels(
        self, tmp_path: Path, disk: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is rendered over is compared as it was before; where a disk has no links, by a copy."""

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        if disk == "without":
            monkeypatch.setattr(os, "link", refuse)
        folder = OutputFolder(tmp_path / "replay")
        folder.path.mkdir()
        path = write(folder.path, make_job())
        other = write(tmp_path, make_job("a blue square"))
        entries = entries_of(path, other)
        with replay_cli._kept_as_they_were(entries, folder) as before:
            assert before[1].picture == other
            new = tmp_path / "new.png"
            Image.new("RGB", (64, 64), "red").save(new)
            new.replace(path)
            assert "differ" in replay.compare(before[0], path)
        assert sorted(each.name for each in tmp_path.iterdir()) == ["p.png", "replay"]


class TestCommand:
    def test_it_prints_what_a_manifest_takes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The output is a manifest, notes and all."""
        assert command.main(["replay", str(foreign(tmp_path)), str(write(tmp_path, make_job("你好 🦊")))]) == 0
        path = tmp_path / "again.yaml"
        path.write_text(capsys.readouterr().out)
        assert [picture.id for picture in load(path).pictures] == ["foreign", "p"]
        assert "# left out: LoRA x at 1; sampler DPM++ 2M Karras\n" in path.read_text()

    def test_a_picture_that_tells_nothing_ends_with_2(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Its name is said, and what may help."""
        path = write(tmp_path, make_job(), Keep(embed="none"))
        assert command.main(["replay", str(path)]) == 2
        assert "does not say how it was made" in capsys.readouterr().err

    def test_one_bad_picture_in_a_list(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """It is said by name, the others are there, and the exit code tells of it."""
        bad = making.write(tmp_path, b"no picture", "bad.png")
        assert command.main(["replay", str(bad), str(foreign(tmp_path)), str(tmp_path / "none.png")]) == 1
        out, err = capsys.readouterr()
        assert out.count("- id:") == 1
        assert [line.partition(": ")[0] for line in err.splitlines()] == ["passed over"] * 2
        assert "bad.png" in err
        assert "none.png" in err

    @pytest.mark.parametrize("pattern", ["*.png", "*.json", "*"])
    def test_the_folder_that_a_run_left(self, tmp_path: Path, pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
        """What the program itself keeps beside pictures is passed over with a word, and is no failure."""
        make_night(make_manifest(("a", "b")), tmp_path)
        folder = OutputFolder(tmp_path / "test")
        folder.summary.write_text("{}")
        folder.page.write_text("<html>")
        Image.new("RGB", (8, 8)).save(folder.contact_sheet)
        assert command.main(["replay", *map(str, sorted(folder.path.glob(pattern)))]) == 0
        out, err = capsys.readouterr()
        assert out.count("- id:") == 2
        assert "is this program's own" in err

    def test_nothing_but_what_tells_nothing_ends_with_2(self, tmp_path: Path) -> None:
        """A list without one picture that tells is a mistake."""
        paths = [making.write(tmp_path, b"no picture", f"{number}.png") for number in range(2)]
        assert command.main(["replay", *map(str, paths)]) == 2

    def test_render_s_options_are_its_own_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A model of 58 GB is not fetched where nobody agreed to it; whatever render is told, replay can be told.

        No machine without a GPU comes as far as fetching one, so that what the night is told is looked at.
        """
        told: list[Settings] = []

        def render(manifests: Sequence[Manifest], given: Settings, _watch: object, _stop: object) -> list[Summary]:
            told.append(given)
            assert [manifest.name for manifest in manifests] == ["replay"]
            raise UsageError("looked at")

        monkeypatch.setattr(run, "render", render)
        path = str(foreign(tmp_path))
        assert command.main(["replay", path, "--render"]) == 2
        options = ["--yes", "--offline", "--vram", "8GiB", "--until", "07:00", "--outputs", str(tmp_path)]
        assert command.main(["replay", path, "--render", *options, "--log-format", "plain"]) == 2
        first, second = told
        assert (first.terms.most_bytes, first.terms.offline, first.force) == (10**9, False, True)
        assert (second.terms.most_bytes, second.terms.offline, second.vram_bytes) == (None, True, 8 * 2**30)
        assert second.deadline is not None
        assert second.outputs == tmp_path
        assert "foreign: left out: LoRA x at 1" in capsys.readouterr().err


def test_a_picture_that_went_in_is_asked_for_by_its_pixels(tmp_path: Path) -> None:
    """An edit gives its entry back with the file that was kept; without it, it says which pixels are missing."""
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "shop [1].png")
    (tmp_path / "edit.yaml").write_text(
        "{defaults: {model: demo, steps: 2, size: 64x64},"
        " jobs: [{prompt: 'a {{b}}', image: 'shop [1].png', strength: 0.4}]}"
    )
    edit = load(tmp_path / "edit.yaml")
    make_night(edit, tmp_path / "out")
    input_files.keep(OutputFolder(tmp_path / "out/edit"), edit.pictures[0].inputs[0])
    (tmp_path / "shop [1].png").unlink()
    (entry,) = entries = entries_of(tmp_path / "out/edit/001.png")
    assert entry.notes == ()
    assert replay.as_manifest(entries).pictures[0].job == edit.pictures[0].job
    for kept in OutputFolder(tmp_path / "out/edit").inputs.iterdir():
        kept.unlink()
    (passed,) = passed_over(tmp_path / "out/edit/001.png")
    assert "made of a picture that is not in" in passed.message
    assert edit.pictures[0].job.inputs[0].sha256 in passed.hint


def test_what_a_picture_edits_comes_back(tmp_path: Path) -> None:
    """All in its order, with the mask of the first, as they were kept, whatever the folder is called: the same job."""
    for name, side in (("shop", 64), ("cup", 32)):
        Image.new("RGB", (side, side), "teal").save(tmp_path / f"{name}.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    (tmp_path / "edit.yaml").write_text(
        "{defaults: {model: Qwen/Qwen-Image-Edit-2511, images: [shop.png, cup.png]},"
        " jobs: [{prompt: 'a {{{{b|c}}'}, {prompt: b, mask: mask.png, mask_blur: 2, strength: 0.7}]}"
    )
    edit = load(tmp_path / "edit.yaml")
    make_night(edit, tmp_path / "out [1] {x}")
    for picture in edit.pictures:
        for source in picture.inputs:
            input_files.keep(OutputFolder(tmp_path / "out [1] {x}/edit"), source)
    entries = entries_of(*(tmp_path / "out [1] {x}/edit" / f"{name}.png" for name in ("001", "002")))
    assert [entry.notes for entry in entries] == [(), ()]
    assert [made.job for made in replay.as_manifest(entries).pictures] == [picture.job for picture in edit.pictures]
    assert again(tmp_path, entries) == [picture.job for picture in edit.pictures]


def test_what_is_taken_apart_comes_back(tmp_path: Path) -> None:
    """With its transparency, and so many layers; an edit model's picture from text comes back as one."""
    Image.new("RGBA", (64, 64), (200, 10, 10, 40)).save(tmp_path / "poster.png")
    (tmp_path / "apart.yaml").write_text(
        "{defaults: {model: Qwen/Qwen-Image-Layered, images: [poster.png], layers: 2}, jobs: [a, b,"
        " {prompt: c, layers: 4, size: 640x640}]}"
    )
    (tmp_path / "text.yaml").write_text("{defaults: {model: Qwen/Qwen-Image-Edit-2511}, jobs: [a]}")
    apart, text = load(tmp_path / "apart.yaml"), load(tmp_path / "text.yaml")
    for night in (apart, text):
        make_night(night, tmp_path / "out")
    input_files.keep(OutputFolder(tmp_path / "out/apart"), apart.pictures[0].inputs[0])
    entries = entries_of(*(tmp_path / "out/apart" / f"{name}.png" for name in ("001", "002", "003")))
    assert [made.job for made in replay.as_manifest(entries).pictures] == [picture.job for picture in apart.pictures]
    assert again(tmp_path, entries) == [picture.job for picture in apart.pictures]
    (entry,) = entries_of(tmp_path / "out/text" / "001.png")
    assert entry.made.job == text.pictures[0].job
