"""Seeded random weights for the demo model, in the files DiffSynth opens.

Every value is a uniform random number of a scale that keeps the signal's size from layer to layer, so that pictures are
colourful noise: finite, never one flat colour, in bf16 and with FP8 weights. Uniform, because torch's uniform numbers
are the same on every processor, its normal ones are not. Knows nothing of caches.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from diffsynth.core.vram.initialization import skip_model_initialization
from diffsynth.models.qwen_image_vae import QwenImageVAE
from safetensors.torch import save_file

from renderer.demo.family import VAE_BASE_WIDTH, DemoDiT, DemoTextEncoder

SEED = 20261121

FILES = {
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
}


def write(folder: Path) -> None:
    """Write the three networks' weights under `folder`, which is made if need be. Raises `OSError`."""
    generator = torch.Generator().manual_seed(SEED)
    for file, shapes in layout().items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: _values(name, shape, generator) for name, shape in shapes.items()}, path)


def layout() -> dict[str, dict[str, torch.Size]]:
    """Each weight file of the model, relative to its folder: its tensors' names and shapes, in a fixed order."""
    with skip_model_initialization():
        networks = {
            "transformer/diffusion_pytorch_model.safetensors": DemoDiT(),
            "text_encoder/model.safetensors": DemoTextEncoder(),
            "vae/diffusion_pytorch_model.safetensors": QwenImageVAE(base_dim=VAE_BASE_WIDTH),
        }
    return {
        file: {name_in_file(name): tensor.shape for name, tensor in sorted(network.state_dict().items())}
        for file, network in networks.items()
    }


def name_in_file(name: str) -> str:
    """Qwen-Image's own name for a tensor: the inverse of DiffSynth's text encoder converter, and the name elsewhere."""
    if name.startswith("model.visual."):
        return name.removeprefix("model.")
    return name.replace("model.language_model.", "model.", 1)


def _values(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """One tensor in bf16: zero for a bias, one for a norm, else uniform with a deviation of 1 / sqrt(inputs)."""
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=torch.bfloat16)
    if len(shape) == 1 or name.endswith("gamma"):
        return torch.ones(shape, dtype=torch.bfloat16)
    std = 1.0 if name.endswith("embed_tokens.weight") else 1 / math.sqrt(_inputs(shape))
    numbers = torch.rand(shape, generator=generator, dtype=torch.float32)
    return ((2 * numbers - 1) * (std * math.sqrt(3))).to(torch.bfloat16)


def _inputs(shape: torch.Size) -> int:
    """How many values one output sums. A causal convolution sees one picture of its three frames; the rest are zero."""
    three_dimensional = 5
    frames = shape[2] if len(shape) == three_dimensional else 1
    return int(shape.numel() // shape[0] // frames)
