"""What a picture will take, from the model's shape alone: memory, time, disk, and what is decided by them.

Pure arithmetic: nothing is measured here, no torch is imported. The engine's budget and the plan use these same
functions, so that what is forecast is what the engine does.

    fitted              every constant that was found by measuring, with its data
    terms               what an estimate consists of: named terms, in stages
    work                what is asked: a picture's demands, a card's kernels
    family_costs        what a family says of its networks: bytes and operations
    companies           who goes through a block with whom
    memory              GPU memory of the streaming engine
    diffsynth           GPU memory of DiffSynth's own pipeline
    host                host memory of a worker
    weights             what weights take: as files, as slots, on the GPU
    looking             how many tokens a prompt has more with pictures
    tokens              how many tokens a prompt will be
    decide              slots, pictures in flight, what is refused
    duration            seconds
    stable_diffusion    another architecture, publicly measured
"""

from __future__ import annotations

from renderer import families
from renderer.catalog import Architecture, Model
from renderer.estimate.diffsynth import Native
from renderer.estimate.memory import Streaming
from renderer.estimate.stable_diffusion import estimate_unet, f
from renderer.estimate.terms import Estimate, Stage, Term
from renderer.estimate.tokens import count_tokens
from renderer.estimate.weights import WeightBytes, weight_bytes
from renderer.estimate.work import Kernels, Work
from renderer.job import Profile, Stored
from renderer.job.precisions import DEFAULT_PRECISION, stored

__all__ = [
    "Estimate",
    "Kernels",
    "Native",
    "Stage",
    "Streaming",
    "Term",
    "WeightBytes",
    "Work",
    "count_tokens",
    "estimate_peak",
    "estimate_unet",
    "f",
    "shape_of",
    "weight_bytes",
]

DEFAULT_PROMPT_TOKENS = 64
_PRECISION = stored(DEFAULT_PRECISION)


def shape_of(model: Model) -> Architecture:
    """A model's shape; of a folder or files of one's own, that which its family is reckoned with."""
    return model.shape or families.find(model.family).architecture


def estimate_peak(
    model: Model,
    width: int,
    height: int,
    prompt_tokens: int = DEFAULT_PROMPT_TOKENS,
    cfg_scale: float = 4.0,
    in_flight: int = 1,
    precision: Stored = _PRECISION,
    slots: int = 2,
    *,
    profile: Profile = "stream",
    vram_bytes: int | None = None,
    kernels: Kernels | None = None,
) -> Estimate:
    """Peak GPU memory of `in_flight` pictures of one size, every term by name.

    `vram_bytes` is the limit of the native profiles that have one. Sizes are in pixels, multiples of 16.
    """
    shape, kernels = shape_of(model), kernels or Kernels()
    work = Work(width, height, prompt_tokens, guided=cfg_scale != 1.0)
    if profile == "stream":
        return Streaming(shape, precision, slots, kernels).estimate([work] * in_flight)
    return Native(shape, precision, profile, vram_bytes, kernels).estimate(work)
