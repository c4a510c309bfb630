"""`--watch-folder`: manifests that are put into a folder are rendered as they come, by the real command."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

import pytest

from renderer.errors import EXIT_FAILED
from renderer.supervisor.watched import WatchedFolder
from tests import driving
from tests.cli.test_pausing import Say, say
from tests.waiting import until

__all__ = ["say"]


class TestWhichAreTaken:
    def test_a_file_is_taken_when_it_is_still(self, tmp_path: Path) -> None:
        """One that grows is waited for, once taken it is not taken again, and once more when it has changed."""
        folder, path = WatchedFolder(tmp_path), tmp_path / "m.yaml"
        path.write_text("jobs:")
        assert folder.look(100.0) == []
        path.write_text("jobs: [a]")
        assert folder.look(100.9) == []
        assert folder.look(101.8) == []
        assert folder.look(101.9) == [path]
        assert folder.look(200.0) == []
        path.write_text("jobs: [a, b]")
        assert [folder.look(201.0), folder.look(202.0)] == [[], [path]]
        folder.try_again(path, 202.0)
        assert [folder.look(211.0), folder.look(212.0), folder.look(300.0)] == [[], [path], []]

    def test_a_file_is_made_of_others_too(self, tmp_path: Path) -> None:
        """It is taken once more when one of these changes, comes or goes, and is else left alone."""
        folder, path, base = WatchedFolder(tmp_path), tmp_path / "m.yaml", tmp_path / "base.txt"
        path.write_text("jobs: [a]")
        folder.look(100.0)
        assert folder.look(101.0) == [path]
        folder.stands_on(path, [base])
        assert folder.look(110.0) == folder.look(120.0) == []
        for number, text in enumerate(("x", "xy")):
            base.write_text(text)
            assert [folder.look(200.0 + number * 10), folder.look(202.0 + number * 10)] == [[], [path]]
        base.unlink()
        assert [folder.look(300.0), folder.look(302.0), folder.look(310.0)] == [[], [path], []]

    def test_an_old_file_may_still_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file server's clock is behind, or this one was put forward: how old a file looks says nothing."""
        monkeypatch.setattr("time.time", lambda: 4e9)
        path = tmp_path / "m.yaml"
        path.write_text("jobs: [half of a")
        folder = WatchedFolder(tmp_path)
        assert folder.look(100.0) == []
        path.write_text("jobs: [half of a prompt]")
        assert [folder.look(100.5), folder.look(101.5)] == [[], [path]]

    def test_other_files_are_never_taken(self, tmp_path: Path) -> None:
        """Tables, hidden files and what an editor writes beside are no manifests; a folder that is away has none."""
        for name in ("old.yaml", "b.YML", "c.json", ".hidden.yaml", "rows.csv", "m.yaml~", "m.yaml.part"):
            (tmp_path / name).write_text("jobs: [a]")
            os.utime(tmp_path / name, (1.0, 1.0))
        (tmp_path / "folder.yaml").mkdir()
        folder = WatchedFolder(tmp_path)
        folder.look(100.0)
        assert [path.name for path in folder.look(101.0)] == ["b.YML", "c.json", "old.yaml"]
        assert [path.name for path in folder.there()] == ["b.YML", "c.json", "old.yaml"]
        shutil.rmtree(tmp_path)
        assert (folder.look(200.0), folder.there()) == ([], [])

    def test_a_file_that_cannot_be_looked_at_is_in_no_other_s_way(self, tmp_path: Path) -> None:
        """A link that leads back to itself, which the system lists first or last."""
        for name in "abcdefgh":
            (tmp_path / f"{name}.yaml").write_text("jobs: [a]")
            (tmp_path / f"{name}-loop.yaml").symlink_to(f"{name}-loop.yaml")
        folder = WatchedFolder(tmp_path)
        folder.look(100.0)
        assert [path.name for path in folder.look(101.0)] == [f"{name}.yaml" for name in "abcdefgh"]

    def test_a_folder_that_was_away_is_known_when_it_comes_back(self, tmp_path: Path) -> None:
        """A share that was mounted again: what was taken is not taken once more."""
        inbox = tmp_path / "inbox"
        inbox.mkdir()
        (inbox / "m.yaml").write_text("jobs: [a]")
        folder = WatchedFolder(inbox)
        folder.look(100.0)
        assert folder.look(101.0) == [inbox / "m.yaml"]
        inbox.rename(tmp_path / "away")
        assert folder.look(102.0) == []
        (tmp_path / "away").rename(inbox)
        assert folder.look(103.0) == folder.look(110.0) == []


def test_manifests_are_rendered_as_they_come(tmp_path: Path, say: Say) -> None:
    """Good ones, a bad one whose problems are said once, one that grows; then `stop`, and all is remembered."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    driving.write_manifest(inbox, "a", "b", name="first")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    arguments = ("render", "--watch-folder", "inbox", "--log-format", "plain", "--live", "--port", port)
    (inbox / "base.yaml").write_text("defaults: {steps: 3}\n")
    code, planned = say(*arguments, "--dry-run")
    assert (code, "2 files in inbox now" in planned, "2 pictures to render" in planned) == (0, True, True)
    process = driving.start(*arguments, cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        until(lambda: len(driving.pictures(tmp_path, "first")) == 2)
        (inbox / "bad.yaml").write_text("jobs: [{promt: a}]")
        driving.write_manifest(tmp_path, "c", name="second")
        (tmp_path / "second.yaml").rename(inbox / "second.yaml")
        until(lambda: driving.pictures(tmp_path, "second") == ["001.png"])
        driving.write_manifest(inbox, "a", "b", "c", name="first")
        until(lambda: len(driving.pictures(tmp_path, "first")) == 3)
        until((tmp_path / "outputs/second/index.html").exists)
        until(lambda: _is_served(f"http://127.0.0.1:{port}/second/"))
        assert say("stop") == (
            0,
            "first, second: it stops: what is in flight may finish; stop it once more to end at once\n",
        )
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    said = told.decode()
    assert process.returncode == EXIT_FAILED, "one is not well"
    assert said.count('did you mean "prompt"?') == 1
    assert "waiting for manifests in inbox" in said
    again = driving.start(*arguments[:-3], cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        assert again.stderr is not None
        lines = [again.stderr.readline().decode() for _ in range(2)]
        assert say("stop")[0] == 0
        rest = again.communicate(timeout=60)[1].decode()
    finally:
        again.kill()
    assert "to render" not in "".join(lines) + rest, "what is done is said and rendered no more"


def _is_served(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
            return bool(answer.status == HTTPStatus.OK)
    except urllib.error.HTTPError:
        return False


def test_a_folder_has_to_be_there(tmp_path: Path, say: Say) -> None:
    """Nor may there be nothing to render at all."""
    code, told = say("render", "--watch-folder", "inbox")
    assert (code, "hint: mkdir -p inbox" in told) == (2, True)
    assert say("render")[0] == 2
    (tmp_path / "inbox").mkdir()
    code, told = say("render", "--watch-folder", "inbox", "--share", "4")
    assert (code, "leave --shard, --share and --only out" in told) == (2, True)
    assert say("render", "--watch-folder", "inbox", "--only", "hero")[0] == 2
