"""Values in bfloat16: as they are, or rounded to it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from renderer.weights.codecs.codec import WEIGHT
from renderer.weights.codecs.rows.encoded import EncodedRows
from renderer.weights.codecs.rows.scaled_rows import ScaledRows

_NO_NUMBER = 0x7F80
"""The exponent of bf16's infinities and NaNs, in its place."""


def encode(rows: torch.Tensor, device: str = "cpu") -> EncodedRows:
    """Values of any shape in bf16; where they are bf16, it is their own memory."""
    del device  # no more than moving them would take
    values = rows.to(torch.bfloat16)
    return EncodedRows({WEIGHT: values}, is_finite=int(_exponents(values).amax()) != _NO_NUMBER)


def take_over(rows: ScaledRows) -> EncodedRows | None:
    """None: no rows with scales are plain."""
    del rows
    return None


def decode(parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The values themselves."""
    return parts[WEIGHT]


def _exponents(values: torch.Tensor) -> torch.Tensor:
    """The exponents' bits, all set where a value is not finite; looking with `isfinite` takes 28 times as long."""
    return values.view(torch.int16).bitwise_and(_NO_NUMBER)
