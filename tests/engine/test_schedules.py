"""Schedules: the numbers are those of their formulas and of DiffSynth's scheduler, in both engines."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffsynth.diffusion import FlowMatchScheduler

from renderer.engine import schedules
from renderer.engine.native import NativeEngine
from renderer.job import Job, Schedule, ScheduleKind, Shift
from tests.engine.making import bare_picture, bare_pipeline, flattened, make_job
from tests.engine.test_streaming import open_engine, pixels, render

KINDS: list[ScheduleKind | Shift] = ["qwen-image", "lightning", Shift(shift=1.0), Shift(shift=2.5), Shift(shift=12.0)]
TEMPLATES: dict[str, str] = {"qwen-image": "Qwen-Image", "lightning": "Qwen-Image-Lightning"}


def noise_by_formula(job: Job) -> list[float]:
    """How much noise there is before each step, between 0 and 1, by arithmetic alone: nothing of DiffSynth's."""
    steps, tokens = job.num_inference_steps, job.width * job.height // 256
    base, most, stretched = (0.5, 0.9, True) if job.schedule != "lightning" else (math.log(3), math.log(3), False)
    mu = base + (most - base) * (tokens - 256) / (8192 - 256)
    if isinstance(job.schedule, Shift):
        mu = math.log(job.schedule.shift)
    even = [job.denoising_strength * (1 - step / steps) for step in range(steps)]
    shifted = [math.exp(mu) / (math.exp(mu) + 1 / level - 1) for level in even]
    scale = (1 - shifted[-1]) / 0.98
    return [1 - (1 - level) / scale if stretched else level for level in shifted]


@pytest.mark.parametrize("schedule", KINDS, ids=str)
@pytest.mark.parametrize("size", [(64, 64), (1328, 1328), (2048, 1536)])
@pytest.mark.parametrize("strength", [1.0, 0.45])
def test_numbers(schedule: ScheduleKind | Shift, size: tuple[int, int], strength: float) -> None:
    """Each level of noise is that of its formula, and each timestep bit for bit that of DiffSynth's scheduler."""
    for steps in (2, 4, 8, 40):
        job = make_job(
            schedule=schedule, width=size[0], height=size[1], num_inference_steps=steps, denoising_strength=strength
        )
        shift = {"exponential_shift_mu": math.log(schedule.shift)} if isinstance(schedule, Shift) else {}
        scheduler = FlowMatchScheduler("Qwen-Image" if shift else TEMPLATES[str(schedule)])
        tokens = (size[0] // 16) * (size[1] // 16)
        scheduler.set_timesteps(steps, denoising_strength=strength, dynamic_shift_len=tokens, **shift)
        found = schedules.timesteps(Schedule.of(job), torch.float32)
        assert found == tuple(scheduler.timesteps.tolist())
        assert [each / 1000 for each in found] == pytest.approx(noise_by_formula(job), abs=1e-6)


@pytest.mark.parametrize("schedule", ["lightning", Shift(shift=5.0)], ids=str)
def test_pictures(engine: NativeEngine, demo_folder: Any, schedule: ScheduleKind | Shift) -> None:
    """Both engines' pictures are those of DiffSynth's own call with that scheduler, and the next one is as ever."""
    pipe = flattened(bare_pipeline(demo_folder))
    usual, job = make_job(num_inference_steps=3), make_job(num_inference_steps=3, schedule=schedule)
    plain = bare_picture(pipe, usual)
    if schedule == "lightning":
        pipe.scheduler = FlowMatchScheduler("Qwen-Image-Lightning")
    told = {"exponential_shift_mu": math.log(schedule.shift)} if isinstance(schedule, Shift) else {}
    expected = bare_picture(pipe, job, **told)
    assert expected != plain
    jobs = [job, usual, job]
    assert [engine.render(each, lambda *_: None).rgb for each in jobs] == [expected, plain, expected]
    assert pixels(render(open_engine(in_flight=3), jobs)) == [expected, plain, expected]
