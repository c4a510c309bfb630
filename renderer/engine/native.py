"""The native engine: picture after picture through DiffSynth's own `pipe(...)`, unchanged.

It is the reference: a picture's bits are those of a bare call. Around the call it counts steps, seconds and bytes, and
looks at what comes out before anyone gets it. Knows nothing of orders, files or other pictures.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image

from renderer.engine import failures
from renderer.engine.chatter import into_log
from renderer.engine.meter import Clock, MemoryMeter
from renderer.engine.pipeline import OpenPipeline, open_pipeline
from renderer.errors import BadPictureError, DeviceLostError, PictureError, RendererError
from renderer.events import Setup
from renderer.job import Job, Memory, Size, Timing

LOG = logging.getLogger(__name__)

TRAINED_TOKENS = 512
"""The longest prompts Qwen-Image was trained with."""

MOST_TOKENS = 4096
"""Where DiffSynth cuts a prompt off."""

FEWEST_STEPS = 2
"""With one step, DiffSynth 2.1.12 divides zero by zero: it stretches the noise levels so that the last is 0.02, and the
first, which is the last, cannot be stretched (`FlowMatchScheduler.set_timesteps_qwen_image`)."""

OnStep = Callable[[int, int], None]
"""Hears, after each denoising step, how many of how many are done."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A picture: `height` x `width` x 3 bytes of RGB, and what it took. Loading and saving are others' to time."""

    rgb: bytes
    width: int
    height: int
    timing: Timing
    memory: Memory
    warnings: tuple[str, ...]


class NativeEngine:
    """One open pipeline that renders one job at a time."""

    name: ClassVar[str] = "native"
    capacity: ClassVar[int] = 1

    def __init__(self, setup: Setup, opened: OpenPipeline) -> None:
        self.setup = setup
        self.device = opened.device
        self._model = opened.model
        self._pipe = opened.pipe
        self._memory = MemoryMeter(opened.device)
        _check_values_of(self._pipe)

    @classmethod
    def open(cls, setup: Setup, report: Callable[[str], None]) -> NativeEngine:
        """Open the setup's model; `report` hears which part is being loaded. Raises `MachineError`, `ModelError`."""
        return cls(setup, open_pipeline(setup, report))

    def render(self, job: Job, on_step: OnStep) -> Rendering:
        """Render one job.

        Raises `BadPictureError` when values are not finite or the picture is one flat colour, `OutOfMemoryError` when
        it did not fit, `DeviceLostError` when only a new process helps, and `PictureError` for any other reason.
        After all but `DeviceLostError` the next picture is what it would have been.
        """
        self._refuse(job)
        clock = Clock(self.device)
        failure = None
        with self._memory.watch() as peaks:
            try:
                rgb, warnings = self._call(job, clock, on_step)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is explained
                failure = failures.explain_rendering(error)
        if failure is not None:  # here, where no traceback holds the failed call's tensors any more
            self._recover(failure)
            raise failure
        return Rendering(
            rgb=rgb,
            width=job.width,
            height=job.height,
            timing=clock.timing(),
            memory=peaks.memory(),
            warnings=warnings,
        )

    def _refuse(self, job: Job) -> None:
        """Raise `PictureError` for a job that is not this engine's, or that DiffSynth would silently change."""
        if (job.model, job.precision) != (self.setup.model, self.setup.precision):
            opened = f"{self.setup.model} at {self.setup.precision}"
            raise PictureError(f"the job wants {job.model} at {job.precision}, and {opened} is open")
        if job.num_inference_steps < FEWEST_STEPS:
            steps = f"{job.num_inference_steps} step{'s' * (job.num_inference_steps != 1)}"
            raise PictureError(f"{steps}: DiffSynth's schedule for Qwen-Image has at least {FEWEST_STEPS}")
        size = Size(width=job.width, height=job.height)
        if reason := self._model.refusal(size):
            near = " or ".join(str(fitting) for fitting in self._model.nearest(size))
            raise PictureError(reason, hint=f"use {near}")

    def _call(self, job: Job, clock: Clock, on_step: OnStep) -> tuple[bytes, tuple[str, ...]]:
        """DiffSynth's call with a job's values; RGB bytes and warnings."""

        def watch(timesteps: torch.Tensor) -> Iterator[torch.Tensor]:
            clock.mark()
            for done, timestep in enumerate(timesteps, start=1):
                yield timestep
                clock.mark()
                on_step(done, len(timesteps))

        with into_log(LOG):
            warnings = self._warnings(job)
            clock.mark()
            image = self._pipe(
                prompt=job.prompt,
                negative_prompt=job.negative_prompt,
                cfg_scale=job.cfg_scale,
                height=job.height,
                width=job.width,
                seed=job.seed,
                rand_device="cpu",
                num_inference_steps=job.num_inference_steps,
                progress_bar_cmd=watch,
            )
            clock.mark()
        return _rgb(image, job), warnings

    def _warnings(self, job: Job) -> tuple[str, ...]:
        """What should be known of the job's prompts: those longer than the model has learned, or than it is given."""
        prompts = {"prompt": job.prompt}
        if job.cfg_scale != 1.0:
            prompts["negative prompt"] = job.negative_prompt
        found = []
        for name, prompt in prompts.items():
            tokens = len(self._pipe.tokenizer(prompt).input_ids)
            if tokens > TRAINED_TOKENS:
                cut = f", and is cut off at {MOST_TOKENS}" if tokens > MOST_TOKENS else ""
                found.append(f"the {name} has {tokens} tokens; the model was trained on up to {TRAINED_TOKENS}{cut}")
        return tuple(found)

    def _recover(self, failure: RendererError) -> None:
        """Give back what a failed call left, so that the next one starts like any other."""
        if isinstance(failure, DeviceLostError):
            return
        gc.collect()
        self._pipe.load_models_to_device([])
        if self.device == "cuda":
            torch.cuda.empty_cache()


def _check_values_of(pipe: Any) -> None:
    """Look at the latents after each step and at the decoded values, without changing them.

    DiffSynth turns values that are not finite into pixels without a word. The two methods are replaced on the
    instance; each calls the class's own.
    """
    step, to_image = pipe.step, pipe.vae_output_to_image

    def checked_step(scheduler: Any, *args: Any, progress_id: int, **inputs: Any) -> torch.Tensor:
        latents = step(scheduler, *args, progress_id=progress_id, **inputs)
        if not torch.isfinite(latents).all():
            message = f"the latents are not finite after step {progress_id + 1} of {len(scheduler.timesteps)}"
            raise BadPictureError(message, hint="the model's weights are damaged, or the guidance is too strong")
        return latents

    def checked_to_image(vae_output: torch.Tensor, *args: Any, **options: Any) -> Image.Image:
        if not torch.isfinite(vae_output).all():
            raise BadPictureError("the decoded values are not finite", hint="the VAE's weights are damaged")
        image: Image.Image = to_image(vae_output, *args, **options)
        return image

    pipe.step, pipe.vae_output_to_image = checked_step, checked_to_image


def _rgb(image: Image.Image, job: Job) -> bytes:
    """The picture's bytes. Raises `BadPictureError` when it is one flat colour, `PictureError` for another size."""
    if image.size != (job.width, job.height):
        raise PictureError(f"asked for {job.width}x{job.height}, and DiffSynth gave {image.width}x{image.height}")
    image = image.convert("RGB")
    if (colours := image.getcolors(maxcolors=1)) is not None:
        raise BadPictureError(f"the picture is one flat colour, {colours[0][1]}")
    return image.tobytes()
