"""What DiffSynth 2.1.12 does without a word, and what stands against it. Knows nothing of files and jobs."""

from __future__ import annotations

from typing import Any

import torch
from diffsynth.core.vram.layers import AutoWrappedModule

from renderer.errors import ModelError


def networks_of(pipe: Any) -> tuple[Any, Any, Any]:
    """A pipeline's DiT, text encoder and VAE. Raises `ModelError` where one is not there.

    DiffSynth opens without a part, prints that this is no error, and draws noise or fails in the middle of a picture.
    """
    found = {"transformer": pipe.dit, "text encoder": pipe.text_encoder, "VAE": pipe.vae}
    for name, network in found.items():
        if network is None:
            raise ModelError(f"DiffSynth has not found the model's {name} in its files")
    return pipe.dit, pipe.text_encoder, pipe.vae


def leave_out(network: Any, *, vision: bool) -> None:
    """Take off what no picture needs: a text encoder's output layer, and its vision tower where `vision` says so.

    DiffSynth moves both for every prompt; it takes hidden states alone.
    """
    if hasattr(network, "lm_head"):
        network.lm_head = None
        network.model.visual = None if vision else network.model.visual


def keep_frequencies_exact(pipe: Any) -> None:
    """Take modules without weights out of VRAM management, and keep them on the device as it computes.

    DiffSynth manages the text encoder's rotary embeddings like layers, and so casts their only tensor, the frequencies
    `inv_freq`, to the format of stored weights: bf16, where a CPU computes in float32, or even FP8, where those below
    0.001 are zero. Without management they are in the type that is computed in; so they are here.
    """
    for parent in list(pipe.text_encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, AutoWrappedModule) and next(child.module.parameters(), None) is None:
                setattr(parent, name, child.module.to(device=pipe.device, dtype=pipe.torch_dtype))


def let_the_cpu_have_no_cache(pipe: Any) -> None:
    """After each network DiffSynth calls `empty_cache` of torch's module for the device, which `torch.cpu` has not.

    The GPU's does nothing where there is none.
    """
    pipe.device_type = "cuda"


def see_exactly(encoder: Any, dtype: torch.dtype) -> None:
    """Let a text encoder be shown pictures in `dtype`, in which it computes.

    transformers rounds them to the type of the tower's weights. Where DiffSynth manages these, they are kept in bf16
    also where it computes in float32, and what is seen would be rounded before anything is computed.
    """
    tower = encoder.model.visual
    tower.__class__ = type(type(tower).__name__, (type(tower),), {"dtype": dtype})
