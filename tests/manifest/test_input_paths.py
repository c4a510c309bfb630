"""Which files a manifest's paths and patterns stand for, and what is said where they stand for none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from renderer.errors import ManifestError
from renderer.manifest import manifest
from tests.manifest.test_pictures_in import problem, write
from tests.users import as_another, needs_root


@pytest.mark.parametrize("output", ["", 'id: "{stem}", '])
def test_two_files_of_one_name_are_named(tmp_path: Path, output: str) -> None:
    """Whatever their folders and endings are: nothing else tells their pictures apart."""
    text = f"{{defaults: {{model: demo}}, jobs: [{{{output}prompt: a, image: '*/*.png'}}]}}"
    said = problem(tmp_path, text, a__one=(64, 64), b__one=(64, 48))
    assert "{stem} is the same of a/one.png and b/one.png: rename one" in said


def test_a_name_that_is_no_text_is_a_problem(tmp_path: Path) -> None:
    """It went into prompts and names, and ended the command as a fault of the program's own."""
    write(tmp_path, "", one=(64, 64)).unlink()
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff\xfe.png")).write_bytes((tmp_path / "one.png").read_bytes())
    said = problem(tmp_path, "{defaults: {model: demo}, jobs: [{prompt: a, image: '*.png'}]}")
    assert "jobs[0].image: a file that it fits has a name that is no text: ??.png (rename it" in said


@needs_root
@pytest.mark.parametrize("rights", [0o444, 0o000])
def test_a_folder_that_is_closed(rights: int) -> None:
    """Its names may be seen and its files not, or nothing: that is a problem, and no fault of the program's."""

    def prepare(folder: Path) -> None:
        path = write(folder, "{defaults: {model: demo}, jobs: [{prompt: a, image: 'p/*.png'}]}", p__one=(64, 64))
        path.chmod(0o644)
        (folder / "p").chmod(rights)

    def look(folder: Path) -> list[str]:
        try:
            manifest.load(folder / "edit.yaml")
        except ManifestError as error:
            return [str(each) for each in error.problems]
        return ["nothing"]

    (said,) = as_another(prepare, look)
    assert "jobs[0].image: p/*.png fits no file" in said


def test_files_that_a_pattern_leaves_out_for_their_case_are_doubted(tmp_path: Path) -> None:
    """Cameras write .JPG, and what saves them again .jpg."""
    path = write(tmp_path, "{defaults: {model: demo}, jobs: [{prompt: a, image: '*.png'}]}", a=(64, 64), b=(64, 48))
    assert manifest.load(path).warnings == ()
    (tmp_path / "b.png").rename(tmp_path / "b.PNG")
    (doubt,) = manifest.load(path).warnings
    assert str(doubt).endswith("*.png leaves out b.PNG, for the case of the ending (write *.[pP][nN][gG])")
    path.write_text(path.read_text().replace("*.png", "*.[pP][nN][gG]"))
    assert [len(manifest.load(path).pictures), manifest.load(path).warnings] == [2, ()]


def test_the_home_is_a_folder_as_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pictures, of patterns, of tables, and of a manifest that is extended."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/p").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    text = "extends: ~/base.yaml\njobs: [{image: ~/one.png, prompt: a}, {image: ~/p/*.png, prompt: b}, {rows: ~/t.csv}]"
    write(tmp_path / "home", "defaults: {model: demo, size: 64x64}", one=(64, 64), p__a=(64, 64)).rename(
        tmp_path / "home/base.yaml"
    )
    (tmp_path / "home/t.csv").write_text("prompt,image\nc,~/one.png\n")
    found = manifest.load(write(tmp_path / "work", text)).pictures
    assert [each.inputs[0].path for each in found] == [f"{tmp_path}/home/{name}.png" for name in ("one", "p/a", "one")]
