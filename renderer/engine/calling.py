"""DiffSynth's `pipe(...)` for a job: what it is given, what is refused before it, what is looked at on its way.

Both engines make the same call. Knows nothing of where weights lie or of other pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from renderer.catalog import MOST_TOKENS, TRAINED_TOKENS, Model
from renderer.engine import inputs, pinned, schedules
from renderer.engine.encoding import AskedPrompt
from renderer.engine.inputs import Inputs
from renderer.errors import BadPictureError, PictureError
from renderer.job import Job, Memory, Sharing, Size, Timing, Weights
from renderer.protocol import Setup

FEWEST_STEPS = 2
"""With one step, DiffSynth 2.1.12 divides zero by zero: it stretches the noise levels so that the last is 0.02, and the
first, which is the last, cannot be stretched (`FlowMatchScheduler.set_timesteps_qwen_image`)."""

OnStep = Callable[[int, int], None]
"""Hears, after each denoising step, how many of how many are done."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A picture: `height` x `width` x 3 bytes of RGB, and what it took. Loading and saving are others' to time.

    `layers` are those that it was taken apart into, the hindmost first: `height` x `width` x 4 bytes of RGBA each.

    `sharing` is there when it was rendered together with others, or from weights that came past.
    """

    rgb: bytes
    width: int
    height: int
    timing: Timing
    memory: Memory
    warnings: tuple[str, ...]
    sharing: Sharing | None = None
    layers: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class DrawnPicture:
    """What DiffSynth's call gave, as `Rendering` has it."""

    rgb: bytes
    layers: tuple[bytes, ...] = ()


def arguments(job: Job, given: Inputs) -> dict[str, Any]:
    """What `pipe(...)` is called with, `progress_bar_cmd` aside. Noise is drawn on the CPU: the same on every card."""
    return {
        **inputs.arguments(job, given),
        **schedules.arguments(job),
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "cfg_scale": job.cfg_scale,
        "height": job.height,
        "width": job.width,
        "seed": job.seed,
        "rand_device": "cpu",
        "num_inference_steps": job.num_inference_steps,
    }


def prompts(job: Job) -> dict[str, AskedPrompt]:
    """The prompts that will be encoded, by what they are called; without guidance the negative one is not."""
    found = {"prompt": AskedPrompt(job.prompt, job.edit)}
    if job.cfg_scale != 1.0:
        found["negative prompt"] = AskedPrompt(job.negative_prompt, job.edit)
    return found | {f"prompt of region {n}": AskedPrompt(each.prompt) for n, each in enumerate(job.regions, start=1)}


def refuse(job: Job, setup: Setup, model: Model) -> None:
    """Raise `PictureError` for a job that is not this engine's, or that DiffSynth would silently change."""
    if Weights.of(job) != setup.weights:
        opened = f"{setup.model} at {setup.precision}"
        raise PictureError(f"the job wants {job.model} at {job.precision}, and {opened} is open")
    if job.num_inference_steps < FEWEST_STEPS:
        steps = f"{job.num_inference_steps} step{'s' * (job.num_inference_steps != 1)}"
        raise PictureError(f"{steps}: DiffSynth's schedule for Qwen-Image has at least {FEWEST_STEPS}")
    if job.edit is not None and model.editing is None:
        raise PictureError(f"{model.id} edits no pictures")
    if (job.layer_num is None) is not (model.layering is None):
        able = "makes layers of a picture, and the job wants none" if model.layering else "makes no layers"
        raise PictureError(f"{model.id} {able}")
    if (job.regions or job.context_image) and (job.edit or job.layer_num is not None):
        raise PictureError("regions, and what stands beside a picture, are of pictures that are drawn from text")
    size = Size(width=job.width, height=job.height)
    if reason := model.refusal(size):
        near = " or ".join(str(fitting) for fitting in model.nearest(size))
        raise PictureError(reason, hint=f"use {near}")


def warn_of(job: Job, tokenizer: Any) -> tuple[str, ...]:
    """What should be known of the job's prompts: those longer than the model has learned, or than it is given."""
    found = []
    for name, prompt in prompts(job).items():
        tokens = len(tokenizer(prompt.text).input_ids)
        if tokens > TRAINED_TOKENS:
            cut = f", and is cut off at {MOST_TOKENS}" if tokens > MOST_TOKENS and not prompt.edit else ""
            found.append(f"the {name} has {tokens} tokens; the model was trained on up to {TRAINED_TOKENS}{cut}")
    return tuple(found)


Developing = Callable[[], AbstractContextManager[None]]
"""Called when a picture has been decoded; its values become pixels within what comes back. For each of its layers."""


def check_values_of(pipe: Any, developing: Developing = nullcontext) -> None:
    """Look at the latents after the last step and at the decoded values, without changing them.

    DiffSynth turns values that are not finite into pixels without a word. The two methods are replaced on the
    instance; each calls the class's own. Latents that are not finite stay so, and only looking makes the host wait
    for the GPU: once a picture, when its decoding is under way, is enough.
    """
    step, to_image = pipe.step, pipe.vae_output_to_image
    finite: list[torch.Tensor] = []

    def checked_step(scheduler: Any, *args: Any, progress_id: int, **inputs: Any) -> torch.Tensor:
        latents: torch.Tensor = step(scheduler, *args, progress_id=progress_id, **inputs)
        if progress_id + 1 == len(scheduler.timesteps):
            finite[:] = [torch.isfinite(latents).all()]
        return latents

    def checked_to_image(vae_output: torch.Tensor, *args: Any, **options: Any) -> Image.Image:
        with developing():
            if not all(finite):
                hint = "the model's weights are damaged, or the guidance is too strong"
                raise BadPictureError("the latents are not finite after the last step", hint=hint)
            if not torch.isfinite(vae_output).all():
                raise BadPictureError("the decoded values are not finite", hint="the VAE's weights are damaged")
            return to_image(vae_output, *args, **options)

    pipe.step, pipe.vae_output_to_image = checked_step, checked_to_image


def send_noise_of(pipe: Any) -> None:
    """Have a pipeline's noise brought to its device without a wait for all work so far; its values are DiffSynth's."""
    generate = pipe.generate_noise

    def generated(*args: Any, device: Any = None, **options: Any) -> torch.Tensor:
        return pinned.sent(generate(*args, device="cpu", **options), device or pipe.device)

    pipe.generate_noise = generated


def drawn(found: Image.Image | list[Image.Image], job: Job) -> DrawnPicture:
    """The bytes of what came. Of layers, DiffSynth gives the whole first; where one is taken out, it is all there is.

    Raises `BadPictureError` when the picture is one flat colour, `PictureError` for another size or number.
    """
    images = found if isinstance(found, list) else [found]
    wanted = 1 + (job.layer_num or 0)
    if len(images) != wanted:
        raise PictureError(f"{wanted} pictures were to come, and DiffSynth gave {len(images)}")
    for image in images:
        if image.size != (job.width, job.height):
            raise PictureError(f"asked for {job.width}x{job.height}, and DiffSynth gave {image.width}x{image.height}")
    layers = tuple(image.convert("RGBA").tobytes() for image in images[-job.layers :]) if job.layers else ()
    return DrawnPicture(_rgb(images[0]), layers)


def _rgb(image: Image.Image) -> bytes:
    """A picture's bytes, on white where it is transparent."""
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if (colours := image.getcolors(maxcolors=1)) is not None:
        raise BadPictureError(f"the picture is one flat colour, {colours[0][1]}")
    return image.tobytes()
