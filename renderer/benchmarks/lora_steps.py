"""Steps with LoRAs, measured: `python -m renderer.benchmarks.lora_steps STORE CASE…`, a line of JSON each.

LoRAs are of random numbers on all layers, made in memory as they are asked for: reading them is not what is measured.
A case is rendered twice, and the second time counts; each has an engine of its own.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from renderer import catalog
from renderer.benchmarks import bare
from renderer.benchmarks.lora_cases import DEMO_CASES, LORA_CASES, LoraCase
from renderer.benchmarks.running import Figures
from renderer.benchmarks.streamed import job_of, peaks, render, setup_of
from renderer.engine.streaming import StreamingEngine
from renderer.job import Job, Lora
from renderer.machine import hardware
from renderer.planning import placement
from renderer.text import GIB
from renderer.weights.adapters.packed import FactorsOf
from renderer.weights.adapters.targets import Targets, targets_of

RANK = 64

_SMALL = 1 / 256
"""Of each factor's numbers: what is added stays far below what it is added to."""


class RandomAdapter:
    """What a packed LoRA says of itself, with random factors for all layers of a model's blocks."""

    def __init__(self, targets: Targets, seed: int) -> None:
        self.identity = f"random-{seed}"
        self._dice = torch.Generator().manual_seed(seed)
        self._blocks: dict[str, FactorsOf] = {}
        self._targets = targets

    def block(self, section: str, index: int) -> FactorsOf:
        """The same for all blocks of a section: a product takes its time whatever its numbers are."""
        del index
        if section not in self._blocks:
            prefix = next(each.prefix for each in self._targets.network.sections if each.name == section) + "0."
            shapes = {name: shape for name, shape in self._targets.weights.items() if name.startswith(prefix)}
            self._blocks[section] = {
                name.removeprefix(prefix): (self._random(RANK, shape[1]), self._random(shape[0], RANK))
                for name, shape in shapes.items()
                if len(shape) > 1
            }
        return self._blocks[section]

    def outside(self) -> FactorsOf:
        return {}

    def _random(self, rows: int, columns: int) -> torch.Tensor:
        return (torch.randn((rows, columns), generator=self._dice) * _SMALL).bfloat16()


def main() -> None:
    """Measure the cases that are named."""
    store, *names = sys.argv[1:]
    for name in names:
        found = {"case": name, **measure(Path(store), {**LORA_CASES, **DEMO_CASES}[name])}
        print(json.dumps(found), flush=True)  # noqa: T201
        bare.reset()


def measure(store: Path, case: LoraCase) -> Figures:
    """A case's seconds a step and a picture, and its peaks."""
    setup = setup_of(store)
    numbers = range(1, case.pictures + 1)
    loras = [Lora(source=f"random-{number}", identity=f"random-{number}") for number in numbers[: case.loras]]
    loras = [loras[0] for _ in loras] if case.shared else loras
    jobs = [job_of(setup, case.side, case.side, case.guidance, case.steps, seed) for seed in numbers]
    jobs = [job.model_copy(update={"loras": tuple(loras[number : number + 1])}) for number, job in enumerate(jobs)]
    granted = None if case.vram_gib is None else case.vram_gib * GIB
    planned = placement.setup_for(jobs, hardware.look(), "stream", granted)
    own = {"store": str(store), "identity": setup.identity, "in_flight": case.pictures}
    engine = bare.forgetful(StreamingEngine.open(planned.model_copy(update=own), lambda _: None))
    targets = targets_of(catalog.find(setup.model))
    adapters = {lora: RandomAdapter(targets, seed) for seed, lora in enumerate(loras)}
    try:
        bare.lend(engine, adapters)
        render(engine, [job.model_copy(update={"num_inference_steps": 2}) for job in jobs])
        bare.empty(engine)
        bare.lend(engine, adapters)
        began = time.perf_counter()
        pictures = render(engine, jobs)
        took_s = time.perf_counter() - began
        slots = pictures[0].sharing.slots if pictures[0].sharing else None
        return {
            **_told(case, jobs),
            "slots": slots,
            "step_s": statistics.median(each.timing.step_median_s or 0.0 for each in pictures) / case.pictures,
            "seconds": took_s,
            "pictures_per_hour": 3600 * len(pictures) / took_s,
            **peaks(pictures),
        }
    finally:
        bare.unequip(engine)


def _told(case: LoraCase, jobs: Sequence[Job]) -> Figures:
    return {
        "side": case.side,
        "pictures": case.pictures,
        "loras": case.loras,
        "shared": case.shared,
        "rank": RANK,
        "steps": case.steps,
        "guidance": case.guidance,
        "precision": jobs[0].precision,
        "vram_gib": case.vram_gib,
    }


if __name__ == "__main__":
    main()
