"""A full-size checkpoint of random weights with Qwen-Image's exact keys, shapes and folder layout.

Its pictures are noise, but every byte, operation and second is the real model's: what benchmarks run on where the real
58 GB cannot be had. `layers` makes a shallower one. Imports torch and DiffSynth when it is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from diffsynth.core.vram.initialization import skip_model_initialization
from diffsynth.models.qwen_image_dit import QwenImageDiT
from diffsynth.models.qwen_image_text_encoder import QwenImageTextEncoder
from diffsynth.models.qwen_image_vae import QwenImageVAE
from safetensors.torch import save_file

from renderer.families import QWEN_IMAGE_FAMILY

SHARD_BYTES = 5 * 10**9
STD = 0.02
_WRITERS = 3


def write(folder: Path, *, layers: int = 60, layered: bool = False) -> int:
    """Write the three networks' files into `folder` and return their bytes: 58 GB, in about a minute on a fast disk.

    Weights are normal with a standard deviation of 0.02, biases zero, norms one. Made on the GPU where there is one.
    `layered` are those of a model that takes pictures apart.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    total = 0
    with ThreadPoolExecutor(_WRITERS) as pool:
        pending: list[Future[None]] = []
        for name, tensors in files(layers=layers, layered=layered):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shard = {name: _random(name, shape, device) for name, shape in tensors.items()}
            total += sum(tensor.nbytes for tensor in shard.values())
            if len(pending) >= _WRITERS:
                pending.pop(0).result()
            pending.append(pool.submit(save_file, shard, str(folder / name)))
        for future in pending:
            future.result()
    return total


def files(*, layers: int = 60, layered: bool = False) -> Iterator[tuple[str, dict[str, torch.Size]]]:
    """The files of a checkpoint: each one's name in its folder, and the shapes of its tensors."""
    for stem, tensors in checkpoint(layers=layers, layered=layered).items():
        shards = list(_shards(tensors))
        for number, names in enumerate(shards, start=1):
            shard = f"{stem}-{number:05}-of-{len(shards):05}" if len(shards) > 1 else stem
            yield f"{shard}.safetensors", {name: tensors[name] for name in names}


def checkpoint(*, layers: int = 60, layered: bool = False) -> dict[str, dict[str, torch.Size]]:
    """By the stem of each network's files: the shapes of its tensors, by the hub's names."""
    hub_name = QWEN_IMAGE_FAMILY.network("text_encoder").hub_name
    dit = {"use_layer3d_rope": True, "use_additional_t_cond": True} if layered else {}
    vae = {"image_channels": 4} if layered else {}
    with skip_model_initialization():
        return {
            "transformer/diffusion_pytorch_model": _shapes(QwenImageDiT(num_layers=layers, **dit)),
            "text_encoder/model": {hub_name(name): shape for name, shape in _shapes(QwenImageTextEncoder()).items()},
            "vae/diffusion_pytorch_model": _shapes(QwenImageVAE(**vae)),
        }


def _shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _shards(tensors: Mapping[str, torch.Size]) -> Iterator[list[str]]:
    """The names, cut where a file would exceed `SHARD_BYTES`."""
    names: list[str] = []
    size = 0
    for name, shape in tensors.items():
        count = 2 * shape.numel()
        if names and size + count > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += count
    yield names


def _random(name: str, shape: torch.Size, device: str) -> torch.Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=torch.bfloat16)
    if len(shape) == 1 or "gamma" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    return (torch.randn(shape, device=device, dtype=torch.bfloat16) * STD).cpu()
