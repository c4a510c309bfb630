"""Matrices of four bits a value unpacked to int8, as a Triton kernel: what `weights/codecs/rows/int4.py` says.

One program has some groups of a row's first half, and of its second, which are in the same bytes. Whole numbers: the
bits are those of plain torch, in any number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from renderer.weights.codecs import WEIGHT
from renderer.weights.codecs.int4 import LOW, STEP, group

_BYTES = 2048
"""That one program reads: as many threads as four warps have, sixteen bytes each."""


@triton.jit
def _unpack(weight, step, low, values, count, GROUPS: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    # GROUPS are those of half a row; all halves lie behind one another in `weight` and `step`.
    group = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = group < count
    row = group // GROUPS
    columns = tl.arange(0, SIZE)
    packed = tl.load(weight + group[:, None] * SIZE + columns[None, :], there[:, None], 0).to(tl.int32)
    steps = tl.load(step + group, there, 0).to(tl.int32)
    for half in tl.static_range(2):
        place = group + (row + half) * GROUPS
        least = tl.load(low + place, there, 0).to(tl.int32)
        own = ((steps >> (4 * half)) & 15) + 1
        whole = ((packed >> (4 * half)) & 15) * own[:, None] + least[:, None]
        whole = tl.minimum(tl.maximum(whole, -128), 127)
        tl.store(values + place[:, None] * SIZE + columns[None, :], whole.to(tl.int8), there[:, None])


def unpack_into(values: torch.Tensor, parts: Mapping[str, torch.Tensor]) -> None:
    """As `rows.int4.unpack_into`."""
    rows, half = parts[WEIGHT].shape
    size = group(2 * half)
    groups = half // size
    block = _BYTES // size
    count = rows * groups
    _unpack[(triton.cdiv(count, block),)](
        parts[WEIGHT], parts[STEP], parts[LOW], values, count, GROUPS=groups, SIZE=size, BLOCK=block, num_warps=4
    )
