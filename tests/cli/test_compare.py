"""The whole command with the fakes' worker, whose pictures are of their jobs: another precision is another picture."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from renderer.cli import command, compare
from renderer.cli.compare import Likeness
from renderer.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_USAGE
from renderer.job import Precision
from renderer.manifest.manifest import Overrides, load
from renderer.report import perception
from renderer.report.perception import Distances
from tests import driving


def call(folder: Path, *arguments: str) -> tuple[int, str]:
    process = driving.start("compare", *arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    out, _ = process.communicate(timeout=120)
    return process.returncode, out.decode()


def test_side_by_side(tmp_path: Path) -> None:
    """Each picture at each precision, once; figures for people and for machines; and a page."""
    manifest = driving.write_manifest(tmp_path, "a cat", "a dog")
    code, told = call(tmp_path, manifest, "--precision", "bf16,int8")
    folder = tmp_path / "outputs" / "m-compare"
    assert code == EXIT_DONE
    assert sorted(path.name for path in folder.glob("0*.png")) == [
        f"{number}-{precision}.png" for number in ("001", "002") for precision in ("bf16", "int8")
    ]
    head, row, page = told.splitlines()
    assert head.split()[:3] == ["against", "bf16", "pictures"]
    assert row.split()[:2] == ["int8", "2"]
    assert page == "outputs/m-compare/index.html"
    assert "001-int8" in (folder / "index.html").read_text(encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("0*.png")}
    code, told = call(tmp_path, manifest, "--precision", "bf16,int8", "--json", "--only", "002")
    assert (code, {path: path.stat().st_mtime_ns for path in folder.glob("0*.png")}) == (EXIT_DONE, before)
    (found,) = json.loads(told)["pictures"]
    assert (found["id"], found["precision"]) == ("002", "int8")
    assert 5 < found["psnr_db"] < 12  # of two pictures that have nothing to do with each other
    assert abs(found["ssim"]) < 0.5


def test_one_that_failed(tmp_path: Path) -> None:
    """It is compared with nothing, and the code tells."""
    manifest = driving.write_manifest(tmp_path, "a cat", "fail")
    code, told = call(tmp_path, manifest, "--precision", "bf16,fp8", "--retries", "0", "--json")
    assert code == EXIT_FAILED
    assert [each["id"] for each in json.loads(told)["pictures"]] == ["001"]


def test_none_is_begun_again(tmp_path: Path) -> None:
    """A picture whose lettering is wrong has another seed the next time, and would be compared with the first."""
    path = tmp_path / "m.yaml"
    path.write_text(f"{driving.HEAD}  - {{prompt: a sign with “OPEN”, lettering: auto, retake: 2}}\n", encoding="utf-8")
    precisions: tuple[Precision, ...] = ("bf16", "int8")
    manifests = {precision: load(path, Overrides(None, precision)) for precision in precisions}
    wanted = [picture.lettering for picture in compare._side_by_side(manifests).pictures]
    assert [(each.texts, each.seeds) for each in wanted if each] == [(("OPEN",), ())] * 2


def test_no_format_costs_a_comparison_its_pixels(tmp_path: Path) -> None:
    """What is kept as JPEG elsewhere is compared as it was rendered."""
    path = tmp_path / "m.yaml"
    path.write_text(f"{driving.HEAD}  - {{prompt: a, format: jpeg, embed: none}}\n", encoding="utf-8")
    manifests = {each: load(path, Overrides(None, each)) for each in ("bf16", "int8")}
    kept = [picture.keep for picture in compare._side_by_side(manifests).pictures]  # type: ignore[arg-type]
    assert [(each.format, each.embed) for each in kept] == [("png", "none")] * 2


def test_one_that_was_stopped_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is compared is all that there is so far, and the code is that of a run whose time is up."""
    monkeypatch.chdir(tmp_path)
    manifest = driving.write_manifest(tmp_path, "a cat")
    asked = ["compare", manifest, "--precision", "bf16,int8", "--max-hours", "0.000001", "--json"]
    assert command.main(asked) == EXIT_STOPPED
    assert json.loads(capsys.readouterr().out)["pictures"] == []


def test_lpips_has_its_columns_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each pair its own figure, in the table the middle and the highest; without it, why it is missing."""
    paths = {f"{name}-{precision}": tmp_path / f"{name}{precision}" for name in "ab" for precision in ("bf16", "int8")}
    found = [Likeness(name, "int8", 30.0, 0.9) for name in "ab"]
    asked: list[object] = []

    def distances(pairs: Sequence[tuple[Path, Path]]) -> Distances:
        asked.extend(pairs)
        return Distances((0.125, 0.25))

    monkeypatch.setattr(perception, "distances", distances)
    told, missing = compare._perceived(found, "bf16", paths)
    assert asked == [(paths[f"{name}-bf16"], paths[f"{name}-int8"]) for name in "ab"]
    assert ([each.lpips for each in told], missing) == ([0.125, 0.25], "")
    head, row = compare._lines(told, ("bf16", "int8"))
    assert head.split()[-4:] == ["LPIPS", "highest", "least", "alike"]
    assert row.split()[-3:] == ["0.1875", "0.2500", "a"]
    monkeypatch.setattr(perception, "distances", lambda _: Distances(reason="it is not here"))
    assert compare._perceived(found, "bf16", paths) == (found, "it is not here")
    assert "LPIPS" not in next(compare._lines(found, ("bf16", "int8")))


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One precision alone, one that there is not, and a picture that there is not."""
    monkeypatch.chdir(tmp_path)
    manifest = driving.write_manifest(tmp_path, "a cat")
    for asked, told in (("bf16", "give two at the least"), ("bf16,int9", "int9: not one of bf16")):
        with pytest.raises(SystemExit) as ended:
            command.main(["compare", manifest, "--precision", asked])
        assert ended.value.code == EXIT_USAGE
        assert told in capsys.readouterr().err
    assert command.main(["compare", manifest, "--only", "moon"]) == EXIT_USAGE
    assert "no picture or job moon" in capsys.readouterr().err
    assert compare._precisions(" int8, bf16 ,int8") == ("int8", "bf16")
