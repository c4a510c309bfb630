"""The demo model's weight files: where they lie in its folder, and which tensors are in them. Knows no values."""

from __future__ import annotations

import torch
from diffsynth.core.vram.initialization import skip_model_initialization
from diffsynth.models.qwen_image_vae import QwenImageVAE

from renderer.demo.members import VAE_BASE_WIDTH, DemoDiT, DemoTextEncoder
from renderer.families import QWEN_IMAGE_FAMILY

FILES = {
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
}


def layout() -> dict[str, dict[str, torch.Size]]:
    """Each weight file of the model, relative to its folder: its tensors' names and shapes, in a fixed order."""
    with skip_model_initialization():
        networks = {
            "transformer": DemoDiT(),
            "text_encoder": DemoTextEncoder(),
            "vae": QwenImageVAE(base_dim=VAE_BASE_WIDTH),
        }
    return {
        FILES[role]: {name_in_file(name): tensor.shape for name, tensor in sorted(network.state_dict().items())}
        for role, network in networks.items()
    }


def name_in_file(name: str) -> str:
    """Qwen-Image's own name for a tensor: the inverse of DiffSynth's text encoder converter, and the name elsewhere."""
    return QWEN_IMAGE_FAMILY.network("text_encoder").hub_name(name)
