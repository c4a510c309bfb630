"""Where things are kept on machines that have no home, no user, no temporary folder, or none that can be written."""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from renderer.cli import command as cli
from renderer.system import folders

ROOT = Path(__file__).resolve().parents[2]
NOBODY = """
import os, pwd, sys
def nobody(_):
    raise KeyError("getpwuid(): uid not found")
pwd.getpwuid = nobody
from renderer.cli.command import main
sys.exit(main(sys.argv[1:]))
"""
"""The program, started by a user that the system does not know."""

MANIFEST = """
version: 1
defaults: {model: demo, precision: bf16, size: 64x64, steps: 2}
jobs: [{id: 你好, prompt: x, seed: 1}]
"""
UNSET = ("HOME", "XDG_CACHE_HOME", "RENDERER_CACHE", "TMPDIR", "XDG_RUNTIME_DIR")
READ_ONLY = """
set -e
mount --bind "$PWD/outputs" "$PWD/outputs"
mount -o remount,ro,bind /
for folder in /tmp /var/tmp; do mountpoint -q $folder && mount -o remount,ro,bind $folder; done
exec "$@"
"""
"""As `docker run --read-only` with a volume for the pictures: /dev/shm is all else that can be written."""


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable says anything, and the system's list of users has none for this process."""

    def nobody(_: int) -> pwd.struct_passwd:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for variable in UNSET:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def temporary(nowhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of such a process."""
    assert nowhere is None
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def environment() -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if name not in UNSET}
    return {**known, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "PYTHONDONTWRITEBYTECODE": "1"}


def test_a_home_stands_in(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home there is one for this user below the temporary folder, and it is the same each time."""
    monkeypatch.setenv("HOME", "")  # restored afterwards
    monkeypatch.delenv("HOME")
    assert folders.home() is None
    assert folders.expanded("~/x") == Path("~/x")
    assert folders.hidden("/home/x") == "/home/x"
    folders.settle()
    home = temporary / f"renderer-{os.getuid()}"
    assert folders.home() == home
    assert folders.cache_folder() == home / ".cache" / "renderer"
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_cache_stands_in(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that cannot be written, as HOME=/ of a container, costs the usual cache, and that is said."""
    (temporary / "file").write_text("")
    monkeypatch.setenv("HOME", str(temporary / "file"))
    assert folders.cache_folder() == temporary / f"renderer-{os.getuid()}" / "cache"
    assert folders.cache_instead_of() == temporary / "file/.cache/renderer"
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setenv("HF_XET_CACHE", "/chosen")
    folders.settle()
    assert os.environ["TRITON_CACHE_DIR"] == str(folders.cache_folder() / "triton")
    assert os.environ["HF_XET_CACHE"] == "/chosen"
    monkeypatch.setenv("RENDERER_CACHE", str(temporary / "own"))
    assert folders.cache_instead_of() is None


def test_nobody_else_s_folder_is_taken(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can make a name beforehand: a link, a folder that others can write and a file are left alone."""
    first = temporary / f"renderer-{os.getuid()}"
    first.symlink_to(temporary)
    second = temporary / f"renderer-{os.getuid()}-2"
    second.mkdir(mode=0o777)
    second.chmod(0o777)
    (temporary / f"renderer-{os.getuid()}-3").touch(mode=0o600)
    monkeypatch.setenv("HOME", str(temporary / "file"))
    (temporary / "file").write_text("")
    assert folders.cache_folder() == temporary / f"renderer-{os.getuid()}-4" / "cache"


def test_a_temporary_folder_is_found(nowhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python finds none, the one of the session is taken, or memory."""
    assert nowhere is None
    monkeypatch.setenv("TMPDIR", "")  # restored afterwards
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    folders.settle()
    assert (tempfile.gettempdir(), os.environ["TMPDIR"]) == (str(tmp_path), str(tmp_path))


@pytest.mark.parametrize("variable", ["RENDERER_CACHE", "RENDERER_MODELS"])
def test_a_tilde_is_the_home(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a unit file or a Dockerfile no shell expands it; one of a user that nobody knows stays as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = {"RENDERER_CACHE": folders.cache_folder, "RENDERER_MODELS": folders.models_folder}[variable]
    monkeypatch.setenv(variable, "~/kept")
    assert asked() == tmp_path / "kept"
    monkeypatch.setenv(variable, "~who-is-that/kept")
    assert asked() == Path("~who-is-that/kept")


@pytest.mark.parametrize("command", [["models", "list"], ["validate", "m.yaml"], ["plan", "m.yaml"]])
def test_a_user_whom_nobody_knows(command: list[str], tmp_path: Path) -> None:
    """Without HOME and without an entry in the list of users every command works, on an ASCII log too."""
    (tmp_path / "m.yaml").write_text(MANIFEST, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, *command], cwd=tmp_path, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "~").exists()


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
def test_a_read_only_machine(tmp_path: Path) -> None:
    """In a read-only container, as nobody, on an ASCII log, a picture is rendered into the one folder that is not."""
    (tmp_path / "m.yaml").write_text(MANIFEST, encoding="utf-8")
    (tmp_path / "outputs").mkdir()
    alone = ["unshare", "--map-root-user", "--mount", "bash", "-c", READ_ONLY, "bash"]
    if subprocess.run([*alone, "true"], cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount anything")
    done = subprocess.run(
        [*alone, sys.executable, "-c", NOBODY, "render", "m.yaml"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\\u4f60\\u597d" in done.stderr
    assert (tmp_path / "outputs/m/你好.png").is_file()


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _options(command)
        else:
            yield parser.prog, action


def test_every_option_for_a_folder_knows_the_home() -> None:
    """`--outputs=~/pics` reaches the program as it is: no shell expands a tilde behind an equals sign."""
    kinds = {f"{command} {action.dest}": action.type for command, action in _options(cli.parser(filled=True))}
    paths = {name for name, kind in kinds.items() if kind is folders.expanded}
    assert {"renderer render outputs", "renderer status outputs", "renderer bench folder"} <= paths
    assert not [name for name, kind in kinds.items() if kind is Path]
