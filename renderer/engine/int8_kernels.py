"""The pieces of an int8 block as Triton kernels: `scaled_kernels` with rows turned and scaled, and the product.

They mean what `int8_reference` says. A turn is products with a matrix of ones, which tensor cores have for nothing.
Sums of products are whole numbers, and exact: whatever tiles a card is given, the bits are the same, as long as no
multiplication is fused with an addition where they are scaled. So tiles are chosen by the card alone.
"""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from renderer.engine import scaled_kernels
from renderer.engine.int8_reference import (
    ARITHMETIC,
    LARGEST_ERROR,
    Rows,
    as_inputs,
    as_stored,
    room_for,
    widened,
)
from renderer.engine.scaled_kernels import RowScaler, add, larger, narrow, place, rows_are_alike, widen
from renderer.weights.codecs.int8 import group

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

# ---- rows ------------------------------------------------------------------------------------------------------------


@triton.jit
def _turn(STEP: tl.constexpr):
    # Ones, and minus ones where digits in base four of row and column that come to three are odd in number.
    digits = tl.arange(0, STEP)[:, None] ^ tl.arange(0, STEP)[None, :]
    threes = digits & (digits >> 1)
    odd = (threes ^ (threes >> 2) ^ (threes >> 4)) & 1
    return (1.0 - 2.0 * odd.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def _turned(values, BLOCK: tl.constexpr, STEP: tl.constexpr):
    return tl.dot(tl.reshape(values, (BLOCK // STEP, STEP)).to(tl.bfloat16), _turn(STEP))


@triton.jit
def _across(values, BLOCK: tl.constexpr):
    # The other digit of sixteen comes to stand last; the next time, each is where it was.
    return tl.reshape(tl.trans(tl.reshape(values, (BLOCK // 256, 16, 16)), 0, 2, 1), (BLOCK,))


@triton.jit
def _store(values, mask, columns, row, q_pointer, s_pointer, WIDTH: tl.constexpr):
    peak = larger(tl.reduce(tl.abs(values), 0, larger), 1e-12)
    steps = tl.floor(values * tl.div_rn(127.0, peak) + 0.5)
    tl.store(q_pointer + row * WIDTH + columns, tl.clamp(steps, -127.0, 127.0).to(tl.int8), mask)
    tl.store(s_pointer + row, tl.div_rn(peak, 127.0))


@triton.jit
def _store_turned_256(values, mask, columns, row, q_pointer, s_pointer, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    values = _across(_turned(tl.where(mask, values, 0.0), BLOCK, 16), BLOCK)
    values = _across(_turned(values, BLOCK, 16), BLOCK)
    _store(values * (1.0 / 16), mask, columns, row, q_pointer, s_pointer, WIDTH)


@triton.jit
def _store_turned_64(values, mask, columns, row, q_pointer, s_pointer, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    values = tl.reshape(_turned(tl.where(mask, values, 0.0), BLOCK, 64), (BLOCK,))
    _store(values * (1.0 / 8), mask, columns, row, q_pointer, s_pointer, WIDTH)


@triton.jit
def _store_turned_16(values, mask, columns, row, q_pointer, s_pointer, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    values = tl.reshape(_turned(tl.where(mask, values, 0.0), BLOCK, 16), (BLOCK,))
    _store(values * (1.0 / 4), mask, columns, row, q_pointer, s_pointer, WIDTH)


@triton.jit
def _store_unturned(values, mask, columns, row, q_pointer, s_pointer, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    _store(tl.where(mask, values, 0.0), mask, columns, row, q_pointer, s_pointer, WIDTH)


_UNFUSED = MappingProxyType({"enable_fp_fusion": False})

_SCALERS = {
    size: RowScaler(function, _UNFUSED, a_warp=2048)  # a turn goes through few warps faster: measured on an H100
    for size, function in (
        (256, _store_turned_256),
        (64, _store_turned_64),
        (16, _store_turned_16),
        (0, _store_unturned),
    )
}


def modulate(x: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, first: int) -> Rows:
    return scaled_kernels.modulate(x, vectors, whose, first, room_for(x), _of(x))


def add_and_modulate(
    x: torch.Tensor, update: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, gate: int, first: int
) -> tuple[torch.Tensor, Rows]:
    return scaled_kernels.add_and_modulate(x, update, vectors, whose, gate, first, room_for(x), _of(x))


def activate(x: torch.Tensor) -> Rows:
    return scaled_kernels.activate(x, room_for(x), _of(x))


def quantise(x: torch.Tensor) -> Rows:
    return scaled_kernels.quantise(x, room_for(x), _of(x))


def quantise_into(x: torch.Tensor, rows: Rows, which: torch.Tensor) -> None:
    scaled_kernels.quantise_into(x, rows, which, _of(x))


def _of(x: torch.Tensor) -> RowScaler:
    return _SCALERS[group(x.shape[1])]


# ---- the product -----------------------------------------------------------------------------------------------------


class Tiles(NamedTuple):
    """What one program computes, rows x columns; how much of the width at a time; how many such wait, and its warps."""

    rows: int
    columns: int
    depth: int
    stages: int
    warps: int


_TILES = (((9, 0), Tiles(128, 256, 128, 4, 8)), ((8, 0), Tiles(128, 128, 64, 4, 8)), ((0, 0), Tiles(64, 64, 64, 2, 4)))
"""By the least compute capability: of a card with much memory beside its units, with less, with little."""

_NEIGHBOURS = 8
"""Rows of tiles that go down a column of them together, so that what they read is still at hand."""


@triton.jit(do_not_specialize=["rows"])
def _multiply(
    x,
    weight,
    out,
    row_scales,
    column_scales,
    bias,
    rows,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
):
    across: tl.constexpr = (COLUMNS + TILE_COLUMNS - 1) // TILE_COLUMNS
    band: tl.constexpr = NEIGHBOURS * across
    number = tl.program_id(0)
    first = number // band * NEIGHBOURS
    high = tl.minimum(tl.cdiv(rows, TILE_ROWS) - first, NEIGHBOURS)
    row = (first + (number % band) % high) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    column = (number % band) // high * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    depth = tl.arange(0, DEPTH)
    ours = x + (row % rows)[:, None].to(tl.int64) * WIDTH + depth[None, :]
    theirs = weight + (column % COLUMNS)[None, :].to(tl.int64) * WIDTH + depth[:, None]
    total = tl.zeros((TILE_ROWS, TILE_COLUMNS), tl.int32)
    for start in range(0, WIDTH, DEPTH):
        if WIDTH % DEPTH == 0:
            one, other = tl.load(ours), tl.load(theirs)
        else:
            there = depth < WIDTH - start
            one, other = tl.load(ours, there[None, :], 0), tl.load(theirs, there[:, None], 0)
        total = tl.dot(one, other, total, out_dtype=tl.int32)
        ours += DEPTH
        theirs += DEPTH
    mine, its = row < rows, column < COLUMNS
    scaled = total.to(tl.float32) * tl.load(row_scales + row, mine, 0.0)[:, None]
    scaled = scaled * tl.load(column_scales + column, its, 0.0)[None, :]
    found = scaled + tl.load(bias + column, its, 0.0).to(tl.float32)[None, :]
    places = row[:, None].to(tl.int64) * COLUMNS + column[None, :]
    tl.store(out + places, found.to(out.dtype.element_ty), mine[:, None] & its[None, :])


def multiply(
    x: Rows, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    columns, width = weight.shape
    if out is None:
        out = torch.empty((x.count, columns), dtype=torch.bfloat16, device=weight.device)
    tiles = _tiles(weight.device)
    count = triton.cdiv(x.count, tiles.rows) * triton.cdiv(columns, tiles.columns)
    options: dict[str, Any] = {"num_stages": tiles.stages, "num_warps": tiles.warps, **_UNFUSED}
    _multiply[(count,)](
        x.values,
        weight,
        out,
        x.scale,
        scale,
        bias,
        x.count,
        COLUMNS=columns,
        WIDTH=width,
        TILE_ROWS=tiles.rows,
        TILE_COLUMNS=tiles.columns,
        DEPTH=tiles.depth,
        NEIGHBOURS=_NEIGHBOURS,
        **options,
    )
    return out[: x.count]


@cache
def _tiles(device: torch.device) -> Tiles:
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    return next(tiles for least, tiles in _TILES if capability >= least)
