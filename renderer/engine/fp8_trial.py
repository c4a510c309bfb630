"""FP8 products, tried before a model is computed with them: of its own matrices' shapes, by few rows and by many.

That a GPU is new enough does not say that its driver, cuBLAS and torch have this product: support for a scale a row and
a column came release by release. A trial takes some milliseconds and 0.4 GiB, which go before the slots come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from renderer.engine import failures

TRIED_ROWS = (1, 128, 6889)
"""Of a rider that is one row, of the fewest that cuBLAS takes, and of a picture of 1328x1328, which no tile divides."""

LARGEST_ERROR = 0.05
"""Of a row, relative: e4m3 with a scale a row has 0.026 by its rounding alone, and bf16 and short sums add little."""

_LOOKED_AT = 256
"""Rows of a product that are held against a float32 one, from its first to its last."""


def complaint(operations: Any, shapes: Iterable[tuple[int, int]], device: str, rows: Sequence[int] = TRIED_ROWS) -> str:
    """What is wrong with FP8 products here, in one line; empty where nothing is.

    `operations` is one of the fp8 modules, `shapes` are [columns, width] of the weights. Raises what is out of memory.
    """
    dice = torch.Generator(device).manual_seed(0)
    for columns, width in sorted(shapes):
        weight, scale, bias = _layer(columns, width, device, dice)
        for count in rows:
            try:
                error = _error(operations, _rows(count, width, device, dice), weight, scale, bias)
            except Exception as failure:
                if failures.is_out_of_memory(failure):
                    raise
                words = (str(failure).strip() or type(failure).__name__).partition("\n")[0]
                return f"{count} rows by {columns} x {width}: {words}"
            if not error <= LARGEST_ERROR:  # NaN neither
                return f"{count} rows by {columns} x {width} came out wrong: {error:.3f} of their size"
    return ""


def _error(operations: Any, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> float:
    """The largest relative error of a row."""
    product = operations.multiply(operations.quantise(x), weight, scale, bias)
    if product.shape != (x.shape[0], weight.shape[0]):
        raise ValueError(f"the product has the shape {tuple(product.shape)}")
    some = torch.linspace(0, x.shape[0] - 1, min(_LOOKED_AT, x.shape[0])).long().to(x.device)
    exact = (x[some].float() @ weight.float().t()).mul_(scale).add_(bias)
    apart = product[some].float() - exact
    return float((apart.norm(dim=1) / exact.norm(dim=1)).max())


def _layer(columns: int, width: int, device: str, dice: torch.Generator) -> tuple[torch.Tensor, ...]:
    """An FP8 weight, scales from one half to twice their mean, and a bias as large as what it is added to."""
    weight = torch.randn((columns, width), device=device, generator=dice, dtype=torch.bfloat16)
    scale = torch.rand(columns, device=device, generator=dice) * 1.5 + 0.5
    bias = torch.randn(columns, device=device, generator=dice) * width**0.5
    return weight.to(torch.float8_e4m3fn), scale, bias.to(torch.bfloat16)


def _rows(count: int, width: int, device: str, dice: torch.Generator) -> torch.Tensor:
    """Rows each of a size of its own."""
    sizes = torch.rand((count, 1), device=device, generator=dice, dtype=torch.bfloat16) + 0.5
    return torch.randn((count, width), device=device, generator=dice, dtype=torch.bfloat16) * sizes
