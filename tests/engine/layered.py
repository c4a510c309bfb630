"""A small model of random looks that takes pictures apart: the demo's networks, with layers and transparency."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffsynth.models.qwen_image_vae import QwenImageVAE
from safetensors.torch import load_file, save_file

from renderer.demo import members
from renderer.engine.device import computation_dtype
from renderer.families.qwen_image.shapes import LAYERED
from tests.engine.making import DIT, VAE, bare_pipeline, copy_model, flattened


def make_layered_model(demo: Path, folder: Path) -> Path:
    """A model in the hub's layout, which tells by its own files that it makes layers; the same folder."""
    copy_model(demo, folder)
    dice = torch.Generator().manual_seed(5)
    dit = load_file(folder / DIT)
    dit[LAYERED] = torch.randn(2, members.DIT_WIDTH, generator=dice).to(torch.bfloat16)
    save_file(dit, folder / DIT)
    (folder / "transformer" / "config.json").write_text(json.dumps({"use_layer3d_rope": True}))
    vae = load_file(folder / VAE)
    for name, axis in (("encoder.conv_in.weight", 1), ("decoder.conv_out.weight", 0), ("decoder.conv_out.bias", 0)):
        colours = vae[name]
        alpha = torch.randn(colours.narrow(axis, 0, 1).shape, generator=dice) * colours.float().std()
        vae[name] = torch.cat([colours, alpha.to(colours.dtype)], axis)
    save_file(vae, folder / VAE)
    return folder


def bare_layered_pipeline(demo: Path, folder: Path) -> Any:
    """DiffSynth's pipeline with its own classes for layers, built as it builds them of the real files."""
    pipe = bare_pipeline(demo)
    dtype = computation_dtype("cpu")
    pipe.dit = members.DemoDiT(use_layer3d_rope=True, use_additional_t_cond=True)
    pipe.dit.load_state_dict(load_file(folder / DIT))
    pipe.dit.to(dtype).eval()
    pipe.vae = QwenImageVAE(base_dim=members.VAE_BASE_WIDTH, image_channels=4)
    pipe.vae.load_state_dict(load_file(folder / VAE))
    pipe.vae.to(dtype).eval()
    return flattened(pipe)
