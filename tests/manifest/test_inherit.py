"""`extends` and `vars`: what a manifest takes from another file, and where what is wrong there is said to be."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from PIL import Image

from renderer.catalog import QWEN_IMAGE
from renderer.errors import ManifestError
from renderer.manifest import manifest
from renderer.manifest.manifest import Manifest, Overrides
from renderer.manifest.shelf import Shelf
from renderer.manifest.source import ManifestSource

BASE = """
vars: {house: ACME, tone: warm}
output: "{id}-{seed}"
max_pictures: 3
defaults:
  model: demo
  steps: 4
  size: 64x64
  seed: 1
  prompt: "{thing} of {house}, {tone}"
  expect: {seconds: 9}
name: base
jobs: [{promt: never looked at}]
"""


def load(folder: Path, files: dict[str, str], name: str = "m.yaml", overrides: Overrides | None = None) -> Manifest:
    for each, text in files.items():
        (folder / each).parent.mkdir(parents=True, exist_ok=True)
        (folder / each).write_text(textwrap.dedent(text), encoding="utf-8")
    return manifest.load(folder / name, overrides or manifest.NO_OVERRIDES)


def problems(folder: Path, files: dict[str, str], name: str = "m.yaml") -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load(folder, files, name)
    return [str(each) for each in caught.value.problems]


class TestExtends:
    def test_a_picture_in_a_cell_of_the_bases_table(self, tmp_path: Path) -> None:
        """It is from the folder of the manifest that names the table, whoever gives other pictures."""
        (tmp_path / "shared").mkdir()
        Image.new("RGB", (64, 64), "red").save(tmp_path / "shared/p.png")
        files = {
            "shared/base.yaml": "defaults: {model: demo, rows: t.csv}\n",
            "shared/t.csv": "prompt,image\na,p.png\n",
            "m.yaml": "extends: shared/base.yaml\njobs: [{steps: 4}]\n",
        }
        assert load(tmp_path, files).pictures[0].job.input_image is not None

    def test_what_is_inherited(self, tmp_path: Path) -> None:
        """Head, defaults and vars a field at a time, the nearer first; neither name nor jobs."""
        text = """
            extends: shared/base.yaml
            vars: {tone: cold}
            defaults: {sizes: [64x64, 80x64], steps: 6}
            jobs: [{matrix: {thing: [a cup]}, id: cup}]
        """
        found = load(tmp_path, {"shared/base.yaml": BASE, "m.yaml": text})
        assert (found.name, found.bases) == ("m", (tmp_path / "shared/base.yaml",))
        assert [each.output for each in found.pictures] == ["cup-64x64-1", "cup-80x64-1"]
        job = found.pictures[0].job
        assert (job.prompt, job.num_inference_steps, job.model) == ("a cup of ACME, cold", 6, "demo")
        assert found.pictures[0].expect is not None
        assert found.pictures[0].place.matrix == {"thing": "a cup", "house": "ACME", "tone": "cold"}
        assert found.pictures[0].place.line == 5

    def test_a_chain(self, tmp_path: Path) -> None:
        """What the nearest file says holds; each path is from its own file's folder."""
        (tmp_path / "a/b").mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "a/b/p.png")
        files = {
            "a/b/top.yaml": "defaults: {model: demo, steps: 3, seed: 1, image: p.png, strength: 0.5}",
            "a/mid.yaml": "extends: b/top.yaml\ndefaults: {steps: 5}",
            "m.yaml": "extends: a/mid.yaml\njobs: [x]",
        }
        found = load(tmp_path, files)
        assert (found.pictures[0].job.num_inference_steps, found.pictures[0].job.seed) == (5, 1)
        assert found.bases == (tmp_path / "a/mid.yaml", tmp_path / "a/b/top.yaml")
        assert found.pictures[0].inputs[0].path == str(tmp_path / "a/b/p.png")
        (said,) = problems(tmp_path, {**files, "a/b/top.yaml": "\ndefaults: {seed: 1, cfg_scale: 0}"})
        assert "top.yaml:2:32 defaults.cfg_scale: 0.0 is out of range" in said

    def test_jobs_are_a_manifest_s_own(self, tmp_path: Path) -> None:
        """Also where it has none, and what it extends has some."""
        (said,) = problems(
            tmp_path, {"base.yaml": "jobs: [x]", "m.yaml": "extends: base.yaml\ndefaults: {model: demo}"}
        )
        assert "jobs: is missing" in said

    def test_a_comment_in_a_base_is_doubted_there(self, tmp_path: Path) -> None:
        """A text that is cut short by one is a warning of the file and the line that it stands in."""
        files = {
            "base.yaml": "defaults:\n  model: demo\n  prompt: sale #1 poster\n",
            "m.yaml": "extends: base.yaml\njobs: [{id: x}]",
        }
        (warning,) = load(tmp_path, files).warnings
        assert (Path(warning.file).name, warning.line) == ("base.yaml", 3)
        assert 'what follows " #" is a comment' in warning.message

    def test_paths_are_from_the_file_that_names_them(self, tmp_path: Path) -> None:
        """Pictures, masks and tables, also where both files name one of the same name."""
        for folder, colour in (("", "red"), ("shared [1]", "blue")):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.new("RGB", (64, 64), colour).save(tmp_path / folder / "p.png")
            (tmp_path / folder / "t.csv").write_text(f"word\n{colour}\n")
        files = {
            "shared [1]/base.yaml": "defaults: {model: demo, image: p.p*, strength: 0.5, rows: t.csv}",
            "m.yaml": """
                extends: shared [1]/base.yaml
                jobs:
                  - "{word}"
                  - {prompt: "{word}", image: p.png, rows: t.csv}
            """,
        }
        first, second = load(tmp_path, files).pictures
        assert [each.job.prompt for each in (first, second)] == ["blue", "red"]
        assert first.job.input_image != second.job.input_image
        assert [Path(each.inputs[0].path).parent.name for each in (first, second)] == ["shared [1]", tmp_path.name]

    @pytest.mark.parametrize(
        ("base", "text", "words"),
        [
            ("defaults: {stpes: 3}", "jobs: [x]", 'base.yaml:1:12 defaults.stpes: unknown key (did you mean "steps"?)'),
            ("x: 1\ndefaults: {steps: 3}", "jobs: [x]", "base.yaml:1:1 x: unknown key"),
            ("\ndefaults:\n  sizes: [1:1,\n    64x64]", "jobs: [x]", "base.yaml:4:5 defaults.sizes[1]: 64x64 is"),
            ("defaults: {steps: 3, steps: 4}", "jobs: [x]", "base.yaml:1:22 defaults.steps: repeated key"),
            ("defaults: {a: *b}", "jobs: [x]", "base.yaml:1:15 defaults.a: the alias *b is not allowed"),
            ("defaults: [", "jobs: [x]", "base.yaml:2:1: did not find"),
            ("- x", "jobs: [x]", "m.yaml:1:10 extends: base.yaml is not a manifest"),
            ("vars: {id: x}", "jobs: [x]", "base.yaml:1:8 vars.id: id is a field of output already"),
            ("vars: {a: 1}", "jobs: ['{b}']", "m.yaml:2:8 jobs[0]: {b} is not a name of the matrix or of vars"),
            ("vars: {a: 1}", "jobs: [{prompt: x, model: 'm/{b}'}]", "m.yaml:2:27 jobs[0].model: {b} is not a name of"),
            ("extends: m.yaml", "jobs: [x]", "base.yaml:1:10 extends: a circle: m.yaml extends base.yaml extends m"),
            ("extends: nowhere.yaml", "jobs: [x]", "base.yaml:1:10 extends: there is no manifest nowhere.yaml"),
            ("extends: [a]", "jobs: [x]", "base.yaml:1:10 extends: must be a file"),
            ("extends: .", "jobs: [x]", "is a folder, not a manifest"),
        ],
    )  # fmt: skip
    def test_problems_are_where_they_were_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, text: str, words: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        found = problems(Path(), {"base.yaml": base, "m.yaml": f"extends: base.yaml\n{text}"})
        assert found[0].startswith(words) or words in found[0]
        assert len(found) == 1

    def test_too_long_a_chain(self, tmp_path: Path) -> None:
        files = {f"{number}.yaml": f"extends: {number + 1}.yaml" for number in range(40)}
        (said,) = problems(tmp_path, {**files, "m.yaml": "extends: 0.yaml\njobs: [x]"})
        assert "more than 16 manifests extend one another" in said

    def test_what_is_read_now_is_what_stands_there_now(self, tmp_path: Path) -> None:
        """Nothing of a base is kept."""
        files = {"m.yaml": "extends: base.yaml\njobs: [x]"}
        for steps in (3, 4):
            found = load(tmp_path, {**files, "base.yaml": f"defaults: {{model: demo, steps: {steps}}}"})
            assert found.pictures[0].job.num_inference_steps == steps

    def test_no_strangers_manifest_extends_another(self, tmp_path: Path) -> None:
        """Whoever sends one to a server learns of no file."""
        (tmp_path / "base.yaml").write_text("nonsense: 1")
        given = ManifestSource(f"extends: {tmp_path}/base.yaml\njobs: [x]".encode(), "request", "request")
        with pytest.raises(ManifestError, match="extends: names a file, and no file of this machine is read"):
            manifest.parse(given, Overrides(shelf=Shelf({"a": QWEN_IMAGE.id})))

    def test_what_a_manifest_is_made_of(self, tmp_path: Path) -> None:
        """Whoever watches files knows of all of them, also where the manifest or its base is not well or not there."""
        files = {
            "top.yaml": "defaults: {model: demo}",
            "base.yaml": "extends: top.yaml",
            "m.yaml": "extends: base.yaml\njobs: [{rows: t.csv}]",
            "t.csv": "prompt\na cat\n",
        }
        found = load(tmp_path, files)
        assert found.bases == manifest.bases_of(tmp_path / "m.yaml") == (tmp_path / "base.yaml", tmp_path / "top.yaml")
        assert found.tables == (tmp_path / "t.csv",)
        (tmp_path / "base.yaml").write_text("extends: [nonsense")
        assert manifest.bases_of(tmp_path / "m.yaml") == (tmp_path / "base.yaml",)
        (tmp_path / "base.yaml").unlink()
        assert manifest.bases_of(tmp_path / "m.yaml") == (tmp_path / "base.yaml",)


class TestVars:
    def test_they_stand_wherever_names_do(self, tmp_path: Path) -> None:
        """In ids, prompts, paths, weights, tables' names, models and output names; as they were written."""
        (tmp_path / "photos").mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / "photos/a.png")
        (tmp_path / "t7.csv").write_text("word,series\nA,own\n")
        text = """
            vars: {price: 1.50, series: "007", folder: photos, which: demo, unused: 1}
            output: "{series}/{id}"
            defaults: {model: "{which}", negative_prompt: "{price}", cfg_scale: 2}
            jobs:
              - {id: "x{series}", prompt: "{{it}} costs {price}", image: "{folder}/*.png", lettering: ["{price}"]}
              - {prompt: "{word}", rows: "t7.csv"}
              - {prompt: "{series}", matrix: {series: [mine]}}
        """
        first, second, third = load(tmp_path, {"m.yaml": text}).pictures
        assert (first.id, first.output, first.job.prompt) == ("x007", "007/x007", "{it} costs 1.50")
        assert (first.job.negative_prompt, first.job.model) == ("1.50", "demo")
        assert first.lettering is not None
        assert first.lettering.texts == ("1.50",)
        assert set(first.place.matrix) == {"price", "series", "folder", "stem"}
        assert (second.output, third.output, third.job.prompt) == ("own/002-001", "mine/003", "mine")

    def test_beside_include(self, tmp_path: Path) -> None:
        """What `include` adds gives the matrix's names, and neither those of `vars` nor a row's."""
        (tmp_path / "t.csv").write_text("word\nA\n")
        text = """
            vars: {tone: warm}
            jobs: [{prompt: "{word} {x} {tone}", rows: t.csv, matrix: {x: [1]}, include: [{x: 2}]}]
        """
        found = load(tmp_path, {"m.yaml": text}).pictures
        assert [each.job.prompt for each in found] == ["A 1 warm", "A 2 warm"]

    def test_without_vars_braces_are_braces(self, tmp_path: Path) -> None:
        assert load(tmp_path, {"m.yaml": "jobs: ['{a} {{b}}']"}).pictures[0].job.prompt == "{a} {{b}}"
