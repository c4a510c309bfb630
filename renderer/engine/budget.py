"""How many slots, how many pictures in flight, tiled or not: from the memory there is, and what sweeps have shown.

Counts bytes by arithmetic from the pictures' sizes. Knows nothing of how anything is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from renderer.engine.placement import Device
from renderer.engine.slots import TURNING
from renderer.events import Setup
from renderer.job import Job

RESERVED_BYTES = 3 * 2**29
"""Left to the CUDA context, cuBLAS's workspaces and the allocator's rounding when nobody sets a limit."""

MOST_IN_FLIGHT = 16
TEXT_TOKENS = 512
"""A prompt is taken to be as long as the longest the model was trained with."""

BLOCK_BYTES_PER_TOKEN_AND_WIDTH = 34
"""Peak of one block's activations: bytes a token and channel, from what an H200 showed (bf16, fused attention)."""

RIDER_BYTES_PER_TOKEN_AND_WIDTH = 4
"""A waiting rider's state: its hidden values in bf16, and their successors while both are held."""

DECODE_BYTES_PER_PIXEL = 2130
"""Peak of the VAE's decode over its weights, untiled: 3.48 GiB at 1328x1328 on an H200."""

TILES: Mapping[str, int] = MappingProxyType({"tile_size": 64, "tile_stride": 48})
"""DiffSynth's tiled decode, in latent pixels of 8x8: tiles of 512 pixels that overlap by 128."""

BUS_BOUND = 0.85
"""A sweep whose copies take more than this part of it waits for them now and then."""


class Budget:
    """What this device's memory allows. It can be tightened when that turns out to be too much."""

    def __init__(self, blocks: int, block_bytes: int, width: int, setup: Setup, device: Device) -> None:
        """Taken when what stays on the device for good is there already."""
        self._width = width
        self._device = device
        self._most = setup.in_flight or MOST_IN_FLIGHT
        self._wanted = setup.in_flight or 1
        self.tiled = bool(setup.tiled)
        self._bytes = _available(setup, device)
        side = 1328 * 1328
        work = max(decode_bytes(side), activation_bytes(width, side)) if self._bytes is not None else 0
        room = blocks if self._bytes is None else (self._bytes - work) // block_bytes
        if self._bytes is not None and room < TURNING:
            self.tiled = True
            work = max(decode_bytes(side, tiled=True), activation_bytes(width, side))
            room = (self._bytes - work) // block_bytes
        self.slots = min(blocks, max(TURNING, setup.slots or room))
        self._beside = None if self._bytes is None else self._bytes - self.slots * block_bytes

    def admits(self, flying: Sequence[Job], job: Job) -> bool:
        """Whether `job` may join those in flight: the first always, the next while they are wanted and fit."""
        if not flying:
            return True
        if len(flying) >= min(self._most, self._wanted):
            return False
        return self._beside is None or self._needs([*flying, job]) <= self._beside

    def _needs(self, jobs: Sequence[Job]) -> int:
        """Bytes beside the slots: the largest piece of work of any, and what each rider holds while it waits."""
        pixels = [job.width * job.height for job in jobs]
        work = (max(decode_bytes(count, tiled=self.tiled), activation_bytes(self._width, count)) for count in pixels)
        waiting = (
            rider_bytes(self._width, count) * (1 if job.cfg_scale == 1.0 else 2)
            for count, job in zip(pixels, jobs, strict=True)
        )
        return max(work) + sum(waiting)

    def learn(self, bus_part: float, in_flight: int) -> None:
        """After a sweep with so many in flight whose copies took `bus_part` of it: let one more ride, if that is much.

        A sweep that waits for its copies takes as long with one picture more.
        """
        if bus_part > BUS_BOUND and in_flight >= self._wanted:
            self._wanted = min(self._most, self._wanted + 1)

    def tighten(self, in_flight: int) -> str:
        """After memory ran out with `in_flight` pictures: what is changed; an empty string when nothing is left to."""
        if in_flight > 1:
            self._most = in_flight - 1
            return f"{self._most} in flight"
        if self.slots > TURNING:
            self.slots = max(TURNING, self.slots // 2)
            return f"{self.slots} slots"
        if not self.tiled:
            self.tiled = True
            return "tiled decode"
        return ""


def activation_bytes(width: int, pixels: int) -> int:
    """Peak of one block's activations for a picture of so many pixels."""
    return BLOCK_BYTES_PER_TOKEN_AND_WIDTH * width * (pixels // 256 + TEXT_TOKENS)


def rider_bytes(width: int, pixels: int) -> int:
    """What one waiting pass of a picture holds."""
    return RIDER_BYTES_PER_TOKEN_AND_WIDTH * width * (pixels // 256 + TEXT_TOKENS)


def decode_bytes(pixels: int, *, tiled: bool = False) -> int:
    """Peak of the VAE's decode over its weights; tiled, of one tile and of the picture that is put together."""
    if not tiled:
        return DECODE_BYTES_PER_PIXEL * pixels
    tile = (8 * TILES["tile_size"]) ** 2
    return DECODE_BYTES_PER_PIXEL * min(pixels, tile) + 20 * pixels


def step_flops(blocks: int, width: int, job: Job) -> float:
    """Floating-point operations of one denoising step in the blocks: linear layers and attention, both passes."""
    tokens = job.width * job.height // 256
    passes = 1 if job.cfg_scale == 1.0 else 2
    linear = 24 * width**2 * tokens
    attention = 4 * width * tokens**2
    return float(blocks * passes * (linear + attention))


def _available(setup: Setup, device: Device) -> int | None:
    """Bytes for slots and work; None on the CPU, where slots cost what the host has anyway."""
    if device != "cuda":
        return None
    free, total = torch.cuda.mem_get_info()
    taken = torch.cuda.memory_allocated()
    limit = setup.vram_bytes if setup.vram_bytes is not None else total
    return min(free, limit - taken) - RESERVED_BYTES
