"""Manifests as a command line names them: what is well goes on, what is not is said, and `--strict` keeps all back."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from renderer.cli import command as cli
from renderer.supervisor import settings
from tests.fakes import InlineWorker

GOOD = "defaults: {model: demo, size: 64x64, steps: 2, seed: 1, precision: bf16}\njobs: [a, b]\n"
BROKEN = "jobs: [{prompt: x, stpes: 3}]\n"
SAID = 'broken.yaml:1:20 jobs[0].stpes: unknown key (did you mean "steps"?)'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a manifest that is well and one that is not, and a worker that draws at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "Settings", functools.partial(settings.Settings, hire=InlineWorker))
    (tmp_path / "broken.yaml").write_text(BROKEN)
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


def rendered(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("outputs/good/0*.png"))


class TestOneBrokenManifest:
    def test_costs_itself_alone(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """`render` renders the others, says what is wrong before anything else, and ends with 1."""
        assert cli.main(["render", "*.yaml", "--log-format", "plain"]) == 1
        assert rendered(folder) == ["001.png", "002.png"]
        said = capsys.readouterr().err.splitlines()
        assert said[0].endswith(f"not rendered: {SAID}")

    def test_strict_renders_none(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """With `--strict` the night is all or nothing: the problems, and 2."""
        assert cli.main(["render", "*.yaml", "--strict"]) == 2
        assert rendered(folder) == []
        assert capsys.readouterr().err == f"{SAID}\n1 problem\n"

    def test_alone_ends_with_2(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Where no manifest is well there is nothing to render."""
        assert cli.main(["render", "broken.yaml"]) == 2
        assert capsys.readouterr().err == f"{SAID}\n1 problem\n"

    @pytest.mark.parametrize("command", ["validate", "plan", "status"])
    def test_what_reads_says_both(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        """What only reads tells of those that are well, lists the problems of the others, and ends with 2."""
        assert cli.main([command, "*.yaml"]) == 2
        said = capsys.readouterr()
        assert "good" in said.out
        assert said.err == f"{SAID}\n1 problem\n"

    def test_json_lines(self, capsys: pytest.CaptureFixture[str]) -> None:
        """In a log for machines a problem is an object, with its place in fields of their own."""
        cli.main(["render", "*.yaml", "--log-format", "json"])
        first = json.loads(capsys.readouterr().err.splitlines()[0])
        assert (first["event"], first["file"], first["line"], first["column"], first["path"]) == (
            "manifest-refused", "broken.yaml", 1, 20, "jobs[0].stpes",
        )  # fmt: skip

    def test_annotation(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """On GitHub it is an annotation at its line."""
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        cli.main(["render", "*.yaml"])
        assert capsys.readouterr().err.startswith("::error file=broken.yaml,line=1,col=20::")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("none.yaml", "there is no manifest none.yaml"),
        (".", "is a folder, not a manifest"),
        ("copy/good.yaml", "good.yaml and copy/good.yaml are both named good, and would share a folder"),
        ("copy/GOOD.yaml", "good.yaml and copy/GOOD.yaml are both named GOOD, and would share a folder"),
    ],
)
def test_what_cannot_be_read_costs_itself_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], other: str, said: str
) -> None:
    """A file that is not there, and a second manifest of one name in any case, are problems of these alone."""
    (folder / "copy").mkdir()
    (folder / "copy" / "good.yaml").write_text(GOOD)
    (folder / "copy" / "GOOD.yaml").write_text(GOOD)
    assert cli.main(["render", "good.yaml", other]) == 1
    assert rendered(folder) == ["001.png", "002.png"]
    assert said in capsys.readouterr().err


def test_a_model_that_nobody_knows_renders_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--model` speaks of all manifests: a wrong one is said once, and nothing is rendered."""
    assert cli.main(["render", "good.yaml", "--model", "nobody"]) == 2
    assert rendered(folder) == []
    assert capsys.readouterr().err.count("nobody") == 1


class TestWarnings:
    """What was hardly meant is said once, before anything is rendered, and costs nothing."""

    @pytest.fixture(autouse=True)
    def _doubtful(self, folder: Path) -> None:
        (folder / "good.yaml").write_text(GOOD.replace("[a, b]", "\n- a #b\n- b"))

    def test_plain(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A line in the log, and an exit code of 0."""
        assert cli.main(["render", "good.yaml", "--log-format", "plain"]) == 0
        first = capsys.readouterr().err.splitlines()[0]
        assert "good.yaml:3:5: warning: jobs[0]: what follows" in first
        assert rendered(folder) == ["001.png", "002.png"]

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        """An object of its own in a log for machines."""
        cli.main(["render", "good.yaml", "--log-format", "json"])
        first = json.loads(capsys.readouterr().err.splitlines()[0])
        assert (first["event"], first["line"], first["warning"]) == ("manifest-doubted", 3, True)

    def test_annotation(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """A warning at its line on GitHub."""
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        cli.main(["render", "good.yaml"])
        assert capsys.readouterr().err.startswith("::warning file=good.yaml,line=3,col=5::")


class TestSharedDefaults:
    def test_a_base_among_those_that_extend_it(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A file that has no jobs, and that another of the named files extends, is no problem."""
        (folder / "broken.yaml").unlink()
        (folder / "base.yaml").write_text("defaults: {model: demo}\n")
        assert cli.main(["validate", "*.yaml"]) == 2
        assert "base.yaml:1:1 jobs: is missing" in capsys.readouterr().err
        (folder / "a.yaml").write_text("extends: base.yaml\njobs: [x]\n")
        assert cli.main(["validate", "*.yaml"]) == 0
        assert "base" not in capsys.readouterr().err

    def test_a_table_with_a_row_of_options(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """`--defaults` and `--set` stand for a manifest around a table, and for nothing else."""
        (folder / "p.csv").write_text("prompt,seed\na cat,1\na dog,2\n")
        (folder / "base.yaml").write_text("defaults: {model: demo, steps: 9}\njobs: [not this]\n")
        given = ["plan", "p.csv", "--defaults", "base.yaml", "--set", "size=64x80", "--set", 'loras=["demo/4steps"]']
        assert cli.main([*given, "--set", "prompt={prompt}, in ink", "--json"]) == 0
        (warning,) = json.loads(capsys.readouterr().out)["manifests"][0]["warnings"]
        assert (warning["file"], warning["line"]) == ("base.yaml", 1)
        assert warning["message"].startswith("9 steps, and demo/4steps was made for 4")
        assert cli.main(["plan", "p.csv", "--set", "size=64 by 80"]) == 2
        assert "defaults.size: is not a size" in capsys.readouterr().err
        assert cli.main(["plan", "p.csv", "--set", "stpes=3"]) == 2
        assert '--set:1:1 defaults.stpes: unknown key (did you mean "steps"?)' in capsys.readouterr().err
        assert cli.main(["plan", "p.csv", "--defaults", "none.yaml"]) == 2
        assert "--defaults:1:1 extends: there is no manifest none.yaml" in capsys.readouterr().err
        assert cli.main(["plan", "p.csv", "--set", "model=demo", "--set", "id=00{row}", "--set", "prompt=7"]) == 0
        assert cli.main(["plan", "good.yaml", "--set", "steps=3"]) == 2
        assert "--set is for tables" in capsys.readouterr().err
        with pytest.raises(SystemExit, match="2"):
            cli.main(["plan", "p.csv", "--set", "steps"])
