"""The pieces of an FP8 block as Triton kernels: what `scaled_kernels` has, with rows scaled to e4m3.

They mean what `fp8_reference` says. The product itself is cuBLAS's.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from renderer.engine import scaled_kernels
from renderer.engine.fp8_reference import (
    ARITHMETIC,
    LARGEST_ERROR,
    Rows,
    as_inputs,
    as_stored,
    multiply,
    room_for,
    widened,
)
from renderer.engine.scaled_kernels import RowScaler, add, larger, narrow, place, rows_are_alike, widen

__all__ = [
    "ARITHMETIC",
    "LARGEST_ERROR",
    "activate",
    "add",
    "add_and_modulate",
    "as_inputs",
    "as_stored",
    "modulate",
    "multiply",
    "narrow",
    "place",
    "quantise",
    "quantise_into",
    "room_for",
    "rows_are_alike",
    "widen",
    "widened",
]


@triton.jit
def _store(values, mask, columns, row, q_pointer, s_pointer, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    peak = larger(tl.reduce(tl.where(mask, tl.abs(values), 0.0), 0, larger), 1e-12)
    scale = peak / 448.0
    scaled = tl.clamp(values / scale, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(q_pointer + row * WIDTH + columns, scaled.to(q_pointer.dtype.element_ty), mask)
    tl.store(s_pointer + row, scale)


_SCALER = RowScaler(_store)


def modulate(x: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, first: int) -> Rows:
    return scaled_kernels.modulate(x, vectors, whose, first, room_for(x), _SCALER)


def add_and_modulate(
    x: torch.Tensor, update: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, gate: int, first: int
) -> tuple[torch.Tensor, Rows]:
    return scaled_kernels.add_and_modulate(x, update, vectors, whose, gate, first, room_for(x), _SCALER)


def activate(x: torch.Tensor) -> Rows:
    return scaled_kernels.activate(x, room_for(x), _SCALER)


def quantise(x: torch.Tensor) -> Rows:
    return scaled_kernels.quantise(x, room_for(x), _SCALER)


def quantise_into(x: torch.Tensor, rows: Rows, which: torch.Tensor) -> None:
    scaled_kernels.quantise_into(x, rows, which, _SCALER)
