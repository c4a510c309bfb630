"""What manifests name no more: listed, and removed when somebody says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from renderer.cli import command
from renderer.outputs import input_files, picture_files
from renderer.outputs.folder import OutputFolder
from renderer.planning import prune
from renderer.planning.plan import make_plan
from tests.nights import make_night
from tests.planning.test_owner import MANIFEST, render
from tests.supervisor.test_moving import named


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    """Three pictures, of which a manifest will name one."""
    make_night(named(n1="a", n2="b", **{"sub/n3": "c"}), tmp_path)
    return OutputFolder(tmp_path / "test")


class TestLook:
    def test_what_is_named_or_will_be_moved_stays(self, folder: OutputFolder) -> None:
        """n1 is in its place, n2's picture goes to another name; what is left is nobody's, with its bytes."""
        plan = make_plan(named(n1="a", n9="b"), folder.path.parent)
        found = prune.look(plan)
        size = folder.picture("sub/n3").stat().st_size + folder.sidecar("sub/n3").stat().st_size
        assert ([orphan.output for orphan in found.found], found.bytes) == (["sub/n3"], size)
        prune.remove(found)
        assert not (folder.path / "sub").exists()
        assert prune.look(plan).found == ()
        assert [item.source is not None or item.sidecar is not None for item in plan.items] == [True, True]

    def test_what_is_not_ours_stays(self, folder: OutputFolder) -> None:
        """Foreign pictures and JSON, and pictures that somebody has painted in since, are never removed."""
        foreign = {"mine.png": b"x", "data.json": b"{}", "n4.json": folder.sidecar("n1").read_bytes()[:-100]}
        for name, data in foreign.items():
            (folder.path / name).write_bytes(data)
        folder.picture("n2").write_bytes(folder.picture("n2").read_bytes() + b"!")
        found = prune.look(make_plan(named(n1="a"), folder.path.parent))
        assert ([orphan.output for orphan in found.found], found.changed) == (["sub/n3"], ("n2",))
        prune.remove(found)
        assert folder.picture("n2").exists()
        assert folder.sidecar("n2").exists()
        assert {name: (folder.path / name).read_bytes() for name in foreign} == foreign

    def test_a_link_in_a_picture_s_place_is_somebody_s(self, folder: OutputFolder, tmp_path: Path) -> None:
        """What it leads to may be the very picture: it was put there by hand, and stays."""
        folder.picture("n2").rename(tmp_path / "moved.png")
        folder.picture("n2").symlink_to(tmp_path / "moved.png")
        folder.inputs.mkdir()
        link = folder.inputs / f"{'0' * 64}.png"
        link.symlink_to(tmp_path / "moved.png")
        found = prune.look(make_plan(named(n1="a"), folder.path.parent))
        assert (found.changed, found.inputs) == (("n2",), {})
        prune.remove(found)
        assert (tmp_path / "moved.png").exists()
        assert folder.picture("n2").is_symlink()
        assert link.is_symlink()

    def test_what_a_picture_that_stays_was_made_of_stays(self, tmp_path: Path) -> None:
        """Somebody has painted in it since: with its sidecar it can be made anew."""
        Image.new("RGB", (64, 64), "teal").save(tmp_path / "photo.png")
        known, file = input_files.identify(tmp_path / "photo.png", "photo.png")
        (first,) = named(n1="a").pictures
        job = first.job.model_copy(update={"input_image": known})
        over = replace(named(n1="a"), pictures=(first.model_copy(update={"job": job, "inputs": (file,)}),))
        make_night(over, tmp_path)
        folder = OutputFolder(tmp_path / "test")
        input_files.keep(folder, file)
        painted = folder.picture("n1")
        painted.write_bytes(painted.read_bytes() + b"!")
        found = prune.look(make_plan(named(n2="b"), tmp_path))
        assert (found.changed, found.inputs) == (("n1",), {})

    def test_a_sidecar_without_its_picture_goes(self, folder: OutputFolder) -> None:
        """What a run that died in the middle of a removal left."""
        folder.picture("n2").unlink()
        prune.remove(prune.look(make_plan(named(n1="a"), folder.path.parent)))
        assert not folder.sidecar("n2").exists()
        assert picture_files.read_sidecar(folder.sidecar("n1")) is not None

    def test_what_went_in_goes_with_its_last_picture(self, folder: OutputFolder, tmp_path: Path) -> None:
        """Files that nobody was made of any more; those that the manifest takes, and strangers' files, stay."""
        Image.new("RGB", (64, 64), "teal").save(tmp_path / "photo.png")
        known, file = input_files.identify(tmp_path / "photo.png", "photo.png")
        input_files.keep(folder, file)
        (folder.inputs / f"{'0' * 64}.jpg").write_bytes(b"of a picture that is gone")
        (folder.inputs / "mine.png").write_bytes(b"not ours")
        first, *others = named(n1="a", n2="b").pictures
        job = first.job.model_copy(update={"input_image": known})
        manifest = replace(named(n1="a"), pictures=(first.model_copy(update={"job": job, "inputs": (file,)}), *others))
        found = prune.look(make_plan(manifest, folder.path.parent))
        assert [path.name for path in found.inputs] == [f"{'0' * 64}.jpg"]
        assert found.bytes == sum(each.bytes for each in found.found) + 25
        prune.remove(found)
        assert sorted(path.name for path in folder.inputs.iterdir()) == sorted([f"{known.sha256}.png", "mine.png"])


class TestCommand:
    def test_nothing_goes_before_somebody_says_yes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Listed with bytes, then removed; another manifest's folder is refused, and one in use is left alone."""
        monkeypatch.chdir(tmp_path)
        manifest = Path("x.yaml")
        manifest.write_text(MANIFEST % "a, b, c")
        render("x.yaml")
        manifest.write_text(MANIFEST % "a, b")
        assert command.main(["prune", "x.yaml"]) == 0
        said = capsys.readouterr().out
        assert "outputs/x/003.png" in said
        assert "1 picture that the manifest does not name" in said
        assert "--yes removes" in said
        assert Path("outputs/x/003.png").exists()
        with OutputFolder(Path("outputs/x")).locked():
            assert command.main(["prune", "x.yaml", "--yes"]) == 75
        manifest.write_text(MANIFEST % "a")
        assert command.main(["prune", "x.yaml", "--yes", "--json"]) == 0
        (told,) = json.loads(capsys.readouterr().out)
        assert [Path(each["file"]).name for each in told["pictures"]] == ["002.png", "003.png"]
        assert not Path("outputs/x/002.png").exists()
        Path("other").mkdir()
        Path("other/x.yaml").write_text(MANIFEST % "z")
        assert command.main(["prune", "other/x.yaml", "--yes"]) == 2
        assert Path("outputs/x/001.png").exists()
