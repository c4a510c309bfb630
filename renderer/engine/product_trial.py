"""Scaled products, tried before a model is computed with them: of its own matrices' shapes, by few rows and by many.

That a GPU is new enough does not say that its driver, libraries and torch have this product: support for a scale a row
and a column came release by release. A trial takes some hundredths of a second and 0.7 GiB, which go before the slots
come. So does that of whether a row's bits are its own among any others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from renderer.engine import failures
from renderer.engine.blocks import FastBlocks
from renderer.engine.scaled_reference import Rows
from renderer.engine.side_by_side import ALIGNED
from renderer.estimate.companies import MOST_ROWS_OF_TWO

LOG = logging.getLogger(__name__)

TRIED_ROWS = (1, 128, 6889)
"""Of a rider that is one row, of the fewest that cuBLAS takes, and of a picture of 1328x1328, which no tile divides."""

FEWER_ROWS = (128, 144, 256, 432, 576, 1024, 1072, 2304, 4096, 6896, 9216, 13792)
"""Of texts alone and together, and of images: what is held against the same rows among all that may go together."""

ATTENDED = (48, 288, 1061, 2340, 6958, 9216)
"""Tokens of a rider, from 64x64 pixels on: its attention is held against that among all alike that may go together."""

MOST_SCALED = 4096
"""Rows among which the scaling of some is held against that of these alone."""

_LOOKED_AT = 256
"""Rows of a product that are held against a float32 one, from its first to its last."""


def complaint(operations: Any, shapes: Iterable[tuple[int, int]], device: str, rows: Sequence[int] = TRIED_ROWS) -> str:
    """What is wrong with such products here, in one line; empty where nothing is.

    `operations` make them, `shapes` are [columns, width] of the weights. Raises what is out of memory.
    """
    dice = torch.Generator(device).manual_seed(0)
    for columns, width in sorted(shapes):
        weight, scale, bias = _layer(operations, columns, width, device, dice)
        for count in rows:
            try:
                error = _error(operations, _rows(count, width, device, dice), weight, scale, bias)
            except Exception as failure:
                if failures.is_out_of_memory(failure):
                    raise
                words = (str(failure).strip() or type(failure).__name__).partition("\n")[0]
                return f"{count} rows by {columns} x {width}: {words}"
            if not error <= operations.LARGEST_ERROR:  # NaN neither
                return f"{count} rows by {columns} x {width} came out wrong: {error:.3f} of their size"
    return ""


def shares(operations: Any, blocks: FastBlocks, device: str, most_rows: int = MOST_ROWS_OF_TWO) -> bool:
    """Whether a row as it is scaled, its product, and a rider's attention have the same bits among any others as alone.

    Nobody promises that: a library may take another kernel for more rows, with sums in another order. It is tried by
    as many rows as may go together: two large riders have the most. Raises what is out of memory.
    """
    dice = torch.Generator(device).manual_seed(0)
    for width in sorted({width for _, width in blocks.products}):
        some = _rows(min(MOST_SCALED, most_rows), width, device, dice)
        for count in (each for each in FEWER_ROWS if each < len(some)):
            if not _are_alike(operations.quantise(some[-count:]), operations.quantise(some), count):
                LOG.warning("%d rows of %d are scaled otherwise among %d", count, width, len(some))
                return False
    for columns, width in sorted(blocks.products):
        weight, scale, bias = _layer(operations, columns, width, device, dice)
        rows = operations.quantise(_rows(most_rows, width, device, dice))
        together = operations.multiply(rows, weight, scale, bias)
        for count in (each for each in FEWER_ROWS if each < most_rows):
            first = (most_rows - count) // ALIGNED * ALIGNED
            alone = operations.multiply(rows.part(first, first + count), weight, scale, bias)
            if not torch.equal(alone, together[first : first + count]):
                LOG.warning("%d rows by %d x %d have other bits among %d", count, columns, width, most_rows)
                return False
    heads, head = blocks.shape
    for length in (each for each in ATTENDED if each < most_rows):
        riders = max(2, most_rows // 2 // length)
        query, key, value = (
            _rows(riders * length * heads, head, device, dice).view(riders, length, heads, head).transpose(1, 2)
            for _ in range(3)
        )
        together = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        alone = torch.nn.functional.scaled_dot_product_attention(query[-1:], key[-1:], value[-1:])
        if not torch.equal(alone, together[-1:]):
            LOG.warning("attention of %d tokens has other bits among %d riders", length, riders)
            return False
    return True


def _are_alike(alone: Rows, together: Rows, count: int) -> bool:
    """Whether the first `count` of these are the last that mean something of those."""
    first = together.count - count
    values, scale = together.values[first : together.count], together.scale[first : together.count]
    same = torch.equal(alone.values[:count].view(torch.uint8), values.view(torch.uint8))
    return same and torch.equal(alone.scale[:count], scale)


def _error(operations: Any, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> float:
    """The largest relative error of a row."""
    product = operations.multiply(operations.quantise(x), weight, scale, bias)
    if product.shape != (x.shape[0], weight.shape[0]):
        raise ValueError(f"the product has the shape {tuple(product.shape)}")
    some = torch.linspace(0, x.shape[0] - 1, min(_LOOKED_AT, x.shape[0])).long().to(x.device)
    exact = (x[some].float() @ operations.widened(weight).t()).mul_(scale).add_(bias)
    apart = product[some].float() - exact
    return float((apart.norm(dim=1) / exact.norm(dim=1)).max())


def _layer(operations: Any, columns: int, width: int, device: str, dice: torch.Generator) -> tuple[torch.Tensor, ...]:
    """A scaled weight, scales from one half to twice their mean, and a bias as large as what it is added to."""
    random = torch.randn((columns, width), device=device, generator=dice, dtype=torch.bfloat16)
    weight = operations.as_stored(random)
    scale = (torch.rand(columns, device=device, generator=dice) * 1.5 + 0.5) / weight[:1].float().std()
    bias = torch.randn(columns, device=device, generator=dice) * width**0.5
    return weight, scale, bias.to(torch.bfloat16)


def _rows(count: int, width: int, device: str, dice: torch.Generator) -> torch.Tensor:
    """Rows each of a size of its own."""
    sizes = torch.rand((count, 1), device=device, generator=dice, dtype=torch.bfloat16) + 0.5
    return torch.randn((count, width), device=device, generator=dice, dtype=torch.bfloat16).mul_(sizes)
