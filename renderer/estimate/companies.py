"""Who goes through a block with whom, as one product over all their rows: asked by the engine and by the forecasts.

Those of one size come behind one another, so that their attention is one too. Knows nothing of tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_ROWS_TOGETHER = 9216
"""Tokens of image and text that go through a block as one: of eight riders of 512x512. More make it no faster."""

MOST_ROWS_OF_TWO = 2 * MOST_ROWS_TOGETHER
"""Two riders, each of at most as many: guidance's passes of 1328x1328 take 2 % less so."""

MOST_RECORDED_ROWS = 3072
"""Tokens of image and text up to which a rider's launches are recorded (`engine.recorded`): more keep the GPU busy."""

MOST_RECORDED_TOGETHER = 4864
"""The same of riders that go together, of whom each is more work for the host."""


def companies(sizes: Sequence[tuple[int, int] | None], most_rows: int) -> list[list[int]]:
    """By their numbers, who goes with whom: of each its tokens of image and text; None, or too large: alone.

    Those that go together are two, or have `most_rows` at the most.
    """
    found, rows = list[list[int]](), 0
    small = [number for number, size in enumerate(sizes) if size is not None and sum(size) <= most_rows]
    for number in sorted(small, key=lambda each: sizes[each] or ()):
        own = sum(sizes[number] or ())
        if not found or (len(found[-1]) > 1 and rows + own > most_rows):
            found.append([])
            rows = 0
        found[-1].append(number)
        rows += own
    return [[number] for number in range(len(sizes)) if number not in small] + found


def is_small(company: Sequence[tuple[int, int]]) -> bool:
    """Whether those that go together have so few rows that launching them takes longer than computing them."""
    most = MOST_RECORDED_TOGETHER if len(company) > 1 else MOST_RECORDED_ROWS
    return sum(map(sum, company)) <= most
