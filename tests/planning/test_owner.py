"""Whose pictures a folder holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer.errors import UsageError
from renderer.manifest.manifest import Overrides, load
from renderer.outputs.summary import Summary
from renderer.supervisor import run
from renderer.supervisor.settings import Settings, StopRequests
from tests.fakes import InlineWorker

MANIFEST = "defaults: {model: demo, size: 64x64, steps: 2, seed: 1, precision: bf16}\njobs: [%s]\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.yaml", "b/x.yaml"):
        Path(name).parent.mkdir()
        Path(name).write_text(MANIFEST % name[0])


def render(name: str, *, proof: bool = False) -> Summary:
    settings = Settings(outputs=Path("outputs"), hire=InlineWorker)
    (summary,) = run.render([load(Path(name), Overrides(proof=proof))], settings, lambda _: None, StopRequests())
    return summary


def test_two_manifests_of_one_name_are_told_apart_in_two_commands() -> None:
    """The second is refused by name and with what helps; nothing of the first's is touched, its summary neither."""
    assert render("a/x.yaml").rendered == 1
    before = {path: path.read_bytes() for path in Path("outputs/x").iterdir() if path.is_file()}
    with pytest.raises(UsageError, match=r"holds the pictures of a/x.yaml, and b/x.yaml would") as raised:
        render("b/x.yaml")
    assert "another name:" in raised.value.hint
    assert before == {path: path.read_bytes() for path in Path("outputs/x").iterdir() if path.is_file()}


def test_a_rehearsal_is_another_night_of_the_same_file() -> None:
    """What is called like a manifest's rehearsal is not it, though the file is the same."""
    assert render("a/x.yaml", proof=True).rendered == 1
    Path("a/x.yaml").write_text(f"name: x-proof\n{MANIFEST % 'a'}")
    with pytest.raises(UsageError, match=r"holds the pictures of a/x.yaml with --proof"):
        render("a/x.yaml")


def test_a_file_that_moves_takes_its_folder_with_it() -> None:
    """Moved, renamed with `name:`, or with the whole project: nothing is rendered again."""
    render("a/x.yaml")
    Path("a/x.yaml").rename("x.yaml")
    assert render("x.yaml").skipped == 1
    Path("b/x.yaml").write_text(f"name: x\n{MANIFEST % 'a'}")
    Path("x.yaml").unlink()
    assert render("b/x.yaml").skipped == 1


def test_a_project_that_moves_keeps_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is as seen from the folder, so it holds in a copy of the whole, also beside the first."""
    render("a/x.yaml")
    (tmp_path / "copy").mkdir()
    for name in ("a", "b", "outputs"):
        Path(name).rename(tmp_path / "copy" / name)
    monkeypatch.chdir(tmp_path / "copy")
    assert render("a/x.yaml").skipped == 1
    with pytest.raises(UsageError, match="holds the pictures"):
        render("b/x.yaml")


def test_a_rehearsal_s_folder_is_its_own() -> None:
    """`x --proof` and a manifest that is called `x-proof` are two."""
    render("a/x.yaml", proof=True)
    Path("x-proof.yaml").write_text(MANIFEST % "c")
    with pytest.raises(UsageError, match=r"a/x\.yaml with --proof"):
        render("x-proof.yaml")
    assert render("a/x.yaml", proof=True).skipped == 1


def test_a_link_is_the_file_it_leads_to() -> None:
    """Called by another path, it is the same manifest."""
    render("a/x.yaml")
    Path("x.yaml").symlink_to("a/x.yaml")
    assert render("x.yaml").skipped == 1


def test_nothing_is_told_of_manifests_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are handed on: a path outside the working folder stands in none of their files."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    render("../a/x.yaml")
    told = b"".join(path.read_bytes() for path in Path("outputs/x").rglob("*") if path.is_file())
    assert b"a/x.yaml" not in told


@pytest.mark.parametrize("text", ["", "{", "[]", '{"manifest": 1}', "x" * 2**17])
def test_what_says_nothing_is_in_nobody_s_way(text: str) -> None:
    """Half a file, another file: the folder is taken."""
    render("a/x.yaml")
    Path("outputs/x/.owner.json").write_text(text)
    assert render("b/x.yaml").rendered == 1
