"""A timestep's modulation vectors, ready-made: a third of the DiT's weights never moves in a sweep.

`img_mod` and `txt_mod` of every block see the timestep alone. For each timestep that any picture will need, their
vectors are computed once, in one pass over those weights, by the very operation the block would have run: one timestep
at a time, so that not a bit differs. They are kept in host memory by the timestep's bf16 value, and come to the device
a step at a time: 4.4 MB for Qwen-Image. Knows nothing of pictures or sweeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffsynth.diffusion import FlowMatchScheduler

from renderer.engine.placement import COMPUTATION_DTYPE, Device
from renderer.job import Job


@dataclass(frozen=True, slots=True)
class Ready:
    """What one block's two modulations give for one timestep: 1 x (6 * width) each. Stands in for `temb`."""

    image: torch.Tensor
    text: torch.Tensor


class PickImage(torch.nn.Module):
    """In a block, in `img_mod`'s place."""

    def forward(self, ready: Ready) -> torch.Tensor:
        return ready.image


class PickText(torch.nn.Module):
    """In a block, in `txt_mod`'s place."""

    def forward(self, ready: Ready) -> torch.Tensor:
        return ready.text


Weights = dict[str, torch.Tensor]
LoadModulation = Callable[[int], tuple[Weights, Weights]]
"""A block's number to the weight and bias of its `img_mod` and `txt_mod`, on the device, in bf16."""


class Modulations:
    """The vectors of all timesteps met so far."""

    def __init__(self, embed: Any, load: LoadModulation, blocks: int, device: Device) -> None:
        """`embed` is the DiT's `time_text_embed`."""
        self._embed = embed
        self._load = load
        self._blocks = blocks
        self._device = device
        self._tables: dict[float, torch.Tensor] = {}

    def prepare(self, jobs: Iterable[Job]) -> int:
        """Compute what these jobs' schedules need and is not there yet; how many timesteps that were."""
        wanted = {float(timestep) for job in jobs for timestep in timesteps(job)}
        missing = sorted(wanted - self._tables.keys())
        if missing:
            self._compute(missing)
        return len(missing)

    def at(self, timestep: float) -> torch.Tensor:
        """The vectors of all blocks at a timestep, on the device: blocks x 2 x (6 * width)."""
        return self._tables[timestep].to(self._device, non_blocking=True)

    def _compute(self, missing: Sequence[float]) -> None:
        embedded = [self._embedded(timestep) for timestep in missing]
        tables: list[torch.Tensor] | None = None
        for number in range(self._blocks):
            image, text = self._load(number)
            for place, silent in enumerate(embedded):
                vectors = torch.stack(
                    [torch.nn.functional.linear(silent, part["weight"], part["bias"]) for part in (image, text)], dim=1
                )[0]
                if tables is None:
                    tables = [_table(self._blocks, vectors, self._device) for _ in missing]
                tables[place][number].copy_(vectors, non_blocking=True)
        if self._device == "cuda":
            torch.cuda.synchronize()
        if tables is not None:
            self._tables.update(zip(missing, tables, strict=True))

    def _embedded(self, timestep: float) -> torch.Tensor:
        """What a block's modulation multiplies: SiLU of the embedded timestep, as DiffSynth's model function has it."""
        moment = torch.tensor([timestep], dtype=COMPUTATION_DTYPE, device=self._device) / 1000
        embedded: torch.Tensor = self._embed(moment, COMPUTATION_DTYPE)
        return torch.nn.functional.silu(embedded)


def timesteps(job: Job) -> torch.Tensor:
    """The timesteps at which DiffSynth runs the DiT for a job, in bf16 as it hands them over."""
    scheduler = FlowMatchScheduler("Qwen-Image")
    tokens = (job.height // 16) * (job.width // 16)
    scheduler.set_timesteps(job.num_inference_steps, denoising_strength=1.0, dynamic_shift_len=tokens)
    return scheduler.timesteps.to(COMPUTATION_DTYPE)


def _table(blocks: int, vectors: torch.Tensor, device: Device) -> torch.Tensor:
    return torch.empty((blocks, *vectors.shape), dtype=vectors.dtype, pin_memory=device == "cuda")
