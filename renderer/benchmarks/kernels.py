"""Each of our kernels once, at Qwen-Image's widths and by few rows: for `compute-sanitizer` to watch.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python -m renderer.benchmarks.kernels

Without torch's cache every tensor is an allocation of its own, and a byte too far is seen. Says how many were launched.
Without a GPU they are interpreted, at small widths, where `TRITON_INTERPRET=1` asks for that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from renderer.engine import fp8_kernels, int4_kernels, int8_kernels, vae_kernels
from renderer.engine.device import Device
from renderer.engine.strips import Kernel, Strip
from renderer.weights.codecs.rows import ROW_CODERS


@dataclass(frozen=True, slots=True)
class KernelSizes:
    """Rows of blocks; their width, heads and hidden width; (channels in, channels out) of convolutions, their rows."""

    rows: tuple[int, ...]
    heads: int
    head: int
    hidden: int
    channels: tuple[tuple[int, int], ...]
    side: tuple[int, int]


GPU = KernelSizes(
    (1, 5, 130), 24, 128, 12288, ((16, 384), (384, 384), (384, 192), (192, 96), (96, 96), (96, 3)), (6, 37)
)
CPU = KernelSizes((2,), 2, 16, 64, ((16, 16), (16, 3)), (3, 5))


def main() -> None:
    """Launch them all."""
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = GPU if device == "cuda" else CPU
    count = sum(1 for run in (_blocks, _unpacked, _pictures) for _ in run(sizes, device))
    if device == "cuda":
        torch.cuda.synchronize()
    sys.stdout.write(f"launched {count} kernels\n")


def _blocks(sizes: KernelSizes, device: Device) -> Iterator[object]:
    width = sizes.heads * sizes.head
    vectors = _random(2, 6 * width, device=device)
    for rows in sizes.rows:
        x, update = _random(rows, width, device=device), _random(rows, width, device=device)
        whose = torch.arange(rows, dtype=torch.int32, device=device) % 2
        for run in (fp8_kernels, int8_kernels):
            yield run.quantise(x)
            yield run.activate(_random(rows, sizes.hidden, device=device))
            yield run.modulate(x, vectors, whose, 0)
            yield run.modulate(x, vectors, whose, 3)
            yield run.add_and_modulate(x, update, vectors, whose, 2, 3)
        weight = int8_kernels.as_stored(_random(sizes.hidden, width, device=device))
        scale, bias = _random(sizes.hidden, device=device).float(), _random(sizes.hidden, device=device)
        yield int8_kernels.multiply(int8_kernels.quantise(x), weight, scale, bias)
        yield fp8_kernels.add(x, update, vectors, whose, 5)
        words = slice(0, rows // 2), slice(rows // 2, rows)
        downs = _random(3, width, device=device), _random(5, width, device=device)
        inner = fp8_kernels.narrow(fp8_kernels.quantise(x), words, downs)
        yield inner
        fp8_kernels.widen(update[words[1]], inner[1], _random(width, 5, device=device))
        yield update
        joint = [_random(2 * rows, sizes.heads, sizes.head, device=device) for _ in range(3)]
        norms = (_random(sizes.head, device=device), _random(sizes.head, device=device))
        turns = _random(rows, sizes.head // 2, 2, device=device).float()
        for first in (0, rows):
            qkv = _random(rows, 3 * width, device=device)
            places = torch.arange(first, first + rows, dtype=torch.int32, device=device)
            fp8_kernels.place(qkv, *norms, turns, (joint[0], joint[1], joint[2]), places)
            yield joint


def _unpacked(sizes: KernelSizes, device: Device) -> Iterator[object]:
    width = sizes.heads * sizes.head
    for rows, columns in ((width + 1, width), (width, sizes.hidden)):
        encoded = ROW_CODERS["int4"].encode(_random(rows, columns, device=device), device)
        values = torch.empty((rows, columns), dtype=torch.int8, device=device)
        int4_kernels.unpack_into(values, {suffix: part.to(device) for suffix, part in encoded.parts.items()})
        yield values


def _pictures(sizes: KernelSizes, device: Device) -> Iterator[object]:
    """Whole pictures, and a strip that has rows above and below it."""
    height, columns = sizes.side
    for before, after in sizes.channels:
        frame = _random(height, columns, before, device=device)
        gain = _random(before, device=device).float()
        for silu in (True, False):
            yield vae_kernels.normalise(frame, gain, silu=silu)
        bias = _random(after, device=device).float()
        square = Kernel(_random(after, 9 * before, device=device), bias, side=3, pad=1)
        point = Kernel(_random(after, before, device=device), bias, side=1)
        enlarged = Kernel(square.weight, bias, side=3, pad=1, up=2)
        for kernel in (square, point, enlarged):
            residual = _random(height * kernel.up, columns * kernel.up, after, device=device)
            yield vae_kernels.convolve(Strip(frame, 0, height), kernel, 0, height * kernel.up, residual)
        strip = Strip(frame[: height - 1], 1, height + 1)
        yield vae_kernels.convolve(strip, square, 2, height - 1)


def _random(*shape: int, device: Device) -> torch.Tensor:
    return torch.randn(shape, device=device).to(torch.bfloat16)


if __name__ == "__main__":
    main()
