"""Matrices with scales beside them: eight bits as they are, and the scale of each row."""

from __future__ import annotations

from collections.abc import Callable

import torch

from renderer.weights.codecs.rows import ScaledRows
from renderer.weights.dtypes import TORCH_DTYPES
from renderer.weights.readers.reader import TensorAt
from renderer.weights.readers.scaled import GROUP


def values(place: TensorAt, first: int, raw: torch.Tensor, read: Callable[[TensorAt], torch.Tensor]) -> ScaledRows:
    """Rows in `raw`'s own memory, with their scales."""
    rows = raw.view(TORCH_DTYPES[place.dtype]).view(-1, *place.shape[1:])
    beside = place.besides["scale"]
    scale = read(beside).view(TORCH_DTYPES[beside.dtype]).view(-1).float()
    own = scale.expand(len(rows)) if len(scale) == 1 else scale[first : first + len(rows)]
    return ScaledRows(rows, own, int(place.settings.get(GROUP, 0)))
