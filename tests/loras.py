"""LoRA files for tests: small, for the demo model, in any dialect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from renderer.catalog import DEMO_ARCHITECTURE

WIDTH, MLP = DEMO_ARCHITECTURE.width, DEMO_ARCHITECTURE.mlp_width
TO_Q = "transformer_blocks.0.attn.to_q"
SHAPES: Mapping[str, tuple[int, int]] = {
    TO_Q: (WIDTH, WIDTH),
    "transformer_blocks.1.attn.to_out.0": (WIDTH, WIDTH),
    "transformer_blocks.2.img_mlp.net.0.proj": (MLP, WIDTH),
    "transformer_blocks.2.txt_mlp.net.2": (WIDTH, MLP),
    "transformer_blocks.4.img_mod.1": (6 * WIDTH, WIDTH),
}
"""Some of the demo model's layers, by the shapes of their weights."""

Tensors = dict[str, np.ndarray]


def factors(
    modules: Iterable[str] = SHAPES,
    *,
    rank: int = 4,
    seed: int = 0,
    down: str = ".lora_A.weight",
    up: str = ".lora_B.weight",
) -> Tensors:
    """A pair of factors for each of these layers."""
    draw, found = np.random.default_rng(seed), Tensors()
    for module in modules:
        rows, columns = SHAPES[module]
        found[module + down] = draw.standard_normal((rank, columns), np.float32) / 8
        found[module + up] = draw.standard_normal((rows, rank), np.float32) / 8
    return found


def write_lora(path: Path, tensors: Tensors | None = None, metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(factors() if tensors is None else tensors, path, dict(metadata or {}))
    return path
