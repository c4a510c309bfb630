"""Completion, in real shells where they are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from renderer import catalog
from renderer.cli import command, completion
from renderer.cli.completion import script
from tests.tools import needs

ASK_BASH = """
source "$1"; shift
COMP_WORDS=(renderer "$@"); COMP_CWORD=$#
_shtab_renderer 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""
ASK_FISH = "source $argv[1]; complete -C (string join -- ' ' renderer $argv[2..])"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of a manifest, something else, a picture and a folder."""
    for name in ("night.yaml", "notes.txt", "boat.png"):
        (tmp_path / name).touch()
    (tmp_path / "jobs").mkdir()
    return tmp_path


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_command_prints_a_script_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With every command in it, and its options."""
    assert command.main(["completion", shell]) == 0
    told = capsys.readouterr().out
    for each in (*command.COMMANDS, "until", "max-failures", "discard-source", *catalog.MODELS):
        assert each in told


QWEN = {each for each in catalog.MODELS if each.startswith("Qwen/Qwen-Image-")}
CASES = [
    ([""], {*command.COMMANDS}, set()),
    (["models", ""], {"list", "pull", "pack", "verify", "remove"}, {"night.yaml"}),
    (["validate", ""], {"night.yaml", "jobs"}, {"notes.txt", "boat.png"}),
    (["render", "night.yaml", ""], {"night.yaml", "jobs"}, {"notes.txt"}),
    (["render", "--precision", ""], {"bf16", "fp8", "fp8-weights"}, {"night.yaml"}),
    (["render", "--outputs", ""], {"jobs"}, {"night.yaml", "boat.png"}),
    (["render", "--model", ""], {*catalog.MODELS, "jobs"}, {"night.yaml"}),
    (
        ["models", "pull", "Qwen/Qwen-Image-"],
        QWEN,
        {"demo", "jobs"},
    ),
    (["replay", ""], {"boat.png", "jobs"}, {"night.yaml", "notes.txt"}),
    (["completion", ""], {*completion.SHELLS}, {"night.yaml"}),
    (["plan", "--js"], {"--json"}, {"--strict"}),
]


@needs("bash")
@pytest.mark.parametrize(("words", "offered", "not_offered"), CASES)
def test_bash(words: list[str], offered: set[str], not_offered: set[str], project: Path) -> None:
    """Manifests, folders, pictures, models and choices, each where it belongs."""
    (project / "script").write_text(script("bash"))
    asked = ["bash", "--norc", "-c", ASK_BASH, "bash", str(project / "script"), *words]
    done = subprocess.run(asked, cwd=project, capture_output=True, text=True, check=True)
    found = {line.removesuffix("/") for line in done.stdout.splitlines()}
    assert offered <= found
    assert not found & not_offered


@needs("fish")
@pytest.mark.parametrize(("words", "offered", "not_offered"), CASES)
def test_fish(words: list[str], offered: set[str], not_offered: set[str], project: Path) -> None:
    """The same in fish."""
    (project / "script").write_text(script("fish"))
    asked = ["fish", "--no-config", "-c", ASK_FISH, "--", str(project / "script"), *words]
    done = subprocess.run(asked, cwd=project, capture_output=True, text=True, check=True)
    found = {line.split("\t")[0].removesuffix("/") for line in done.stdout.splitlines()}
    assert offered <= found
    assert not found & not_offered


@needs("zsh")
def test_zsh_takes_the_script(project: Path) -> None:
    """It is sound, and becomes the command's completion."""
    (project / "script").write_text(script("zsh"))
    ask = 'autoload -Uz compinit && compinit -u -d "$PWD/dump"; eval "$(<script)"; print -r -- $_comps[renderer]'
    done = subprocess.run(["zsh", "-f", "-c", ask], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "_shtab_renderer"
