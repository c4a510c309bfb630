"""How noise falls from step to step, as DiffSynth's scheduler has it: a job's schedule in DiffSynth's words.

Knows nothing of networks or pictures.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from diffsynth.diffusion import FlowMatchScheduler

from renderer.job import Job, Schedule, ScheduleKind

_TEMPLATES: dict[ScheduleKind, str] = {"qwen-image": "Qwen-Image", "lightning": "Qwen-Image-Lightning"}
"""DiffSynth's names for schedules, by the kinds of ours."""


def scheduler_of(schedule: Schedule) -> FlowMatchScheduler:
    """DiffSynth's scheduler of this kind, not yet told how many steps."""
    return FlowMatchScheduler(_TEMPLATES[schedule.kind])


def follow(pipe: Any, job: Job) -> None:
    """Let a pipeline of DiffSynth's follow a job's schedule; what `arguments` says has to be in its call as well."""
    pipe.scheduler = scheduler_of(Schedule.of(job))


def arguments(job: Job) -> dict[str, Any]:
    """What `pipe(...)` is told of a job's schedule, beside its steps, size and strength."""
    shift = Schedule.of(job).shift
    return {} if shift is None else {"exponential_shift_mu": math.log(shift)}


@functools.lru_cache(maxsize=1024)
def timesteps(schedule: Schedule, dtype: torch.dtype) -> tuple[float, ...]:
    """The timesteps at which DiffSynth runs the DiT, from 1000 down, rounded to `dtype` as it hands them over."""
    scheduler = scheduler_of(schedule)
    scheduler.set_timesteps(
        schedule.steps,
        denoising_strength=schedule.strength,
        dynamic_shift_len=schedule.tokens,
        exponential_shift_mu=None if schedule.shift is None else math.log(schedule.shift),
    )
    return tuple(float(timestep) for timestep in scheduler.timesteps.to(dtype))
