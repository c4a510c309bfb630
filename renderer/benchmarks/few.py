"""Pictures of few steps and no guidance, many of them, by `renderer render` itself: how many an hour. Imports no torch.

A first run of two pictures compiles the kernels. An hour's pictures are counted from the first one's beginning to the
last one's end: without the start, and with everything between pictures.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from renderer.benchmarks import running
from renderer.benchmarks.running import Figures


@dataclass(frozen=True, slots=True)
class FewCase:
    """Squares of one side in so many steps, within so much of the GPU's memory; None: all of it."""

    side: int
    steps: int
    vram: str | None = None
    pictures: int = 64


FEW_CASES: Mapping[str, FewCase] = MappingProxyType(
    {
        "few-512-6GiB": FewCase(512, 4, "6GiB"),
        "few-512": FewCase(512, 4),
        "few-1024-16GiB": FewCase(1024, 8, "16GiB"),
        "few-1328": FewCase(1328, 4),
    }
)

MODEL = "model: Qwen/Qwen-Image, precision: fp8"

WARMING = 2
"""Pictures of the run before."""


def measure(
    folder: Path,
    env: dict[str, str],
    cases: Sequence[str],
    model: str = MODEL,
    known: Mapping[str, FewCase] = FEW_CASES,
) -> Iterator[Figures]:
    """The rows of `cases`, each by a command of its own. `model` are defaults of a manifest. Raises `MachineError`."""
    for name in cases:
        case = known[name]
        _rendered(folder, env, replace(case, pictures=WARMING), model)
        sidecars, took_s = _rendered(folder, env, case, model)
        began, ended = (
            [datetime.fromisoformat(each["timing"][moment]) for each in sidecars] for moment in ("began_at", "ended_at")
        )
        sharings = [each["sharing"] for each in sidecars]
        yield {
            "case": name,
            "side": case.side,
            "steps": case.steps,
            "vram": case.vram,
            "pictures": len(sidecars),
            "seconds": took_s,
            "pictures_per_hour": 3600 * len(sidecars) / (max(ended) - min(began)).total_seconds(),
            "step_s": statistics.median(each["timing"]["step_median_s"] for each in sidecars),
            "in_flight": statistics.fmean(each["mean_in_flight"] for each in sharings),
            "slots": min(each["slots"] for each in sharings),
            "start": sidecars[0]["timing"].get("start"),
            "adjustments": sorted({change for each in sharings for change in each["adjustments"]}),
        }


def lines(rows: Sequence[Figures]) -> Iterator[str]:
    """The rows as a table of Markdown."""
    if not rows:
        return
    yield "Many pictures of few steps without guidance, by `renderer render`:"
    yield ""
    yield "| size | steps | memory | slots | in flight | s/step | pictures an hour |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row['side']}² | {row['steps']} | {row['vram'] or 'all'} | {row['slots']} | {row['in_flight']:.1f} "
            f"| {row['step_s']:.3f} | {row['pictures_per_hour']:.0f} |"
        )
    yield ""


def _rendered(folder: Path, env: dict[str, str], case: FewCase, model: str) -> tuple[list[Any], float]:
    """The sidecars of a run into an empty folder, and its seconds."""
    outputs, manifest = folder / "outputs-few", folder / "few.yaml"
    shutil.rmtree(outputs, ignore_errors=True)
    manifest.write_text(
        f"defaults: {{{model}, steps: {case.steps}, cfg_scale: 1, size: {case.side}x{case.side}, seed: 1}}\n"
        f"jobs: [{{prompt: a harbour at dusk, count: {case.pictures}}}]\n",
        encoding="utf-8",
    )
    limit = () if case.vram is None else ("--vram", case.vram)
    where = ("render", str(manifest), "--outputs", str(outputs), "--offline", "--log-format", "plain")
    _, took_s = running.command(*where, *limit, env=env)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((outputs / "few").glob("*.json"))]
    shutil.rmtree(outputs)
    return [each for each in found if "timing" in each], took_s
