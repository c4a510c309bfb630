"""Open DiffSynth's `QwenImagePipeline` for a setup, by its own `from_pretrained`.

Each network has a `ModelConfig` (`configs.py`) whose offload, onload, preparing and computation states are the
profile's; around the call stand guards (`traps.py`). Knows nothing of jobs.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffsynth.core import ModelConfig
from diffsynth.pipelines.qwen_image import QwenImagePipeline

from renderer import catalog
from renderer.catalog import Model, Role
from renderer.demo import members
from renderer.engine import configs, failures, resolve, traps
from renderer.engine import device as placement
from renderer.engine.chatter import into_log
from renderer.engine.device import Device, Placement
from renderer.engine.picture_vae import PictureVae
from renderer.engine.tensor_map import OpenWeights
from renderer.errors import MachineError
from renderer.families.qwen_image import networks
from renderer.job.precisions import BOUNDED
from renderer.protocol import Setup

LOG = logging.getLogger(__name__)

_ROLES: tuple[Role, ...] = ("transformer", "text_encoder", "vae")


@dataclass(frozen=True, slots=True)
class OpenPipeline:
    """A checked pipeline, the model in it, and the device it computes on; `formats` as `RenderEngine` has them."""

    pipe: Any
    model: Model
    device: Device
    formats: Mapping[Role, str] = field(default_factory=dict)


def open_pipeline(setup: Setup, report: Callable[[str], None]) -> OpenPipeline:
    """Open `setup`'s model. `report` hears which part is being loaded.

    Raises `ModelError` when files are missing, damaged or another model's, and `MachineError` when this machine
    cannot hold or run it.
    """
    model = catalog.find(setup.model)
    place = placement.find(setup.profile, setup.stored)
    device = placement.choose_device(setup.profile)
    members.register()
    weights = resolve.weights_of(setup, model, report)
    pipe: Any = None
    failure = None
    try:
        with into_log(LOG):
            pipe = _pipe(weights, placement.on(device, place), device, setup, report)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is explained
        failure = failures.explain_opening(error)
    if failure is not None:  # here, where no traceback holds half a model any more
        gc.collect()
        raise failure
    _check_bound(setup, device)
    return OpenPipeline(pipe=pipe, model=model, device=device, formats=weights.formats)


def _pipe(
    weights: OpenWeights, place: Placement | None, device: Device, setup: Setup, report: Callable[[str], None]
) -> Any:
    """DiffSynth's pipeline with a model's networks in it."""
    tokenizer = networks.open_tokenizer(weights.tokenizer)

    def model_configs() -> Iterator[ModelConfig]:  # one after the other: each is loaded before the next is asked for
        with TemporaryDirectory() as sheets:
            for role in _ROLES:
                report(role)
                yield configs.config(weights, role, place, device, Path(sheets))

    pipe = QwenImagePipeline.from_pretrained(
        torch_dtype=placement.computation_dtype(device),
        device=device,
        model_configs=model_configs(),
        tokenizer_config=None,
        processor_config=None,
        vram_limit=placement.vram_limit_gib(place, device, setup.vram_bytes) if place else None,
    )
    pipe.tokenizer = tokenizer
    if weights.processor is not None:
        pipe.processor = networks.open_processor(weights.processor)
        networks.tell_pictures_from_text(pipe.text_encoder)
        traps.see_exactly(pipe.text_encoder, pipe.torch_dtype)
    for network in traps.networks_of(pipe):
        if packed := getattr(network, "quantize_config", None):
            packed.read_from_disk(network)
    traps.leave_out(pipe.text_encoder, vision=weights.processor is None)
    traps.keep_frequencies_exact(pipe)
    traps.let_the_cpu_have_no_cache(pipe)
    pipe.vae = PictureVae(pipe.vae, pipe.vae.state_dict())
    if device == "cuda":
        torch.cuda.empty_cache()  # of what has been left out
    return pipe


def _check_bound(setup: Setup, device: Device) -> None:
    """Raise `MachineError` when weights that all stay on the GPU take more of it than the setup grants."""
    if setup.profile != "resident" or device != "cuda" or setup.vram_bytes is None:
        return
    taken = torch.cuda.memory_allocated()
    if taken > setup.vram_bytes:
        message = f"the weights take {taken / 2**30:.1f} GiB of the GPU, and {setup.vram_bytes / 2**30:.1f} are granted"
        raise MachineError(message, hint=f"use --profile {' or '.join(BOUNDED)}, which keep only a part there")
