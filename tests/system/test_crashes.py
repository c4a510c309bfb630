"""A fault of our own: a line, a code of its own, and the traceback where the line says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from renderer.cli import command, manifests

SCRIPT = """\
import sys
from renderer import cli\nfrom renderer.cli import manifests
def fail(*_):
    raise IndexError("out of\\nrange \\udcff")
manifests.load = fail
sys.exit(cli.main(["validate", "m.yaml"]))
"""


def crash(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command that has a fault, with this environment besides."""
    (folder / "m.yaml").write_text("jobs: [a]\n")
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_its_traceback_is_in_a_file_that_is_named(tmp_path: Path) -> None:
    """Two lines and 70; the file is this user's alone, and holds the traceback and the versions."""
    done = crash(tmp_path, XDG_STATE_HOME=str(tmp_path / "state"))
    first, second = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (70, "")
    assert first == "error: IndexError: out of range \\udcff"
    found = re.fullmatch(r"  this is a fault of the renderer's own; please report it with (.*)", second)
    assert found is not None
    path = Path(found[1])
    assert path.is_relative_to(tmp_path / "state" / "renderer")
    assert path.stat().st_mode & 0o077 == 0
    assert path.read_text().startswith("renderer 0.")
    assert "Traceback (most recent call last)" in path.read_text()


def test_where_no_state_can_be_kept_it_is_among_files_of_a_moment(tmp_path: Path) -> None:
    """Its folder cannot be made: a file stands there."""
    (tmp_path / "file").write_text("")
    done = crash(tmp_path, XDG_STATE_HOME=str(tmp_path / "file"), TMPDIR=str(tmp_path))
    assert done.returncode == 70
    assert len(list(tmp_path.glob("renderer-crash-*.txt"))) == 1


def test_where_no_file_can_be_written_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine without a writable disk: the traceback follows the line."""
    (tmp_path / "file").write_text("")
    (tmp_path / "m.yaml").write_text("jobs: [a]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    monkeypatch.setattr(manifests, "load", lambda *_: 1 / 0)
    assert command.main(["validate", "m.yaml"]) == 70
    said = capsys.readouterr().err
    assert said.startswith("error: ZeroDivisionError: division by zero\n")
    assert "Traceback (most recent call last)" in said


def test_ctrl_c_while_the_command_is_imported_is_a_line_too() -> None:
    """Half a second of every command is that."""
    script = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'renderer.cli.command': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from renderer.__main__ import main\n"
        "sys.exit(main())\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
