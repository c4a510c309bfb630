"""The program's own names in an output folder: in one place, reserved, and nowhere else."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from renderer.manifest import naming
from renderer.manifest.manifest import Manifest
from renderer.outputs import input_files, picks, status
from renderer.outputs.folder import OutputFolder, Own, is_reserved
from renderer.planning import plan
from renderer.report import page
from renderer.supervisor import events, run
from renderer.supervisor.settings import Settings, StopRequests
from renderer.system.files import PART_PREFIX
from tests.fakes import InlineWorker
from tests.making import make_manifest

(_PACKAGE,) = importlib.util.find_spec("renderer").submodule_search_locations  # type: ignore[union-attr, misc]
PACKAGE = Path(_PACKAGE)


SHOWN = {own for own in Own if own.stem}
"""Names that are not hidden: those that begin with a dot no picture can have."""


def name_of(output: str) -> str:
    return naming.output_name(naming.literal(output), {})


def over_a_photo(manifest: Manifest, photo: Path) -> Manifest:
    """The same, its first picture drawn over another."""
    Image.new("RGB", (64, 64), "teal").save(photo)
    known, file = input_files.identify(photo, photo.name)
    first, *others = manifest.pictures
    job = first.job.model_copy(update={"input_image": known})
    return replace(manifest, pictures=(first.model_copy(update={"job": job, "inputs": (file,)}), *others))


def test_whatever_a_run_writes_has_a_reserved_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that ever stands at the top of a folder during a run and after it, its page included, but for pictures."""
    monkeypatch.setattr(status, "_EVERY_S", 0.0)
    manifest, found = over_a_photo(make_manifest(("a", "fail")), tmp_path / "photo.png"), set[str]()
    folder = OutputFolder(tmp_path / manifest.name)

    def watch(_: events.Event) -> None:
        names = (path.name for path in folder.path.iterdir())
        found.update(name for name in names if not name.startswith(PART_PREFIX))  # threads write meanwhile

    class Logs(InlineWorker):
        def __init__(self, log: Path) -> None:
            super().__init__(log)
            log.write_text("as a worker would")

    run.render([manifest], Settings(outputs=tmp_path, hire=Logs), watch, StopRequests())
    page.write(plan.make_plan(manifest, tmp_path))
    picks.mark(folder, {"0" * 64: 5})
    watch(events.Tick())
    ours = found - {"p000.png", "p000.json"}
    assert ours <= set(Own), "a file that is not in the table"
    assert ours >= SHOWN - {Own.QUEUE}, "one that nobody writes any more"  # a server's is written by its own tests
    for own in SHOWN:
        assert is_reserved(own.partition(".")[0], folder=False)
        assert is_reserved(own, folder=True)


@pytest.mark.parametrize("own", sorted(SHOWN))
def test_no_picture_gets_one(own: Own) -> None:
    """Neither as its name nor as the name of its folder, in capitals neither."""
    assert name_of(own.stem) == f"{own.stem}_"
    assert name_of(own.stem.upper()) == f"{own.stem.upper()}_"
    assert name_of(f"{own}/p") == f"{own}_/p"
    assert name_of(f"{own.stem}/p") == f"{own.stem}_/p"
    assert name_of(f"p/{own.stem}") == f"p/{own.stem}"


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg", "a.json", "A.PNG", "summary.json"])
def test_no_folder_stands_where_a_file_belongs(name: str) -> None:
    """`a.png/b` and `a` are two pictures: the folder of the one must not be the file of the other."""
    assert name_of(f"{name}/b") == f"{name}_/b"
    assert name_of(f"x/{name}/b") == f"x/{name}_/b"
    assert name_of(f"x/{name}") == f"x/{name}"


def test_a_hidden_name_cannot_be_had(tmp_path: Path) -> None:
    """No output name begins with a dot."""
    hidden = set(Own) - SHOWN
    assert Own.LOCK in hidden
    assert not [own for own in hidden if name_of(f"{own}/p").startswith(".")]
    assert OutputFolder(tmp_path).picture(name_of("running")).name == "running_.png"


def _texts(path: Path) -> Iterator[str]:
    """The texts in a module that are not there to be read by people."""
    tree = ast.parse(path.read_text())
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value


def test_the_names_stand_in_one_place() -> None:
    """No other module or template spells one: it asks `layout`."""
    spelt = {own.value for own in Own} - {
        Own.ASSETS,
        Own.LOCK,
        Own.INPUTS,
    }  # a command; a suffix of other locks; a word in ComfyUI's graphs
    found = [
        f"{path.relative_to(PACKAGE)}: {text}"
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "outputs" / "folder.py"
        for text in _texts(path)
        if text.rpartition("/")[2] in spelt
    ]
    assert not found
    for path in (*PACKAGE.rglob("*.j2"), *PACKAGE.rglob("*.js")):
        assert not [own for own in spelt if own in path.read_text()], path


WRITERS = {"write_whole", "link_whole", "copy_whole", "append_line"} | {
    *("unlink", "rmdir", "rmtree", "rename", "write_bytes", "write_text", "touch", "symlink_to", "hardlink_to")
}
"""What writes a file, or takes one away: of `system.files`, and of the standard library."""

PAST_THE_FOLDER = {
    "outputs/folder.py": "it is the one place",
    "outputs/nights.py": "a run's own folder, beside those of pictures",
    "report/exporting.py": "a folder of somebody's own",
    "report/best.py": "what goes with a message, in a folder that goes again",
}
"""Modules that may write by themselves, and why."""


def test_into_an_output_folder_only_itself_writes() -> None:
    """It asks before each write whether it is this run's still: what is written past it would not be asked."""
    found = set()
    for wing in ("outputs", "planning", "report", "supervisor"):
        for path in (PACKAGE / wing).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                called = node.func if isinstance(node, ast.Call) else None
                name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
                found |= {f"{wing}/{path.name}"} if name in WRITERS else set()
    assert found == set(PAST_THE_FOLDER)
