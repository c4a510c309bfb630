"""Matrices with scales, and those whose columns were turned in groups: multiplied in float32, and rounded to bf16 once.

ConvRot turns each group of columns by a Hadamard matrix that is symmetric and its own inverse; so the values are those
of the stored matrix turned once more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from renderer.weights.dtypes import TORCH_DTYPES
from renderer.weights.readers.reader import TensorAt

_STEP = ((1.0, 1.0, 1.0, -1.0), (1.0, 1.0, -1.0, 1.0), (1.0, -1.0, 1.0, 1.0), (-1.0, 1.0, 1.0, 1.0))
"""The smallest: larger ones are its products with itself, by Kronecker."""


def values(place: TensorAt, first: int, raw: torch.Tensor, read: Callable[[TensorAt], torch.Tensor]) -> torch.Tensor:
    """bf16 rows, [rows, …], in new memory."""
    rows = raw.view(TORCH_DTYPES[place.dtype]).view(-1, *place.shape[1:])
    found = rows.float().view(rows.shape[0], -1)
    if group := int(place.settings.get("convrot_groupsize", 0)):
        found = (found.view(-1, group) @ _turn(group)).view(found.shape) / group**0.5
    scale = _scale(place.besides["scale"], read)
    found *= scale if scale.numel() == 1 else scale[first : first + len(rows), None]
    return found.to(torch.bfloat16).view(rows.shape)


def _scale(place: TensorAt, read: Callable[[TensorAt], torch.Tensor]) -> torch.Tensor:
    return read(place).view(TORCH_DTYPES[place.dtype]).float()


@cache
def _turn(group: int) -> torch.Tensor:
    """The turn of a group of columns times the root of its size, a power of four: [group, group] of 1 and -1.

    Sums of whole numbers and their division by a power of two are exact in float32, so that a row's bits do not depend
    on how many come at a time.
    """
    found = step = torch.tensor(_STEP)
    while len(found) < group:
        found = torch.kron(found, step)
    return found
