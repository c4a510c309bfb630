"""What lies between products of a block as Triton kernels: each reads its rows once, and writes what the next takes.

They mean what `scaled_reference` says, also where a number is none: a row with NaN in it is NaN, and is found in the
picture. One program a row, which is told whose row it is: what it computes is the same among any others. Widths are
compiled in, the number of rows is not, so that a picture of another size compiles nothing. Launch shapes are fixed, not
tuned at run time: the same sums in the same order in every process. How a row is scaled is handed in: `RowScaler`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl

from renderer.engine.scaled_reference import Rows

TILE, WIDE, RANKS = 64, 128, 64
"""Rows, columns and ranks that one program has of what LoRAs add; a row's sums are the same in any tile."""


@triton.jit
def larger(one, other):
    return tl.maximum(one, other, propagate_nan=tl.PropagateNan.ALL)  # Triton's own maximum takes the number


@triton.jit
def _modulated(values, mask, columns, parts, FIRST: tl.constexpr, WIDTH: tl.constexpr):
    mean = tl.sum(tl.where(mask, values, 0.0), 0) / WIDTH
    centred = tl.where(mask, values - mean, 0.0)
    variance = tl.sum(centred * centred, 0) / WIDTH
    normed = centred * tl.rsqrt(variance + 1e-6)
    shift = tl.load(parts + FIRST * WIDTH + columns, mask, 0.0).to(tl.float32)
    scale = tl.load(parts + (FIRST + 1) * WIDTH + columns, mask, 0.0).to(tl.float32)
    return normed * (1.0 + scale) + shift


@triton.jit
def _own(vectors, whose, row, WIDTH: tl.constexpr):
    return vectors + tl.load(whose + row).to(tl.int64) * (6 * WIDTH)


@triton.jit
def _modulate(
    x, vectors, whose, q, s, FIRST: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, STORE: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < WIDTH
    parts = _own(vectors, whose, row, WIDTH)
    values = tl.load(x + row * WIDTH + columns, mask, 0.0).to(tl.float32)
    STORE(_modulated(values, mask, columns, parts, FIRST, WIDTH), mask, columns, row, q, s, WIDTH, BLOCK)


@triton.jit
def _add_and_modulate(
    x,
    update,
    vectors,
    whose,
    total,
    q,
    s,
    GATE: tl.constexpr,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    STORE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < WIDTH
    parts = _own(vectors, whose, row, WIDTH)
    values = tl.load(x + row * WIDTH + columns, mask, 0.0).to(tl.float32)
    more = tl.load(update + row * WIDTH + columns, mask, 0.0).to(tl.float32)
    values += tl.load(parts + GATE * WIDTH + columns, mask, 0.0).to(tl.float32) * more
    rounded = values.to(tl.bfloat16)
    tl.store(total + row * WIDTH + columns, rounded, mask)
    values = rounded.to(tl.float32)
    STORE(_modulated(values, mask, columns, parts, FIRST, WIDTH), mask, columns, row, q, s, WIDTH, BLOCK)


@triton.jit
def _add(x, update, vectors, whose, total, GATE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < WIDTH
    parts = _own(vectors, whose, row, WIDTH)
    values = tl.load(x + row * WIDTH + columns, mask, 0.0).to(tl.float32)
    more = tl.load(update + row * WIDTH + columns, mask, 0.0).to(tl.float32)
    values += tl.load(parts + GATE * WIDTH + columns, mask, 0.0).to(tl.float32) * more
    tl.store(total + row * WIDTH + columns, values.to(tl.bfloat16), mask)


@triton.jit
def _activate(x, q, s, WIDTH: tl.constexpr, BLOCK: tl.constexpr, STORE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < WIDTH
    values = tl.load(x + row * WIDTH + columns, mask, 0.0).to(tl.float32)
    STORE(values * tl.sigmoid(1.702 * values), mask, columns, row, q, s, WIDTH, BLOCK)


@triton.jit
def _quantise(x, which, q, s, WIDTH: tl.constexpr, BLOCK: tl.constexpr, STORE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < WIDTH
    values = tl.load(x + row * WIDTH + columns, mask, 0.0).to(tl.float32)
    STORE(values, mask, columns, tl.load(which + row).to(tl.int64), q, s, WIDTH, BLOCK)


@triton.jit
def _norm_and_turn(source, weight, turns, target, mask, HEADS: tl.constexpr, HEAD: tl.constexpr):
    # HEADS is rounded up to a power of two; `mask` is over the heads there are.
    half: tl.constexpr = HEAD // 2
    heads = tl.arange(0, HEADS)
    width = tl.arange(0, HEAD)
    pairs = tl.arange(0, half)
    places = heads[:, None] * HEAD + width[None, :]
    values = tl.load(source + places, mask[:, None], 0.0).to(tl.float32)
    mean = tl.sum(values * values, 1) / HEAD
    values = values * tl.rsqrt(mean + 1e-6)[:, None] * tl.load(weight + width).to(tl.float32)[None, :]
    even, odd = tl.split(tl.reshape(values, (HEADS, half, 2)))
    cosine = tl.load(turns + 2 * pairs)[None, :]
    sine = tl.load(turns + 2 * pairs + 1)[None, :]
    turned = tl.join(even * cosine - odd * sine, even * sine + odd * cosine)
    tl.store(target + places, tl.reshape(turned, (HEADS, HEAD)).to(tl.bfloat16), mask[:, None])


@triton.jit
def _place(
    qkv, weight_q, weight_k, turns, q, k, v, places, HEADS: tl.constexpr, HEAD: tl.constexpr, ROUND: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    heads = tl.arange(0, ROUND)
    mask = heads < HEADS
    width: tl.constexpr = HEADS * HEAD
    source = qkv + row * 3 * width
    target = tl.load(places + row).to(tl.int64) * width
    turn = turns + row * HEAD
    _norm_and_turn(source, weight_q, turn, q + target, mask, ROUND, HEAD)
    _norm_and_turn(source + width, weight_k, turn, k + target, mask, ROUND, HEAD)
    places = heads[:, None] * HEAD + tl.arange(0, HEAD)[None, :]
    tl.store(v + target + places, tl.load(source + 2 * width + places, mask[:, None], 0.0), mask[:, None])


@triton.jit(do_not_specialize=["first_0", "first_1", "count_0", "count_1", "rank_0", "rank_1", "tiles_0"])
def _narrow(
    values,
    scale,
    downs_0,
    downs_1,
    inner_0,
    inner_1,
    first_0,
    first_1,
    count_0,
    count_1,
    rank_0,
    rank_1,
    tiles_0,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    RANKS: tl.constexpr,
    STEP: tl.constexpr,
):
    # Tiles of the first span, then of the second, each by its own matrix: few texts and many images are one launch.
    tile = tl.program_id(0)
    second = tile >= tiles_0
    downs, inner = downs_0, inner_0
    first, count, rank = first_0, count_0, rank_0
    if second:
        tile -= tiles_0
        downs, inner = downs_1, inner_1
        first, count, rank = first_1, count_1, rank_1
    ranks = tl.program_id(1) * RANKS + tl.arange(0, RANKS)
    if tl.program_id(1) * RANKS < rank:
        rows = (tile * TILE + tl.arange(0, TILE)).to(tl.int64)
        there, wanted = rows < count, ranks < rank
        total = tl.zeros((TILE, RANKS), dtype=tl.float32)
        for start in range(0, WIDTH, STEP):
            columns = start + tl.arange(0, STEP)
            inside = columns < WIDTH
            x = tl.load(
                values + (first + rows)[:, None] * WIDTH + columns[None, :], there[:, None] & inside[None, :], 0.0
            )
            a = tl.load(downs + ranks[None, :] * WIDTH + columns[:, None], wanted[None, :] & inside[:, None], 0.0)
            total = tl.dot(x.to(downs.dtype.element_ty), a, total)
        total *= tl.load(scale + first + rows, there, 0.0)[:, None]
        tl.store(
            inner + rows[:, None] * rank + ranks[None, :],
            total.to(inner.dtype.element_ty),
            there[:, None] & wanted[None, :],
        )


@triton.jit(do_not_specialize=["count"])
def _widen(
    out,
    inner,
    up,
    count,
    columns,
    rank,
    out_stride,
    inner_stride,
    TILE: tl.constexpr,
    WIDE: tl.constexpr,
    RANKS: tl.constexpr,
):
    rows = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)
    wide = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    there, inside = rows < count, wide < columns
    total = tl.zeros((TILE, WIDE), dtype=tl.float32)
    for start in range(0, rank, RANKS):
        ranks = start + tl.arange(0, RANKS)
        wanted = ranks < rank
        x = tl.load(inner + rows[:, None] * inner_stride + ranks[None, :], there[:, None] & wanted[None, :], 0.0)
        b = tl.load(up + wide[None, :] * rank + ranks[:, None], inside[None, :] & wanted[:, None], 0.0)
        total = tl.dot(x, b, total)
    places = out + rows[:, None] * out_stride + wide[None, :]
    mask = there[:, None] & inside[None, :]
    tl.store(places, (tl.load(places, mask, 0.0).to(tl.float32) + total).to(out.dtype.element_ty), mask)


@dataclass(frozen=True, slots=True)
class RowScaler:
    """How a row is scaled and written: a function of Triton's, and what its kernels are compiled with besides.

    It is given the row's values, which columns there are, which they are, the row's number, and where values and scales
    go. `a_warp` is how many numbers are a warp's.
    """

    function: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    a_warp: int = 1024

    def shape(self, x: torch.Tensor) -> dict[str, Any]:
        """What kernels for rows as wide are compiled with."""
        return {"STORE": self.function, **_shape(x, self.a_warp), **self.options}


def modulate(
    x: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, first: int, rows: Rows, scaler: RowScaler
) -> Rows:
    _modulate[(x.shape[0],)](x, vectors, whose, rows.values, rows.scale, FIRST=first, **scaler.shape(x))
    return rows


def add_and_modulate(
    x: torch.Tensor,
    update: torch.Tensor,
    vectors: torch.Tensor,
    whose: torch.Tensor,
    gate: int,
    first: int,
    rows: Rows,
    scaler: RowScaler,
) -> tuple[torch.Tensor, Rows]:
    total = torch.empty_like(x)
    _add_and_modulate[(x.shape[0],)](
        x, update, vectors, whose, total, rows.values, rows.scale, GATE=gate, FIRST=first, **scaler.shape(x)
    )
    return total, rows


def activate(x: torch.Tensor, rows: Rows, scaler: RowScaler) -> Rows:
    _activate[(x.shape[0],)](x, rows.values, rows.scale, **scaler.shape(x))
    return rows


def quantise(x: torch.Tensor, rows: Rows, scaler: RowScaler) -> Rows:
    quantise_into(x, rows, torch.arange(rows.count, dtype=torch.int32, device=x.device), scaler)
    return rows


def quantise_into(x: torch.Tensor, rows: Rows, which: torch.Tensor, scaler: RowScaler) -> None:
    _quantise[(x.shape[0],)](x, which, rows.values, rows.scale, **scaler.shape(x))


def add(x: torch.Tensor, update: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, gate: int) -> torch.Tensor:
    total = torch.empty_like(x)
    _add[(x.shape[0],)](x, update, vectors, whose, total, GATE=gate, **_shape(x))
    return total


def place(
    qkv: torch.Tensor,
    weight_q: torch.Tensor,
    weight_k: torch.Tensor,
    turns: torch.Tensor,
    joint: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    places: torch.Tensor,
) -> None:
    heads, head = joint[0].shape[1:]
    _place[(turns.shape[0],)](
        qkv,
        weight_q,
        weight_k,
        turns,
        *joint,
        places,
        HEADS=heads,
        HEAD=head,
        ROUND=triton.next_power_of_2(heads),
        num_warps=4,
    )


def rows_are_alike() -> bool:
    return True


def narrow(
    rows: Rows, spans: tuple[slice, slice], downs: tuple[torch.Tensor | None, torch.Tensor | None]
) -> list[torch.Tensor]:
    counts = [span.stop - span.start for span in spans]
    ranks = [0 if down is None else len(down) for down in downs]
    dtype = next((down.dtype for down in downs if down is not None), torch.bfloat16)
    found = [
        torch.empty((count, rank), dtype=dtype, device=rows.values.device)
        for count, rank in zip(counts, ranks, strict=True)
    ]
    if not any(ranks):
        return found
    tiles = [triton.cdiv(count, TILE) if rank else 0 for count, rank in zip(counts, ranks, strict=True)]
    _narrow[(sum(tiles), triton.cdiv(max(ranks), RANKS))](
        rows.values,
        rows.scale,
        *(found[0] if down is None else down for down in downs),
        *found,
        *(span.start for span in spans),
        *counts,
        *ranks,
        tiles[0],
        WIDTH=rows.values.shape[1],
        TILE=TILE,
        RANKS=RANKS,
        STEP=128,
        num_warps=4,
        num_stages=4 if max(ranks) <= RANKS else 3,  # measured on an H100
    )
    return found


def widen(out: torch.Tensor, inner: torch.Tensor, up: torch.Tensor) -> None:
    count, columns = out.shape
    _widen[(triton.cdiv(count, TILE), triton.cdiv(columns, WIDE))](
        out,
        inner,
        up,
        count,
        columns,
        up.shape[1],
        out.stride(0),
        inner.stride(0),
        TILE=TILE,
        WIDE=WIDE,
        RANKS=RANKS,
        num_warps=4,
    )


def _shape(x: torch.Tensor, a_warp: int = 1024) -> dict[str, Any]:
    """A row's width and how many threads share it."""
    block = triton.next_power_of_2(x.shape[1])
    return {"WIDTH": x.shape[1], "BLOCK": block, "num_warps": max(1, min(8, block // a_warp))}
