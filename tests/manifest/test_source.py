"""Manifests from files, pipes and standard input: what they are called, and how much of them is read."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from renderer.cli import command as cli
from renderer.errors import ManifestError, UnreadableError
from renderer.manifest import source
from renderer.manifest.manifest import load
from tests.reading import DEMO

ROOT = Path(__file__).resolve().parents[2]
TWO = "defaults: {model: demo, size: 64x64}\njobs: [a, b]\n"


def through_a_pipe(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A shell's pipeline in a folder; `$R` is the command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "R": f"{sys.executable} -m renderer"}
    command = ["bash", "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


class TestStandardInput:
    def test_from_a_shell(self, tmp_path: Path) -> None:
        """`-` is standard input, and what bash puts in the place of `<(…)` is read too."""
        (tmp_path / "two.yaml").write_text(TWO)
        done = through_a_pipe("cat two.yaml | $R validate - && $R validate <(cat two.yaml)", tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (
            0, "stdin: 2 pictures, no problems\npipe: 2 pictures, no problems\n", "",
        )  # fmt: skip

    def test_its_name_is_the_head_s_or_stdin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The output folder is called as the manifest says, else `stdin`; so are places in problems and sidecars."""
        for text, name in ((TWO, "stdin"), (f"name: posters\n{TWO}", "posters")):
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
            manifest = load(source.STANDARD_INPUT)
            assert (manifest.name, manifest.file, manifest.pictures[0].place.manifest) == (name, "stdin", "stdin")

    def test_problems_have_lines(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What is wrong with it is said as of a file."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"jobs:\n- {prompt: x, stpes: 3}\n")))
        assert cli.main(["validate", "-"]) == 2
        assert capsys.readouterr().err.startswith("stdin:2:15 jobs[0].stpes: unknown key")

    def test_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where there is none it says so (`renderer validate - <&-`)."""
        monkeypatch.setattr(sys, "stdin", None)
        with pytest.raises(UnreadableError, match="standard input is closed"):
            load(source.STANDARD_INPUT)

    def test_a_file_of_that_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that is called `-` is read as `./-`, as everywhere."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "-").write_text(f"name: odd\n{TWO}")
        assert load(tmp_path / "-").file == "-"


class TestMuch:
    def test_six_thousand_prompts(self, tmp_path: Path) -> None:
        """A manifest of several mebibytes is a manifest."""
        path = tmp_path / "many.yaml"
        prompts = [f"poster {number}: " + "a red fox in the snow, " * 12 for number in range(6000)]
        path.write_text(DEMO + "jobs:\n" + "".join(f"- {json.dumps(prompt)}\n" for prompt in prompts))
        assert path.stat().st_size > 2**20
        assert len(load(path).pictures) == 6000

    def test_no_more_is_read_than_is_allowed(self, tmp_path: Path) -> None:
        """A file of 100 GB is refused, and not read."""
        path = tmp_path / "large.yaml"
        with path.open("wb") as stream:
            stream.truncate(100 * 10**9)
        with pytest.raises(ManifestError, match="more than 64 MiB"):
            load(path)

    def test_no_more_values_than_are_allowed(self, tmp_path: Path) -> None:
        """Bytes are not all: a list of two million numbers is refused after the first."""
        path = tmp_path / "values.json"
        path.write_text('{"jobs": [' + "1," * 2_000_000 + "1]}")
        with pytest.raises(ManifestError, match="more than 1,000,000 values"):
            load(path)
