"""Numbers that mean what they are: nothing is computed, and no byte is copied."""

from __future__ import annotations

from collections.abc import Callable

import torch

from renderer.weights.dtypes import TORCH_DTYPES
from renderer.weights.readers.reader import TensorAt


def values(place: TensorAt, first: int, raw: torch.Tensor, read: Callable[[TensorAt], torch.Tensor]) -> torch.Tensor:
    """The rows in `raw`'s own memory."""
    del first, read
    return raw.view(TORCH_DTYPES[place.dtype]).view(-1, *place.shape[1:])
