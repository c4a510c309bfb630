"""ControlNet files for tests: small, for the demo model, of random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from renderer.catalog import DEMO_ARCHITECTURE
from renderer.families.qwen_image import shapes

LAYERS, WIDTH = DEMO_ARCHITECTURE.layers, DEMO_ARCHITECTURE.width


def write_controlnet(
    path: Path, seed: int = 1, *, masked: bool = False, layers: int = LAYERS, width: int = WIDTH
) -> Path:
    """A blockwise ControlNet whose blocks say enough to be seen; the same path."""
    dice, tensors = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.controlnet(layers, width, masked).items():
        drawn = torch.randn(shape, generator=dice)
        is_norm = name.endswith("_rms.weight")
        tensors[name] = (1 + drawn / 10 if is_norm else drawn * shape[-1] ** -0.5).to(torch.bfloat16)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path
