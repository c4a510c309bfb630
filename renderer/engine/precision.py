"""How a packed weight becomes one that can be multiplied: as it is, scaled back from FP8, widened, or not at all.

FP8 weights are e4m3 with one float32 scale an output channel (`renderer.weights`). Where the GPU multiplies FP8 they
stay what they are (`blocks.py`); elsewhere they are scaled back to bf16 once a block and sweep. Where bf16 cannot be
multiplied fast, what is bf16 or was scaled back to it is widened to float32, which holds every bf16 number as it is: a
store means the same weights on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from renderer.weights.fp8 import dequantise

SCALE = "scale"
WEIGHT = "weight"


def is_scaled(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether any of a block's tensors is an FP8 weight with its scale."""
    return any(name.rpartition(".")[2] == SCALE for name in tensors)


def restored(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors of a block in `dtype` by the names its module has; what is of another is restored into new memory."""
    return {name: restore(name, tensors).to(dtype) for name in tensors if name.rpartition(".")[2] != SCALE}


def room_for(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Memory for a block's tensors in `dtype`, by the names its module has, not filled."""
    return {
        name: torch.empty_like(tensor, dtype=dtype)
        for name, tensor in tensors.items()
        if name.rpartition(".")[2] != SCALE
    }


def restore(name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """One tensor in bf16: itself, or an FP8 weight times its scales."""
    stem, _, kind = name.rpartition(".")
    tensor = tensors[name]
    scale = tensors.get(f"{stem}.{SCALE}" if stem else SCALE)
    if kind != WEIGHT or scale is None:
        return tensor
    return scaled_back(tensor, scale)


def scaled_back(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The bf16 weight, [rows, columns], that e4m3 values and a float32 scale a row stand for, in new memory.

    A product in float32, rounded once: the same bits on every device.
    """
    if values.device.type == "cpu":
        return dequantise(values, scale).to(torch.bfloat16)
    widened = values.to(torch.bfloat16)  # exact
    return torch.mul(widened, scale[:, None], out=widened)  # in float32, without a float32 copy


def restore_into(targets: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Scale a block's tensors back, or widen them, into memory that is there already."""
    for name, target in targets.items():
        target.copy_(restore(name, tensors))


def fp8_arithmetic() -> bool:
    """Whether this GPU multiplies FP8 by FP8: compute capability 8.9 and up."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)
