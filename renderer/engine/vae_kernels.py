"""The VAE's arithmetic in Triton: convolutions with fixed tiles, channels last, and the norm that stands before them.

A convolution is a product over `side * side * channels` terms, summed in float32 and in one order, whatever rows of a
picture are asked for and however much memory is free: so rows computed in strips have the bits that they have in the
whole. cuDNN promises neither. Knows rows and weights; nothing of networks.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl

from renderer.engine.strips import Kernel, Strip

_LARGE_SHARED_BYTES = 160 * 2**10
"""Shared memory a block may take on data-centre cards from Ampere on; other cards have 64 to 100 KiB."""

_NORM_VALUES = 4096
"""Values that one program of the norm holds."""


@triton.jit(do_not_specialize=["top", "height", "width", "first", "rows", "columns"])
def _convolve(
    values, weight, bias, residual, result, top, height, width, first, rows, columns,
    C: tl.constexpr, CO: tl.constexpr, SIDE: tl.constexpr, UP: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr,
    ADDS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """`BM` pixels of the result by `BN` of its channels; the terms in the order of rows, columns, channels."""
    program = tl.program_id(0)
    across: tl.constexpr = (CO + BN - 1) // BN
    pixel = (program // across) * BM + tl.arange(0, BM)
    channel = (program % across) * BN + tl.arange(0, BN)
    term = tl.arange(0, BK)
    there = pixel < rows * columns
    row = first + pixel // columns
    column = pixel % columns
    steps: tl.constexpr = (C + BK - 1) // BK
    total = tl.zeros((BM, BN), tl.float32)
    for step in range(SIDE * SIDE * steps):
        tap = step // steps
        y = row * STRIDE + tap // SIDE - PAD
        x = column * STRIDE + tap % SIDE - PAD
        inside = there & (y >= 0) & (y < height * UP) & (x >= 0) & (x < width * UP)
        source = values + ((y // UP - top).to(tl.int64) * width + x // UP) * C
        terms = (step % steps) * BK + term
        known = inside[:, None] if C % BK == 0 else inside[:, None] & (terms < C)[None, :]
        left = tl.load(source[:, None] + terms[None, :], known, 0.0)
        wanted = (channel < CO)[None, :] & (terms < C)[:, None]
        right = tl.load(weight + channel[None, :] * (SIDE * SIDE * C) + (tap * C + terms)[:, None], wanted, 0.0)
        total = tl.dot(left, right, total)
    at = pixel[:, None].to(tl.int64) * CO + channel[None, :]
    inside = there[:, None] & (channel < CO)[None, :]
    total += tl.load(bias + channel, channel < CO, 0.0)[None, :]
    if ADDS:
        total += tl.load(residual + at, inside, 0.0).to(tl.float32)
    tl.store(result + at, total.to(result.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["pixels"])
def _normalise(values, gain, result, pixels, C: tl.constexpr, SILU: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr):
    """`BP` pixels, each with all its channels."""
    pixel = tl.program_id(0) * BP + tl.arange(0, BP)
    channel = tl.arange(0, BC)
    inside = (pixel < pixels)[:, None] & (channel < C)[None, :]
    at = pixel[:, None].to(tl.int64) * C + channel[None, :]
    value = tl.load(values + at, inside, 0.0).to(tl.float32)
    length = tl.sqrt(tl.sum(value * value, 1))
    length = tl.maximum(length, 1e-12, propagate_nan=tl.PropagateNan.ALL)
    value = value / length[:, None] * tl.load(gain + channel, channel < C, 0.0)[None, :]
    if SILU:
        value = value / (1 + tl.exp(-value))
    tl.store(result + at, value.to(result.dtype.element_ty), inside)


def convolve(strip: Strip, kernel: Kernel, first: int, last: int, residual: torch.Tensor | None = None) -> torch.Tensor:
    """Rows `first` to `last` of a convolution: [last - first, columns, channels out] in the type of `strip`.

    `strip` has the rows that these need. `residual`, of the result's shape, is added before rounding.
    """
    values = strip.values
    columns = values.shape[1] * kernel.up // kernel.stride
    count = last - first
    result = values.new_empty((count, columns, kernel.channels_out))
    pixels, channels, terms, stages, warps = _tiles(
        kernel.channels_in, kernel.channels_out, _shared_bytes(values.device)
    )
    grid = (triton.cdiv(count * columns, pixels) * triton.cdiv(kernel.channels_out, channels),)
    _convolve[grid](
        values, kernel.weight, kernel.bias, values if residual is None else residual, result,
        strip.top, strip.height, values.shape[1], first, count, columns,
        kernel.channels_in, kernel.channels_out, kernel.side, kernel.up, kernel.stride, kernel.pad,
        residual is not None, pixels, channels, terms, num_stages=stages, num_warps=warps,
    )  # fmt: skip
    return result


def normalise(values: torch.Tensor, gain: torch.Tensor, *, silu: bool) -> torch.Tensor:
    """Each pixel's channels at length 1, times `gain` (float32 [channels]), through SiLU if asked: as `values`, new."""
    result = torch.empty_like(values)
    channels = values.shape[-1]
    pixels = values.numel() // channels
    block = triton.next_power_of_2(channels)
    each = max(1, _NORM_VALUES // block)
    _normalise[(triton.cdiv(pixels, each),)](values, gain, result, pixels, channels, silu, block, each, num_warps=4)
    return result


def _tiles(channels_in: int, channels_out: int, shared_bytes: int) -> tuple[int, int, int, int, int]:
    """Pixels, channels and terms of a tile, stages and warps: the best of 3 to 22 tried for each shape on an H100.

    Cards with little shared memory get smaller ones. Never chosen by how much there is to do, or by what is free.
    """
    terms = min(64, channels_in & -channels_in)
    if terms < 16:  # noqa: PLR2004  # a product takes 16 at least: of the others, the weights are zero
        terms = min(64, max(16, triton.next_power_of_2(channels_in)))
    if channels_out < 64:  # noqa: PLR2004  # conv_out's three channels, and latents
        return 256, max(16, triton.next_power_of_2(channels_out)), min(32, terms), 3, 4
    if shared_bytes < _LARGE_SHARED_BYTES:
        return 128, 128 if channels_out > 64 else 64, min(32, terms), 3, 4  # noqa: PLR2004
    wide = 128 < channels_out <= 256  # noqa: PLR2004
    return 128, 256 if wide else 128, terms, 3 if terms == 64 else 4, 8  # noqa: PLR2004


@lru_cache
def _shared_bytes(device: torch.device) -> int:
    """Shared memory that a block may have on this card; the interpreter's has no end."""
    if device.type != "cuda":
        return _LARGE_SHARED_BYTES
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)
