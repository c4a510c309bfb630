"""Whole manifests: the file, the head, output names, overrides, caps, and all problems at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from renderer.errors import ManifestError, UsageError
from renderer.job import Job, Picture
from renderer.manifest.manifest import Overrides, load
from renderer.manifest.shelf import Shelf
from tests.reading import DEMO, load_text, problem_of, problem_with, problems_of

PROJECT = Path(__file__).resolve().parents[2]
PROOF = Overrides(proof=True)


class TestFile:
    def test_issue_example(self) -> None:
        """The language's own example makes the pictures that it says."""
        manifest = load_text("""
            version: 1
            name: posters
            output: "{id}"
            defaults:
              {model: Qwen/Qwen-Image, precision: fp8, size: "16:9", steps: 40, cfg_scale: 4.0, negative_prompt: ""}
            jobs:
              - id: welcome
                prompt: A modern poster with the text "WELCOME" in bold letters
                sizes: [1328x1328, "9:16"]
                seeds: [1, 2, 3]
              - id: sign-{city}
                prompt: A bilingual sign in {city} that says "{greeting}", neon
                matrix: {city: [Paris, Tokyo], greeting: ["Hello 你好"]}
                exclude: [{city: Tokyo}]
        """)
        assert manifest.name == "posters"
        assert [picture.id for picture in manifest.pictures] == [
            "welcome-1328x1328-s1",
            "welcome-1328x1328-s2",
            "welcome-1328x1328-s3",
            "welcome-928x1664-s1",
            "welcome-928x1664-s2",
            "welcome-928x1664-s3",
            "sign-Paris",
        ]
        last = manifest.pictures[-1]
        assert last.job.prompt == 'A bilingual sign in Paris that says "Hello 你好", neon'
        assert (last.job.width, last.job.height) == (1664, 928)
        assert (last.place.line, last.place.index, last.place.job_id) == (12, 6, "sign-Paris")
        assert last.place.matrix == {"city": "Paris", "greeting": "Hello 你好"}
        assert last.output == last.id

    def test_shown_inside_the_project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A manifest inside the working folder is called by its path from there, however it was reached."""
        (tmp_path / "jobs").mkdir()
        path = tmp_path / "jobs" / "a.yaml"
        path.write_text("jobs: [a]")
        monkeypatch.chdir(tmp_path)
        for way in (path, Path("jobs/a.yaml"), Path("./jobs/../jobs/a.yaml")):
            manifest = load(way)
            assert manifest.file == manifest.pictures[0].place.manifest == "jobs/a.yaml"

    def test_shown_outside_the_project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A manifest elsewhere is called by its name alone: no folder outside the project is told."""
        (tmp_path / "here").mkdir()
        (tmp_path / "a.yaml").write_text("jobs: [a]")
        monkeypatch.chdir(tmp_path / "here")
        assert load(Path("../a.yaml")).file == "a.yaml"
        (tmp_path / "a.yaml").write_text("job: [a]")
        with pytest.raises(ManifestError) as caught:
            load(tmp_path / "a.yaml")
        assert str(tmp_path) not in str(caught.value)

    def test_strange_file_name(self, tmp_path: Path) -> None:
        """A file's name that is no text, or moves the terminal's cursor, is shown as something that is."""
        path = Path(os.fsdecode(bytes(tmp_path) + b"/a\xff\x1b.yaml"))
        path.write_text("name: a\njobs: [a]")
        assert load(path).file == "a??.yaml"

    def test_missing(self, tmp_path: Path) -> None:
        """A file that is not there is a mistake of the command line."""
        with pytest.raises(UsageError, match=r"there is no manifest a\.yaml"):
            load(tmp_path / "a.yaml")

    def test_folder(self, tmp_path: Path) -> None:
        """A folder is no manifest."""
        with pytest.raises(UsageError, match="is a folder"):
            load(tmp_path)

    def test_pipe(self, tmp_path: Path) -> None:
        """A pipe that nobody writes into is not waited for."""
        os.mkfifo(tmp_path / "a.yaml")
        with pytest.raises(ManifestError, match="pipe:1:1: the file is empty"):
            load(tmp_path / "a.yaml")

    def test_device(self) -> None:
        """What is neither a file nor a pipe is not read."""
        with pytest.raises(UsageError, match="not a regular file"):
            load(Path("/dev/zero"))

    @pytest.mark.parametrize("name", ["a\0b.yaml", "x" * 300 + ".yaml"])
    def test_impossible_name(self, tmp_path: Path, name: str) -> None:
        """A name that no file can have is no file, not a traceback."""
        with pytest.raises(UsageError):
            load(tmp_path / name)

    def test_loop_of_links(self, tmp_path: Path) -> None:
        """A link to itself cannot be read."""
        (tmp_path / "a.yaml").symlink_to("a.yaml")
        with pytest.raises(UsageError):
            load(tmp_path / "a.yaml")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_unreadable(self, tmp_path: Path) -> None:
        """A file that may not be read says why."""
        path = tmp_path / "a.yaml"
        path.touch(mode=0)
        with pytest.raises(UsageError, match="cannot be read"):
            load(path)

    @pytest.mark.parametrize(
        ("text", "hint"),
        [
            ("a fox\na whale\n", 'write "jobs:" in the first line, and "- " before each prompt'),
            ("- a fox\n- a whale\n", 'write "jobs:" above the list'),
            ("# nothing\n", 'begin it with "jobs:"'),
        ],
    )
    def test_what_is_no_manifest(self, text: str, hint: str) -> None:
        """A list of prompts, one a line or as YAML, is no manifest, and what makes one of it is said."""
        assert hint in problem_of(text.encode())

    @pytest.mark.parametrize("text", ["jobs: [a]\r\n", "\ufeffjobs:\r\n- a\r\n", "jobs:\r- a\r"])
    def test_line_ends(self, text: str) -> None:
        """Windows' line ends and its mark at the beginning, and those of old Macs, are read as all others."""
        assert load_text(text.encode()).pictures[0].job.prompt == "a"


class TestOverrides:
    def test_model(self) -> None:
        """A model from the command line takes every job's place, before ratios and defaults are looked up."""
        manifest = load_text("jobs: [{prompt: a, model: no-such-model, size: 16:9}]", Overrides(model="demo"))
        job = manifest.pictures[0].job
        assert (job.model, job.width, job.height, job.num_inference_steps) == ("demo", 336, 192, 8)
        assert "below Qwen/Qwen-Image" in problem_of(
            "jobs: [{prompt: a, model: demo, size: 64x64}]", Overrides(model="Qwen/Qwen-Image")
        )

    def test_unknown_model(self) -> None:
        """A model that does not exist is a mistake of the command line, not of the manifest."""
        with pytest.raises(UsageError) as caught:
            load_text("jobs: [a]", Overrides(model="dmeo"))
        assert caught.value.hint == 'did you mean "demo"?'

    def test_precision(self) -> None:
        """A precision from the command line takes every job's place."""
        manifest = load_text("jobs: [a, {prompt: b, precision: fp8}]", Overrides(precision="bf16"))
        assert {picture.job.precision for picture in manifest.pictures} == {"bf16"}

    def test_proof(self) -> None:
        """A rehearsal has the same ids, names, seeds and places, in a folder of its own, and small pictures."""
        text = """
            name: x
            output: "{id}-{width}-{hash}"
            jobs: [{prompt: a, sizes: [1:1, 16:9], count: 2, expect: {seconds: 1}}, b]
        """
        real, proof = load_text(text), load_text(text, PROOF)
        assert proof.name == "x-proof"
        for one, other in zip(real.pictures, proof.pictures, strict=True):
            assert (one.id, one.output, one.place, one.job.seed) == (
                other.id,
                other.output,
                other.place,
                other.job.seed,
            )
            assert (other.job.model, other.job.precision) == ("demo", "bf16")
            assert other.job.width * other.job.height <= 256 * 256 * 1.1

    def test_proof_of_a_bad_manifest(self) -> None:
        """A rehearsal finds the same problems as the real thing."""
        assert problems_of("jobs: [{prompt: a, size: 1x1}]", PROOF) == problems_of("jobs: [{prompt: a, size: 1x1}]")


class TestCap:
    @pytest.mark.parametrize(
        "fields",
        [
            "count: 10000, sizes: [1:1, 16:9]",
            "matrix: {" + ", ".join(f"a{n}: [{', '.join(map(str, range(100)))}]" for n in range(20)) + "}",
            "matrix: {a: [1]}, count: 5000, include: [{a: 2}]",
            "seeds: [" + ", ".join(map(str, range(10_001))) + "]",
        ],
    )
    def test_refused_before_it_is_made(self, fields: str) -> None:
        """Too many pictures are counted, not made: 10^40 combinations take no longer than two."""
        began = time.process_time()
        problem = problem_of(f"jobs:\n  - a\n  - {{prompt: p, {fields}}}")
        assert problem.startswith("3:5 jobs[1]: the manifest makes ")
        assert "allowed are 10,000 (max_pictures raises it" in problem
        assert time.process_time() - began < 2

    def test_raised_and_lowered(self) -> None:
        """The cap is the manifest's own to set."""
        text = "jobs: [{prompt: p, seed: 0, count: 3}]"
        assert len(load_text(f"max_pictures: 3\n{text}").pictures) == 3
        assert "makes 3 pictures, 3 of them here; allowed are 2" in problem_of(f"max_pictures: 2\n{text}")

    def test_another_s_manifest_has_the_server_s_cap(self) -> None:
        """Whatever cap it sets itself, it is not made first; and no cap of its own is advised that would not help."""
        few = Overrides(shelf=Shelf({"demo": "demo"}), most=2)
        for own in (1, 2, 10_000):
            said = problem_of(f"max_pictures: {own}\njobs: [{{prompt: p, count: 3}}]", few)
            hint = "max_pictures raises it" if own <= 2 else "ask for fewer at once"
            assert f"makes 3 pictures, 3 of them here; allowed are {min(own, 2)} ({hint}" in said

    def test_exactly(self) -> None:
        """Ten thousand pictures are allowed."""
        assert len(load_text("jobs: [{prompt: p, seed: 0, count: 10000}]").pictures) == 10_000

    def test_sum_over_jobs(self) -> None:
        """The cap is over all jobs; many jobs that take a large default are counted, not made."""
        began = time.process_time()
        text = "defaults: {count: 10000}\njobs:\n" + "  - a\n" * 10_000
        assert "makes 100,000,000 pictures" in problem_of(text)
        assert time.process_time() - began < 4


class TestExpect:
    def test_bytes(self) -> None:
        """Limits come to the picture in seconds and bytes; what is not said is not limited."""
        (picture,) = load_text("jobs: [{prompt: a, expect: {seconds: 1.5, vram: 2GiB}}]").pictures
        assert picture.expect is not None
        assert picture.expect.model_dump() == {
            "seconds": 1.5,
            "vram_bytes": 2**31,
            "ram_bytes": None,
            "lettering": None,
        }

    def test_bad(self) -> None:
        """A limit that is no amount is a problem where it stands."""
        assert "jobs[0].expect.ram: lots is not an amount" in problem_with("expect: {ram: lots}")


class TestSpeed:
    def test_ten_thousand_prompts(self) -> None:
        """Ten thousand prompts are read in two seconds."""
        text = "jobs:\n" + "".join(f'  - A poster with the text "NUMBER {number}"\n' for number in range(10_000))
        began = time.process_time()
        assert len(load_text(text).pictures) == 10_000
        assert time.process_time() - began < 2

    def test_without_torch(self, tmp_path: Path) -> None:
        """Reading 200 jobs takes a blink, and brings in none of the heavy libraries."""
        path = tmp_path / "a.yaml"
        path.write_text("jobs:\n" + "  - {prompt: a cat, sizes: [1:1, 16:9]}\n" * 200)
        program = f"""
import sys, time
from pathlib import Path
from renderer.manifest.manifest import load
began = time.process_time()
assert len(load(Path({str(path)!r})).pictures) == 400
print(time.process_time() - began)
print(sorted({{"torch", "diffsynth", "transformers", "modelscope"}} & set(sys.modules)))
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PROJECT)
        seconds, heavy = done.stdout.splitlines()
        assert heavy == "[]"
        assert float(seconds) < 0.2


class TestOurManifests:
    @pytest.mark.parametrize(("name", "count"), [("demo", 12), ("posters", 22), ("smoke", 1)])
    def test_load(self, name: str, count: int) -> None:
        """The manifests that are rendered here are well, in rehearsal too."""
        path = PROJECT / "jobs" / f"{name}.yaml"
        assert len(load(path).pictures) == count
        assert len(load(path, PROOF).pictures) == count

    def test_demo(self) -> None:
        """The demo is small: it is rendered on a CPU in seconds; four of its pictures have words, one is Chinese."""
        pictures = load(PROJECT / "jobs" / "demo.yaml").pictures
        assert {picture.job.model for picture in pictures} == {"demo"}
        assert max(picture.job.width * picture.job.height for picture in pictures) <= 304 * 224
        assert max(picture.job.num_inference_steps for picture in pictures) <= 12
        assert sum('the text "' in picture.job.prompt for picture in pictures) >= 4
        assert any("背景" in picture.job.prompt for picture in pictures)

    def test_smoke(self) -> None:
        """The smoke test has limits."""
        (picture,) = load(PROJECT / "jobs" / "smoke.yaml").pictures
        assert picture.expect is not None
        assert None not in picture.expect.model_dump(exclude={"lettering"}).values()


class TestSize:
    """A hundred thousand pictures are a manifest like any other."""

    def test_pictures_share_what_they_have_in_common(self) -> None:
        """Pictures of one job hold one value for how they are kept, for their limits and for their combination."""
        one, other, third = load_text(
            DEMO + "jobs: [{prompt: 'a {x}', matrix: {x: [b]}, count: 2, expect: {seconds: 9}}, c]"
        ).pictures
        assert one.expect is other.expect
        assert one.place.matrix is other.place.matrix
        assert one.keep is other.keep is third.keep

    def test_memory(self) -> None:
        """A picture takes less than two kilobytes, besides its prompt's own letters: 100,000 fit into 200 MB."""
        text = DEMO + "jobs: [{prompt: a cat, size: 64x64, count: 5000}]"
        load_text(text)  # what is made once
        tracemalloc.start()
        try:
            manifest = load_text(text)
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken / len(manifest.pictures) < 2000

    def test_made_and_read_are_the_same(self) -> None:
        """A picture that was made without checks is what pydantic reads from its JSON, and copies as such."""
        (picture,) = load_text(DEMO + "jobs: [a cat]").pictures
        assert Picture.model_validate_json(picture.model_dump_json()) == picture
        copied = picture.model_copy(update={"id": "other"})
        assert (copied.id, picture.id) == ("other", "001")
        assert hash(picture.job) == hash(Job.model_validate(picture.job.model_dump()))
