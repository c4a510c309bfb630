"""The pieces of an int8 block in plain torch: what they mean, and what they are on a CPU or without a compiler.

An activation in int8 is turned as the weights' columns are (`weights/codecs/int8.py`), and whole numbers with one
float32 scale a row: its largest magnitude becomes 127. A turn of 256 is two of 16, each of bf16 numbers summed up in
float32, as a GPU's units have it. Sums of products are exact, in whole numbers, so that what a row comes to depends on
no other row, on no tile and on no device: only scaling rounds. What lies between two products is `scaled_reference`'s.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

import torch

from renderer.engine import scaled_reference
from renderer.engine.scaled_reference import (
    FEWEST_ROWS,
    SMALLEST_ROW_PEAK,
    Rows,
    add,
    narrow,
    place,
    rows_are_alike,
    widen,
)
from renderer.job import BlockArithmetic
from renderer.weights.codecs.int8 import STEPS, group
from renderer.weights.codecs.rows.turns import matrix

__all__ = [
    "ARITHMETIC",
    "FEWEST_ROWS",
    "LARGEST_ERROR",
    "Rows",
    "activate",
    "add",
    "add_and_modulate",
    "as_inputs",
    "as_stored",
    "compiled",
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

ARITHMETIC: BlockArithmetic = "int8"

LARGEST_ERROR = 0.02
"""Of a product's row, relative: 127 steps have 0.009 by their rounding alone, and bf16 adds little."""

HALF_TURN = 16
"""What the largest turn is made of, twice: as wide as tensor cores' smallest product."""

EXACT_COLUMNS = 1024
"""A sum of so many products of two numbers of up to 128 is below 2^24: float32 holds each on its way."""


def compiled() -> ModuleType:
    """The same as kernels, for a GPU. Raises whatever goes wrong where there is no Triton."""
    return importlib.import_module("renderer.engine.int8_kernels")


def quantise(x: torch.Tensor) -> Rows:
    """Rows of bf16 or float32, turned, as int8."""
    rows = room_for(x)
    quantise_into(x, rows, torch.arange(rows.count, device=x.device))
    return rows


def quantise_into(x: torch.Tensor, rows: Rows, which: torch.Tensor) -> None:
    """Rows of bf16 or float32, turned, as int8, each as that of `rows` which it is told.

    A number that is none makes its row's scale so.
    """
    full = _turned(x)
    peak = full.abs().amax(-1).clamp(min=SMALLEST_ROW_PEAK)
    steps = (full * (STEPS / peak)[:, None] + 0.5).floor()
    rows.values[which] = steps.nan_to_num(0.0).clamp(-STEPS, STEPS).to(torch.int8)
    rows.scale[which] = peak / STEPS


def _turned(x: torch.Tensor) -> torch.Tensor:
    """Rows with their columns turned as a weight's are, in float32."""
    columns = x.shape[1]
    size = group(columns)
    if not size:
        return x.float()
    step = HALF_TURN if size == HALF_TURN**2 else size
    turn = matrix(step, x.device)
    found = x.to(torch.bfloat16).float().view(-1, step) @ turn
    if step != size:
        across = found.to(torch.bfloat16).float().view(-1, step, step)
        found = turn @ across
    return (found * size**-0.5).view(x.shape)


def room_for(x: torch.Tensor) -> Rows:
    """Room for the int8 form of an activation, not filled."""
    return scaled_reference.room(x, torch.int8)


def modulate(x: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, first: int) -> Rows:
    """LayerNorm and modulation (`scaled_reference.modulated`), as int8."""
    return quantise(scaled_reference.modulated(x, vectors, whose, first))


def add_and_modulate(
    x: torch.Tensor, update: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, gate: int, first: int
) -> tuple[torch.Tensor, Rows]:
    """The residual sum in its type, and its modulated rows as int8."""
    total = add(x, update, vectors, whose, gate)
    return total, modulate(total, vectors, whose, first)


def activate(x: torch.Tensor) -> Rows:
    """GELU, as int8."""
    return quantise(scaled_reference.activated(x))


def as_inputs(rows: torch.Tensor) -> torch.Tensor:
    """Rows of a LoRA's A, so that turned rows can go through it: turned likewise, in their type."""
    size = group(rows.shape[1])
    if not size:
        return rows
    return (rows.reshape(-1, size) @ (matrix(size, rows.device) * size**-0.5).to(rows.dtype)).view(rows.shape)


def as_stored(weight: torch.Tensor) -> torch.Tensor:
    """Random numbers as a weight of a store, whose scales are beside it."""
    return (weight.float() * (STEPS / 4)).round().clamp(-STEPS, STEPS).to(torch.int8)


def widened(weight: torch.Tensor) -> torch.Tensor:
    """What a weight stands for without its scales, in float32: turned back.

    A trial asks it of every width, so that each turn is there before launches are recorded, when none could be made.
    """
    size = group(weight.shape[1])
    if not size:
        return weight.float()
    return (weight.float().view(-1, size) @ matrix(size, weight.device)).view(weight.shape) * size**-0.5


def multiply(
    x: Rows, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Rows of int8 by an int8 weight of [columns, width] with one scale a column; rows x columns, bf16 or as `out` is.

    What a row comes to does not depend on how many there are.
    """
    total = _sums(x.values, weight)
    if out is None:
        out = torch.empty((len(x.values), len(weight)), dtype=torch.bfloat16, device=weight.device)
    found = total.float().mul_(x.scale[:, None]).mul_(scale[None, :]).add_(bias.float())
    return out.copy_(found)[: x.count]


def _sums(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The products' sums, exact: int32, or the same numbers in float32 where they are small enough."""
    if values.is_cuda or adds_exactly():
        return torch._int_mm(values, weight.t())  # noqa: SLF001  # torch's own name for it
    columns = values.shape[1]
    if columns <= EXACT_COLUMNS:
        return values.float() @ weight.float().t()
    found = torch.zeros((len(values), len(weight)), dtype=torch.int32)
    for first in range(0, columns, EXACT_COLUMNS):
        part = slice(first, first + EXACT_COLUMNS)
        found += (values[:, part].float() @ weight[:, part].float().t()).to(torch.int32)
    return found


@cache
def adds_exactly() -> bool:
    """Whether this CPU's int8 product is what it says, found by trying: torch asks oneDNN for it.

    Processors without VNNI add two products in 16 bits, and what does not fit there is cut off.
    """
    most = torch.full((32, 64), STEPS, dtype=torch.int8)
    least = -most
    try:
        found = [torch._int_mm(one, most.t()) for one in (most, least)]  # noqa: SLF001  # as above
    except RuntimeError:
        return False
    total = 64 * STEPS**2
    return bool((found[0] == total).all() and (found[1] == -total).all())
