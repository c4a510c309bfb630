"""Whole numbers of eight bits, with a float32 scale a row, of columns that were turned.

The largest magnitude of a turned row becomes 127. Every step is one IEEE operation, so that the CPU and the GPU make
the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from renderer.weights.codecs.codec import SCALE, WEIGHT
from renderer.weights.codecs.int8 import STEPS, group
from renderer.weights.codecs.rows.encoded import EncodedRows, Loss
from renderer.weights.codecs.rows.scaled_rows import ScaledRows
from renderer.weights.codecs.rows.turns import turned

_SMALLEST = 2.0**-126

_SMALLEST_PEAK = STEPS * _SMALLEST
"""Below this a row's scale would be subnormal, which some processors take for zero; such a row becomes zeros."""

_PIECE = 2**22
"""Numbers that are turned back at a time: what is float32 meanwhile is small beside a matrix."""


def encode(rows: torch.Tensor, device: str = "cpu") -> EncodedRows:
    """Rows are turned and rounded. A number that is not finite makes its row's scale so."""
    full, scale = _turned(rows.to(device))
    steps = (full / scale[:, None]).round_().clamp_(-STEPS, STEPS)
    values = steps.to(torch.int8)
    difference = steps.mul_(scale[:, None]).sub_(full)  # as far as turned back: turns keep lengths
    loss = Loss(_squared_norm(difference), _squared_norm(full))
    scale = scale.cpu()
    return EncodedRows({WEIGHT: values.cpu(), SCALE: scale}, is_finite=bool(scale.isfinite().all()), loss=loss)


def scaled(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as they are before they are rounded: turned, of magnitudes up to 127, and what they are to be scaled by."""
    full, scale = _turned(rows)
    return full / scale[:, None], scale


def take_over(rows: ScaledRows) -> EncodedRows | None:
    """Rows in int8 of columns that were turned as ours keep their bits and scales; None for others.

    A scale below what all processors multiply with is zero.
    """
    if rows.values.dtype != torch.int8 or rows.turned != group(rows.values.shape[1]):
        return None
    scale = torch.where(rows.scale.abs() < _SMALLEST, 0.0, rows.scale)
    scale = torch.where((scale * -torch.iinfo(torch.int8).min).isfinite(), scale, torch.nan)
    return EncodedRows({WEIGHT: rows.values, SCALE: scale}, bool(scale.isfinite().all()), Loss(0.0, 0.0))


def decode(parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The bf16 matrix in new memory: exact sums, a product in float32, rounded once; the same bits on every device."""
    values, scale = parts[WEIGHT], parts[SCALE]
    rows, columns = values.shape
    found = torch.empty(values.shape, dtype=torch.bfloat16, device=values.device)
    piece = max(1, _PIECE // columns)
    for first in range(0, rows, piece):
        part = slice(first, first + piece)
        found[part] = ScaledRows(values[part], scale[part], group(columns)).whole()
    return found


def _turned(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows turned, in float32, and their scales."""
    full = turned(rows.float(), group(rows.shape[1]))
    peak = full.abs().amax(dim=1)
    return full, torch.where(peak < _SMALLEST_PEAK, torch.ones_like(peak), peak / torch.full_like(peak, STEPS))


def _squared_norm(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) ** 2
