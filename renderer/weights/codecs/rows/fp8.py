"""Values in e4m3, with a float32 scale a row.

The largest magnitude of a row becomes 448, e4m3's largest number. Every step is one IEEE operation, so that the CPU and
the GPU make the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from renderer.weights.codecs.codec import SCALE, WEIGHT
from renderer.weights.codecs.fp8 import LARGEST
from renderer.weights.codecs.rows.encoded import EncodedRows, Loss
from renderer.weights.codecs.rows.scaled_rows import ScaledRows

_NONE = 0x7F
"""The bits of e4m3's only value that is no number, without its sign."""

_SMALLEST = 2.0**-126

_SMALLEST_PEAK = LARGEST * _SMALLEST
"""Below this a row's scale would be subnormal, which some processors take for zero; such a row becomes zeros."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """Rows in e4m3, their float32 scales, and for the relative error: the squared norms of difference and original."""

    values: torch.Tensor
    scale: torch.Tensor
    difference: float
    original: float


def encode(rows: torch.Tensor, device: str = "cpu") -> EncodedRows:
    """Rows that are e4m3 already keep their bits, with scales of one; all others are quantised on the device."""
    found = taken_over(rows) if rows.dtype == torch.float8_e4m3fn else quantise(rows.to(device))
    scale = found.scale.cpu()
    loss = Loss(found.difference, found.original)
    return EncodedRows({WEIGHT: found.values.cpu(), SCALE: scale}, is_finite=bool(scale.isfinite().all()), loss=loss)


def take_over(rows: ScaledRows) -> EncodedRows | None:
    """e4m3 keeps its bits and its scales: nothing is rounded again. None for other rows.

    A scale below what all processors multiply with is zero; a product that is no number makes its row's scale so.
    """
    if rows.values.dtype != torch.float8_e4m3fn or rows.turned:
        return None
    found = taken_over(rows.values)
    scale = torch.where(rows.scale.abs() < _SMALLEST, 0.0, rows.scale) * found.scale
    scale = torch.where((scale * LARGEST).isfinite(), scale, torch.nan)
    is_finite = bool(scale.isfinite().all())
    return EncodedRows({WEIGHT: found.values, SCALE: scale}, is_finite, Loss(found.difference, found.original))


def decode(parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The bf16 matrix in new memory: a product in float32, rounded once, with the same bits on every device."""
    values, scale = parts[WEIGHT], parts[SCALE]
    if values.device.type == "cpu":
        return dequantise(values, scale).to(torch.bfloat16)
    widened = values.to(torch.bfloat16)  # exact
    return torch.mul(widened, scale[:, None], out=widened)  # in float32, without a float32 copy


def quantise(weight: torch.Tensor) -> Quantised:
    """Rows of a weight, [rows, columns] in any float format. A number that is not finite makes its row's scale so."""
    full = weight.float()
    peak = full.abs().amax(dim=1)
    scale = torch.where(peak < _SMALLEST_PEAK, torch.ones_like(peak), peak / torch.full_like(peak, LARGEST))
    values = (full / scale[:, None]).to(torch.float8_e4m3fn)
    difference = dequantise(values, scale).sub_(full)
    return Quantised(values, scale, _squared_norm(difference), _squared_norm(full))


def taken_over(values: torch.Tensor) -> Quantised:
    """Rows that are e4m3 already, as they are: with scales of one. A number that is none makes its row's scale so."""
    none = (values.view(torch.uint8) & _NONE == _NONE).any(dim=1)
    scale = torch.where(none, torch.nan, 1.0)
    return Quantised(values, scale, difference=0.0, original=0.0)


def dequantise(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The float32 weight that rows of finite e4m3 and their scales stand for, in new memory."""
    return _widened(values).mul_((scale * _WIDENED)[:, None])


_WIDENED = 2.0**8
"""What `_widened` leaves to be multiplied: the difference of the exponents' biases, 15 and 7."""


def _widened(values: torch.Tensor) -> torch.Tensor:
    """Finite e4m3 as float32, divided by `_WIDENED`: its bits, moved to their places in a float16. Exact.

    A dozen times as fast as `values.float()` on a CPU, which converts one number at a time.
    """
    bits = values.view(torch.int8).to(torch.int16)  # the sign is in all upper bits now
    return bits.bitwise_left_shift_(7).bitwise_and_(~0x4000).view(torch.float16).float()


def _squared_norm(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) ** 2
