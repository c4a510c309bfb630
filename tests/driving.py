"""The whole command with the fakes' worker in place of the engine's: `python -m tests.driving render m.yaml`.

What FAKE holds are the worker's own options, READER what a reader reads (`_read_as`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from renderer.cli import command
from renderer.lettering.asking import Answer
from renderer.supervisor import local_worker, readings
from tests import fakes

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "tests.driving")
HEAD = "defaults: {model: demo, size: 64x64, steps: 4, precision: bf16}\njobs:\n"


def start(*arguments: str, cwd: Path, fake: str = "", **options: Any) -> subprocess.Popen[bytes]:
    """Start the command in a folder; `fake` are the worker's options."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FAKE": fake}
    return subprocess.Popen([*COMMAND, *arguments], cwd=cwd, env=environment, **options)


def write_manifest(folder: Path, *prompts: str, name: str = "m") -> str:
    """A manifest with one small picture a prompt, each of another seed; its file's name."""
    jobs = (f'  - {{prompt: "{prompt}", seed: {seed}}}\n' for seed, prompt in enumerate(prompts))
    (folder / f"{name}.yaml").write_text(HEAD + "".join(jobs))
    return f"{name}.yaml"


def pictures(folder: Path, name: str = "m") -> list[str]:
    """The pictures that are there."""
    return sorted(path.name for path in folder.glob(f"outputs/{name}/0*.png"))


def _read_as(told: str) -> None:
    """Have `WORD 12 20` read WORD in pictures of these seeds, and less in others; `hangs` reads nothing, for long."""
    text, *right = told.split()

    class Reader(fakes.InlineReader):
        def read(self, path: Path) -> Answer:
            if text == "hangs":
                time.sleep(60)
            return super().read(path)

    readings.LetterReader = lambda: Reader(text, frozenset(map(int, right)))  # type: ignore[misc,assignment,attr-defined]


if __name__ == "__main__":
    if "READER" in os.environ:
        _read_as(os.environ["READER"])
    local_worker.WORKER_COMMAND = (sys.executable, "-m", "tests.fakes", *os.environ.get("FAKE", "").split())
    sys.exit(command.main())
