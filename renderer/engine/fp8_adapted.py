"""What LoRAs add to an FP8 product, in bf16: the product itself stays what it is without them.

A layer's rows are there in FP8 alone, e4m3 with a scale each. bf16 holds each e4m3 number as it is, so they go through
A unscaled, and what comes out, a rank wide, is scaled. Layers that are one product go through one A. Knows nothing of
blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from renderer.engine.adapted import AddedTo
from renderer.engine.fp8_reference import Rows
from renderer.engine.side_by_side import side_by_side

PIECE_BYTES = 2**25
"""Rows are widened a piece at a time: less memory than a block has free there, and a GPU's cache holds it."""


def add_to(out: torch.Tensor, rows: Rows, stems: Sequence[str], adapted: AddedTo) -> None:
    """Add to `out`, rows x columns, which is the product of `rows` by the layers `stems`, as wide each as another."""
    width = out.shape[1] // len(stems)
    downs, ups = [], []
    for number, stem in enumerate(stems):
        for down, up in adapted.get(stem, ()):
            downs.append(down)
            ups.append((slice(number * width, (number + 1) * width), up))
    if not downs:
        return
    joined = side_by_side(downs)
    piece = max(1, PIECE_BYTES // (2 * rows.values.shape[1]))
    for first in range(0, rows.count, piece):
        part = slice(first, min(first + piece, rows.count))
        inner = rows.values[part].to(out.dtype) @ joined.T
        inner = (inner * rows.scale[part, None]).to(out.dtype)
        at = 0
        for columns, up in ups:
            out[part, columns].addmm_(inner[:, at : at + up.shape[1]], up.T)
            at += up.shape[1]
