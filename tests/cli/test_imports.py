"""Doors that open fast: a command imports what it needs, and nothing that others need."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from renderer.cli import command

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "diffsynth", "transformers", "numpy", "modelscope", "apprise", "jinja2", "tqdm", "shtab", "asyncio"}
WHAT_RUNS = {"renderer.engine", "renderer.supervisor", "renderer.report", "renderer.benchmarks", "renderer.demo"}
OF_A_MACHINE = {"psutil", "pynvml", "renderer.machine"}
"""What looks at the machine: no business of a manifest's."""

NO_MANIFEST_NEEDS = HEAVY | WHAT_RUNS | OF_A_MACHINE | {"PIL", "huggingface_hub", "statistics", "concurrent.futures"}
DENIED = {
    "--help": NO_MANIFEST_NEEDS | {"pydantic", "yaml", "renderer.manifest"},
    "validate": NO_MANIFEST_NEEDS | {"renderer.planning", "renderer.weights.checkpoint"},
    "status": HEAVY | WHAT_RUNS | OF_A_MACHINE | {"huggingface_hub", "renderer.estimate"},
    "plan": HEAVY | WHAT_RUNS | {"huggingface_hub"},
}


def run(*arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=dict(environment), capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    path = tmp_path / "night.yaml"
    path.write_text("defaults: {model: demo}\njobs: [a red boat]\n")
    return str(path)


@pytest.mark.parametrize("name", DENIED)
def test_a_command_imports_no_more_than_it_needs(name: str, manifest: str) -> None:
    """No heavy library, nothing that renders, draws, serves or fetches, no other command's room."""
    script = (
        "import sys\n"
        "from renderer.__main__ import main\n"
        "try: main()\n"
        "finally: sys.stderr.write(' '.join(sys.modules))\n"
    )
    asked = [name] if name == "--help" else [name, manifest]
    done = run("-c", script, *asked, environment={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    imported = set(done.stderr.split())
    assert not imported & DENIED[name]
    rooms = {f"renderer.cli.{each}" for each in command.COMMANDS}
    assert imported & rooms == ({f"renderer.cli.{name}"} - {"renderer.cli.--help"})


def test_validate_costs_little_more_than_what_it_is_made_of(manifest: str, tmp_path: Path) -> None:
    """Of a small manifest, four times what `import pydantic, yaml` costs at most (2.8 when it was measured).

    Processor time, the best of several in turn, for both are to have a busy machine's quiet moments; with compiled
    files as everybody has them from the second call on.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    calls = ("-c", "import pydantic, yaml"), ("-m", "renderer", "validate", manifest)
    taken = [[_spent_s(*each, environment=environment) for each in calls] for _ in range(6)]
    least, spent = map(min, zip(*taken, strict=True))
    assert spent < 4 * least, (spent, least)


def _spent_s(*arguments: str, environment: Mapping[str, str]) -> float:
    """The processor time of a call."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run(*arguments, environment=environment).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_has_a_room(name: str) -> None:
    """Of its own name, which gives arguments and does it: the help of each can be asked for."""
    with pytest.raises(SystemExit) as left:
        command.main([name, "--help"])
    assert left.value.code == 0
    assert callable(command._room(name).run)
