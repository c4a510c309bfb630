"""The example for Slurm's arrays: it stands in the documents as it is, and does what they say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "posters.sbatch"


def test_it_stands_in_the_documents() -> None:
    assert f"```\n{SCRIPT.read_text(encoding='utf-8')}```" in (ROOT / "docs/operation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("code", "again"), [(0, []), (1, []), (4, ["requeue 77_3"])])
def test_a_task_renders_its_part_and_is_put_back(tmp_path: Path, code: int, again: list[str]) -> None:
    """Also where two tasks of sixteen are begun once more: their parts stay the same."""
    told = tmp_path / "told"
    programs = {
        tmp_path / "renderer/.venv/bin/renderer": f'echo "$@" >>{told}; exit {code}',
        tmp_path / "bin/scontrol": f'echo "$@" >>{told}',
    }
    for path, does in programs.items():
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
        path.chmod(0o755)
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_ARRAY_TASK_COUNT": "2",
    }
    assert subprocess.run(["bash", SCRIPT], env=environment, check=False).returncode == code
    rendered, *others = told.read_text(encoding="utf-8").splitlines()
    assert rendered.startswith("render jobs/posters.yaml --shard 3/16 ")
    assert others == again
