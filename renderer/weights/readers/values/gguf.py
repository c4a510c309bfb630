"""GGUF's blocks as numbers: the library's own arithmetic, in float32, and rounded to bf16 once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from renderer.errors import ModelError
from renderer.weights.dtypes import TORCH_DTYPES
from renderer.weights.readers.reader import TensorAt


def values(place: TensorAt, first: int, raw: torch.Tensor, read: Callable[[TensorAt], torch.Tensor]) -> torch.Tensor:
    """bf16 rows in new memory; those of plain floats in `raw`'s own. A number that is none stays so."""
    del first, read
    if place.dtype in TORCH_DTYPES:
        return raw.view(TORCH_DTYPES[place.dtype]).view(-1, *place.shape[1:])
    try:
        from gguf import GGMLQuantizationType  # noqa: PLC0415  # an extra
        from gguf.quants import dequantize  # noqa: PLC0415
    except ImportError as error:  # it was there when the header was read
        raise ModelError(f"{place.path}: the library that reads GGUF is not here any more") from error
    with np.errstate(all="ignore"):  # a scale that is not finite is refused by whoever packs
        found = dequantize(raw.numpy().reshape(-1, place.row_bytes), GGMLQuantizationType[place.dtype])
    return torch.from_numpy(found).to(torch.bfloat16).view(-1, *place.shape[1:])
