"""How many slots, how many pictures in flight: from the memory there is, and what sweeps have shown.

Asks `renderer.estimate` of the bytes that this device really has free: what the plan forecasts is what happens here.
Knows nothing of how anything is computed.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace

import torch

from renderer import catalog
from renderer.catalog import Shape
from renderer.engine.blocks import Arithmetic
from renderer.engine.placement import Device
from renderer.engine.slots import TURNING
from renderer.estimate import decide, duration
from renderer.estimate.memory import CONTEXT_BYTES, MOST_TOKENS, Kernels, Streaming, Work
from renderer.events import Setup
from renderer.job import Job

MODULES_BYTES = 192 * 2**20
"""What kernels that are not loaded yet will take beside the allocator."""

USUAL = Work(1328, 1328, prompt_tokens=512)
"""What the room is shared out for when nobody says what is to come."""

BUS_BOUND = 0.85
"""A sweep whose copies take more than this part of it waits for them now and then."""


class Budget:
    """What this device's memory allows. It can be tightened when that turns out to be too much."""

    def __init__(
        self, blocks: int, width: int, setup: Setup, device: Device, arithmetic: Arithmetic | None = None
    ) -> None:
        """Taken when what stays on the device for good is there already. `arithmetic` is the blocks', once known."""
        self._most = setup.in_flight or decide.MOST_IN_FLIGHT
        self._wanted = setup.in_flight or 1
        self._bytes = _available(setup, device)
        if device == "cuda" and setup.vram_bytes is not None:  # the limit goes with the setup that it was of
            weakref.finalize(self, torch.cuda.set_per_process_memory_fraction, 1.0).atexit = False
        capability = torch.cuda.get_device_capability() if device == "cuda" else (9, 0)
        self._streaming = Streaming(
            _shape(width, blocks),
            setup.stored,
            TURNING,
            Kernels.of(capability, fp8=setup.multiplies_fp8 and arithmetic != "bf16"),
        )
        works = [Work(**demand.model_dump()) for demand in setup.demands] or [USUAL]
        decision = decide.decide(self._streaming, works, self._bytes, slots=setup.slots)
        self.slots = min(blocks, max(TURNING, decision.slots))

    def admits(self, flying: Sequence[Job], job: Job) -> bool:
        """Whether `job` may join those in flight: the first always, the next while they are wanted and fit."""
        if not flying:
            return True
        if len(flying) >= min(self._most, self._wanted):
            return False
        if self._bytes is None:
            return True
        works = [Work.of(each) for each in (*flying, job)]
        return decide.needed(replace(self._streaming, slots=self.slots), works) <= self._bytes

    def records(self, flying: Sequence[Job]) -> bool:
        """Whether there is room to record the launches of those in flight that are small enough for it."""
        if self._bytes is None:
            return True
        works = [Work.of(each) for each in flying]
        return decide.recording(replace(self._streaming, slots=self.slots), works) <= self._bytes

    def tokens_together(self, flying: Sequence[Job]) -> int:
        """How many tokens of prompts may be encoded together while these pictures are in flight."""
        if self._bytes is None:
            return MOST_TOKENS
        works = [Work.of(job) for job in flying]
        return decide.tokens_together(replace(self._streaming, slots=self.slots), works, self._bytes)

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
        return ""


def step_flops(blocks: int, width: int, job: Job) -> float:
    """Floating-point operations of one denoising step in the blocks: linear layers and attention, both passes."""
    work = Work.of(job)
    return duration.block_flops(_shape(width, blocks), work) * blocks


def _shape(width: int, layers: int) -> Shape:
    """The shape of the family's member that is so wide."""
    known = {shape.width: shape for shape in (catalog.QWEN_IMAGE_SHAPE, catalog.DEMO_SHAPE)}
    return replace(known.get(width, catalog.QWEN_IMAGE_SHAPE), layers=layers)


def _available(setup: Setup, device: Device) -> int | None:
    """Bytes that torch's allocator may hold in all; None on the CPU, where slots cost what the host has anyway.

    A limit is of the whole process, with CUDA's context and the kernels' modules, of which the allocator knows nothing.
    """
    if device != "cuda":
        return None
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    found = free + reserved - MODULES_BYTES
    if setup.vram_bytes is not None:
        beside = min(CONTEXT_BYTES, total - free - reserved + MODULES_BYTES)
        found = max(0, min(found, setup.vram_bytes - beside))
        torch.cuda.set_per_process_memory_fraction(found / total)  # or what it holds in vain may pass the limit
    return found
