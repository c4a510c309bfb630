"""Open DiffSynth's `QwenImagePipeline` for a setup, and check that it is what it should be.

DiffSynth opens a pipeline without a word when a part is missing or is another's, so every part is looked at here.
Knows nothing of jobs.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffsynth.core.vram.layers import AutoWrappedModule
from diffsynth.models.qwen_image_dit import QwenImageDiT
from diffsynth.models.qwen_image_text_encoder import QwenImageTextEncoder
from diffsynth.models.qwen_image_vae import QwenImageVAE
from diffsynth.pipelines.qwen_image import ModelConfig, QwenImagePipeline
from transformers import Qwen2Tokenizer

from renderer import catalog
from renderer.catalog import Model, Role
from renderer.demo import family
from renderer.demo.tokenizer import DROPPED_TOKENS, TEMPLATE_PREFIX
from renderer.engine import failures, files, placement
from renderer.engine.chatter import into_log
from renderer.engine.placement import Device
from renderer.errors import MachineError, ModelError
from renderer.events import Setup

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenPipeline:
    """A checked pipeline, the model in it, and the device it computes on."""

    pipe: Any
    model: Model
    device: Device


def open_pipeline(setup: Setup, report: Callable[[str], None]) -> OpenPipeline:
    """Open `setup`'s model. `report` hears which part is being loaded.

    Raises `ModelError` when files are missing, damaged or another model's, and `MachineError` when this machine
    cannot hold or run it.
    """
    model = catalog.find(setup.model)
    place = placement.find(setup.profile, setup.precision)
    device = placement.choose_device(setup.profile)
    family.register()
    found = files.find(model, offline=setup.offline, report=report)
    configs = [
        ModelConfig(
            path=[str(path) for path in paths] if len(paths) > 1 else str(paths[0]),
            **placement.vram_config(place, role, setup.precision, device),
        )
        for role, paths in found.networks.items()
    ]
    limit = placement.vram_limit_gib(place, device, setup.vram_bytes)
    pipe: Any = None
    failure = None
    try:
        with into_log(LOG, _announcer(found, report)):
            pipe = QwenImagePipeline.from_pretrained(
                torch_dtype=placement.COMPUTATION_DTYPE,
                device=device,
                model_configs=configs,
                tokenizer_config=ModelConfig(path=str(found.tokenizer)),
                vram_limit=limit,
            )
    except Exception as error:  # noqa: BLE001  # whatever it is, it is explained
        failure = failures.explain_opening(error, found.weights)
    if failure is not None:  # here, where no traceback holds half a model any more
        gc.collect()
        raise failure
    check_parts(pipe, found)
    _check_bound(setup, device)
    _keep_buffers_exact(pipe, device)
    # After each network DiffSynth calls torch.<device_type>.empty_cache(), which torch.cpu does not have. The GPU's
    # does nothing where there is none.
    pipe.device_type = "cuda"
    return OpenPipeline(pipe=pipe, model=model, device=device)


def check_parts(pipe: Any, found: files.ModelFiles) -> None:
    """Raise `ModelError`, naming the files, unless each part is there, is of its class, and fits the others."""
    expected: tuple[tuple[Role, Any, Any], ...] = (
        ("transformer", pipe.dit, QwenImageDiT),
        ("text_encoder", pipe.text_encoder, QwenImageTextEncoder),
        ("vae", pipe.vae, QwenImageVAE),
    )
    for role, part, kind in expected:
        if not isinstance(part, kind):
            names = ", ".join(str(path) for path in found.networks[role])
            raise ModelError(f"{names}: not a Qwen-Image {role}", hint="is it another part's file under this name?")
    if not isinstance(pipe.tokenizer, Qwen2Tokenizer):
        raise ModelError(f"{found.tokenizer}: not a Qwen2 tokenizer")
    dropped = len(pipe.tokenizer(TEMPLATE_PREFIX).input_ids)
    if dropped != DROPPED_TOKENS:
        message = f"{found.tokenizer}: the prompt template takes {dropped} tokens, and DiffSynth drops {DROPPED_TOKENS}"
        raise ModelError(message, hint="the tokenizer is damaged, or another model's")


def _announcer(found: files.ModelFiles, report: Callable[[str], None]) -> Callable[[str], None]:
    """Turns DiffSynth's "Loading models from" lines, which come in the order of its configs, into parts' names."""
    roles = iter(found.networks)

    def announce(line: str) -> None:
        if line.startswith("Loading models from"):
            report(next(roles, "weights"))

    return announce


def _check_bound(setup: Setup, device: Device) -> None:
    """Raise `MachineError` when weights that all stay on the GPU take more of it than the setup grants."""
    if setup.profile != "resident" or device != "cuda" or setup.vram_bytes is None:
        return
    taken = torch.cuda.memory_allocated()
    if taken > setup.vram_bytes:
        message = f"the weights take {taken / 2**30:.1f} GiB of the GPU, and {setup.vram_bytes / 2**30:.1f} are granted"
        raise MachineError(message, hint="use --profile fp8 or disk, which keep only a part there")


def _keep_buffers_exact(pipe: Any, device: Device) -> None:
    """Take modules without weights out of VRAM management, and keep them on the device in bf16.

    DiffSynth 2.1.12 manages the text encoder's rotary embeddings like layers, and so casts their only tensor, the
    frequencies `inv_freq`, to the format of stored weights: in FP8 they have three bits of mantissa, and those below
    0.001 are zero. Without management they are bf16; so they are here.
    """
    for parent in list(pipe.text_encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, AutoWrappedModule) and next(child.module.parameters(), None) is None:
                setattr(parent, name, child.module.to(device=device, dtype=placement.COMPUTATION_DTYPE))
