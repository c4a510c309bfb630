"""The pieces of an FP8 block in plain torch: what they mean, and what they are where there is no compiler.

An activation in FP8 is e4m3 with one float32 scale a row: its largest magnitude becomes 448. What lies between two
products is that of `scaled_reference`.
"""

from __future__ import annotations

import importlib
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
from renderer.weights.codecs.fp8 import LARGEST

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

ARITHMETIC: BlockArithmetic = "fp8"

LARGEST_ERROR = 0.05
"""Of a product's row, relative: e4m3 with a scale a row has 0.026 by its rounding; bf16 and short sums add little."""

FAST_ACCUMULATION = True
"""Whether the card adds up its products as fast as it can, with fewer bits than float32 has for a part of the way.

It is a part of every FP8 picture's bits: who changes it has pictures of another `RENDERING_VERSION`. What it costs and
gains is measured by `python -m renderer.benchmarks.sums`.
"""


def compiled() -> ModuleType:
    """The same as kernels, for a GPU. Raises whatever goes wrong where there is no Triton."""
    return importlib.import_module("renderer.engine.fp8_kernels")


def quantise(x: torch.Tensor) -> Rows:
    """Rows of bf16 or float32 as FP8."""
    rows = room_for(x)
    quantise_into(x, rows, torch.arange(rows.count, device=x.device))
    return rows


def quantise_into(x: torch.Tensor, rows: Rows, which: torch.Tensor) -> None:
    """Rows of bf16 or float32 as FP8, each as that of `rows` which it is told."""
    full = x.float()
    scale = full.abs().amax(-1).clamp(min=SMALLEST_ROW_PEAK) / LARGEST
    values = (full / scale[:, None]).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    rows.values.view(torch.uint8)[which] = values.view(torch.uint8)  # torch puts no FP8 numbers by their index
    rows.scale[which] = scale


def room_for(x: torch.Tensor) -> Rows:
    """Room for the FP8 form of an activation, not filled."""
    return scaled_reference.room(x, torch.float8_e4m3fn)


def modulate(x: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, first: int) -> Rows:
    """LayerNorm and modulation (`scaled_reference.modulated`), as FP8."""
    return quantise(scaled_reference.modulated(x, vectors, whose, first))


def add_and_modulate(
    x: torch.Tensor, update: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, gate: int, first: int
) -> tuple[torch.Tensor, Rows]:
    """The residual sum in bf16, and its modulated rows as FP8."""
    total = add(x, update, vectors, whose, gate)
    return total, modulate(total, vectors, whose, first)


def activate(x: torch.Tensor) -> Rows:
    """GELU, as FP8."""
    return quantise(scaled_reference.activated(x))


def as_inputs(rows: torch.Tensor) -> torch.Tensor:
    """Rows of a LoRA's A, so that scaled rows can go through it: as they are."""
    return rows


def as_stored(weight: torch.Tensor) -> torch.Tensor:
    """Random numbers as a weight of a store, whose scales are beside it."""
    return weight.to(torch.float8_e4m3fn)


def widened(weight: torch.Tensor) -> torch.Tensor:
    """What a weight stands for without its scales, in float32."""
    return weight.float()


def multiply(
    x: Rows,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor | None = None,
    *,
    fast: bool = FAST_ACCUMULATION,
) -> torch.Tensor:
    """Rows of FP8 by an FP8 weight of [columns, width] with one scale a column; bf16 rows x columns, `out` if given.

    What a row comes to does not depend on how many there are. On a GPU that is tried before it is relied on
    (`product_trial`); `fast` is of its sums. A CPU's are exact: a product of two e4m3 numbers is a multiple of 2^-18
    below 2^18, and float64 holds each sum of up to 2^17 of them as it is.
    """
    if x.values.is_cuda:
        product = torch._scaled_mm(  # noqa: SLF001  # torch's own name for it
            x.values,
            weight.t(),
            scale_a=x.scale[:, None],
            scale_b=scale[None, :],
            bias=bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=fast,
            out=out,
        )
        return product[: x.count]
    product = (x.values.double() @ weight.double().t()).float()
    found = (product * x.scale[:, None] * scale[None, :] + bias.float()).to(torch.bfloat16)
    return found if out is None else out.copy_(found)
