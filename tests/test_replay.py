from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from renderer import cli, metadata, replay
from renderer.errors import UsageError
from renderer.job import Keep
from renderer.manifest import load
from tests.making import make_job, make_manifest
from tests.nights import make_night
from tests.test_metadata import A1111, PROMPTS, write


def foreign(folder: Path, text: str, name: str = "foreign") -> Path:
    info = PngInfo()
    info.add_text("parameters", text)
    path = folder / f"{name}.png"
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


class TestEntries:
    @pytest.mark.parametrize("prompt", [text for name, text in PROMPTS.items() if name != "controls"])
    def test_our_own_picture_gives_the_very_job(self, tmp_path: Path, prompt: str) -> None:
        """A picture of ours, of any prompt, gives the job it was made from, seed and all."""
        job = make_job(prompt)
        (entry,) = entries = replay.write_entries([write(tmp_path, job)])
        assert entry.notes == ()
        assert replay.as_manifest(entries).pictures[0].job == job

    def test_a_sidecar_gives_it_too(self, tmp_path: Path) -> None:
        """The same from the file beside the picture."""
        manifest = make_manifest(("a",))
        make_night(manifest, tmp_path)
        entries = replay.write_entries([tmp_path / "test" / "p000.json"])
        assert replay.as_manifest(entries).pictures[0].job == manifest.pictures[0].job
        assert entries[0].picture.name == "p000.png"

    def test_another_tool_s_picture(self, tmp_path: Path) -> None:
        """What fits is taken over, what does not is said: a model nobody has here, a size that is none."""
        (entry,) = entries = replay.write_entries([foreign(tmp_path, A1111.replace("512x768", "510x770"))])
        assert any("v1-5-pruned" in note for note in entry.notes)
        assert any("510x770" in note for note in entry.notes)
        (picture,) = replay.as_manifest(entries).pictures
        assert (picture.job.model, picture.job.seed, picture.job.num_inference_steps) == (
            "Qwen/Qwen-Image", 1234567890, 20,
        )  # fmt: skip
        assert (picture.job.width, picture.job.height) == (512, 768)

    @pytest.mark.parametrize("model", ["/etc", "../..", "~root", "{id}", "demo/../demo"])
    def test_a_model_is_never_a_path(self, tmp_path: Path, model: str) -> None:
        """A folder's name in a stranger's picture is not looked at."""
        told = A1111.replace("v1-5-pruned", model)
        (entry,) = entries = replay.write_entries([foreign(tmp_path, told)])
        assert "model:" not in entry.text
        assert replay.as_manifest(entries).pictures[0].job.model == "Qwen/Qwen-Image"

    def test_a_prompt_is_never_a_template(self, tmp_path: Path) -> None:
        """Braces in a stranger's prompt are braces."""
        entries = replay.write_entries([foreign(tmp_path, A1111.replace("a cat", "{city} {{x}} {"))])
        assert "{city} {{x}} {" in replay.as_manifest(entries).pictures[0].job.prompt

    def test_two_pictures_of_one_name(self, tmp_path: Path) -> None:
        """Each entry has an id of its own."""
        (tmp_path / "b").mkdir()
        paths = [foreign(tmp_path, A1111), foreign(tmp_path / "b", A1111)]
        entries = replay.write_entries(paths)
        assert [entry.id for entry in entries] == ["foreign", "foreign-2"]
        assert len(replay.as_manifest(entries).pictures) == 2

    @pytest.mark.parametrize("text", ["\nSteps: 20, Seed: 1, Size: 512x512", f"{'a' * 10_001}\nSteps: 20, Seed: 1"])
    def test_what_makes_no_job_is_refused(self, tmp_path: Path, text: str) -> None:
        """No prompt, or one that is too long, ends in a sentence."""
        with pytest.raises(UsageError, match="makes no job"):
            replay.as_manifest(replay.write_entries([foreign(tmp_path, text)]))


class TestComparison:
    def test_bits_are_compared(self, tmp_path: Path) -> None:
        """The same pixels are the same bits, in whatever lossless file; others are counted; JPEG's are not known."""
        path = write(tmp_path, make_job(), Keep(format="webp"))
        same, other = write(tmp_path, make_job()), tmp_path / "other.png"
        with Image.open(same) as image:
            changed = image.convert("RGB")
        changed.putpixel((0, 0), (0, 0, 0))
        changed.save(other)
        (entry,) = replay.write_entries([path])
        assert replay.compare(entry, same) == ""
        assert "of the values differ" in replay.compare(entry, other)
        (lossy,) = replay.write_entries([write(tmp_path, make_job(), Keep(format="jpeg"))])
        assert "JPEG" in replay.compare(lossy, same)


class TestCommand:
    def test_it_prints_what_a_manifest_takes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The output is a manifest, notes and all."""
        assert cli.main(["replay", str(foreign(tmp_path, A1111)), str(write(tmp_path, make_job("你好 🦊")))]) == 0
        path = tmp_path / "again.yaml"
        path.write_text(capsys.readouterr().out)
        assert [picture.id for picture in load(path).pictures] == ["foreign", "p"]

    def test_a_picture_that_tells_nothing_ends_with_2(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Its name is said, and what may help."""
        path = write(tmp_path, make_job(), Keep(embed="none"))
        assert cli.main(["replay", str(path)]) == 2
        assert "does not say how it was made" in capsys.readouterr().err
        assert metadata.read_labels(path).texts == {}
