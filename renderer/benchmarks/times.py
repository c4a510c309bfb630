"""A mixed batch's seconds: what `renderer plan` forecasts, and what `renderer render` then takes. Imports no torch.

Twice: of five pictures, when the machine's rates are all that is known, and of the others, when those five have been
measured.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from renderer import machine
from renderer.benchmarks import running
from renderer.benchmarks.running import Figures
from renderer.errors import EXIT_DONE, EXIT_MACHINE

CASES = ("five pictures after the probe", "the others after five pictures")

MANIFEST = """\
version: 1
defaults: {model: Qwen/Qwen-Image, precision: fp8, steps: 20}
jobs:
  - {id: a, prompt: "A poster that says HELLO", size: 1328x1328, count: 4}
  - {id: b, prompt: "A bilingual sign, neon, rain", size: 1664x928, count: 4}
  - {id: c, prompt: "A lighthouse", size: 1024x1024, cfg_scale: 1, count: 3}
  - {id: d, prompt: "A market square at noon", size: 768x768, count: 4}
  - {id: e, prompt: "A map of an island", size: 1472x1104, count: 2}
"""

FIRST = 5


def measure(folder: Path, env: dict[str, str], manifest: str = MANIFEST) -> Iterator[Figures]:
    """The two rows, from a folder of outputs that is empty. Measures the machine's rates first, where it has a GPU."""
    outputs, written = folder / "mixed", folder / "mixed.yaml"
    shutil.rmtree(outputs, ignore_errors=True)
    written.write_text(manifest)
    if machine.look().gpu is not None:
        running.command("doctor", "--json", env=env, capture=True, done=(EXIT_DONE, EXIT_MACHINE))
    where = (str(written), "--outputs", str(outputs))
    pictures = [each["id"] for each in _plan(where, env)["manifests"][0]["pictures"]]
    first = _spread(pictures)
    chosen = [word for name in first for word in ("--only", name)]
    for case, only, count in ((CASES[0], chosen, len(first)), (CASES[1], [], len(pictures) - len(first))):
        forecast = _plan((*where, *only), env)["forecast"]
        _, took_s = running.command("render", *where, *only, "--offline", "--log-format", "plain", env=env)
        yield {
            "case": case,
            "pictures": count,
            "forecast_s": forecast["seconds"],
            "took_s": took_s,
            "groups": [
                {name: group[name] for name in ("slots", "in_flight", "seconds")} for group in forecast["groups"]
            ],
        }
    shutil.rmtree(outputs)


def _spread(pictures: list[str]) -> list[str]:
    """Five of them, evenly apart: some of each kind."""
    return [pictures[place * len(pictures) // FIRST] for place in range(min(FIRST, len(pictures)))]


def _plan(arguments: tuple[str, ...], env: dict[str, str]) -> Any:
    told, _ = running.command("plan", *arguments, "--json", env=env, capture=True)
    return json.loads(told)
