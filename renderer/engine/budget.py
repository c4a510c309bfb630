"""How many slots, how many pictures in flight: from the memory there is, and what sweeps have shown.

Asks `renderer.estimate` of the bytes that this device really has free: what the plan forecasts is what happens here.
Knows nothing of how anything is computed.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import torch

from renderer import catalog
from renderer.catalog import MOST_TOKENS, Architecture
from renderer.engine.device import Device
from renderer.estimate import decide, duration
from renderer.estimate.fitted import CONTEXT_BYTES
from renderer.estimate.memory import TURNING_SLOTS, Kernels, Streaming, Work
from renderer.job import BlockArithmetic, Job
from renderer.protocol import Setup

MODULES_BYTES = 192 * 2**20
"""What kernels that are not loaded yet will take beside the allocator."""

USUAL = Work(1328, 1328, prompt_tokens=512)
"""What the room is shared out for when nobody says what is to come."""

FIRST_PAUSE, LONGEST_PAUSE = 32, 1024
"""Sweeps: how long fewer slots are made do with after the second time in a row, and at most."""

SWEEPS = 4
"""Ends of sweeps that tell how long one takes; the first two have another's computing between them."""

BUS_BOUND = 0.85
"""A sweep whose copies take more than this part of it waits for them now and then."""


class Budget:
    """What this device's memory allows. What one picture has to do without is not known here: it is that picture's."""

    def __init__(
        self, blocks: int, width: int, setup: Setup, device: Device, arithmetic: BlockArithmetic | None = None
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
            TURNING_SLOTS,
            Kernels.of(capability, fp8=setup.multiplies_fp8 and arithmetic != "bf16"),
        )
        works = [Work(**demand.model_dump()) for demand in setup.demands] or [USUAL]
        decision = decide.decide(self._streaming, works, self._bytes, slots=setup.slots)
        self.slots = min(blocks, max(TURNING_SLOTS, decision.slots))

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


def fewer(slots: int) -> int:
    """What a picture that does not fit with so many slots is tried with next; as many when there is nothing less."""
    return min(slots, max(TURNING_SLOTS, slots // 2))


class Recovery:
    """When slots that were given up are tried again, in sweeps: at once the first time, then after longer and longer.

    Where a machine really has less room than was reckoned, each picture would otherwise be begun in vain.
    """

    def __init__(self) -> None:
        self._times = 0
        self._quiet = 0

    @property
    def due(self) -> bool:
        """Whether as many slots as the budget has are to be tried."""
        pause = FIRST_PAUSE * 2 ** (self._times - 2) if self._times > 1 else 0
        return self._quiet >= min(pause, LONGEST_PAUSE)

    def gave_up(self) -> None:
        """Note that slots were given up."""
        self._times += 1
        self._quiet = 0

    def passed(self) -> None:
        """Note a sweep without trouble; after many, what was before is forgotten."""
        self._quiet += 1
        if self._quiet >= LONGEST_PAUSE:
            self._times = 0


class SweepPace:
    """How long sweeps take. The host runs ahead of the GPU: only several of the same riders in a row show it."""

    def __init__(self) -> None:
        self._riders: tuple[str, ...] = ()
        self._ends_s: deque[float] = deque(maxlen=SWEEPS)

    def passed(self, riders: tuple[str, ...]) -> float | None:
        """Note that a sweep has passed; the seconds that one takes, once that is known."""
        if riders != self._riders:
            self._riders = riders
            self._ends_s.clear()
        self._ends_s.append(time.perf_counter())
        if len(self._ends_s) < SWEEPS:
            return None
        return (self._ends_s[-1] - self._ends_s[1]) / (len(self._ends_s) - 2)


def step_flops(blocks: int, width: int, job: Job) -> float:
    """Floating-point operations of one denoising step in the blocks: linear layers and attention, both passes."""
    work = Work.of(job)
    return duration.block_flops(_shape(width, blocks), work) * blocks


def _shape(width: int, layers: int) -> Architecture:
    """The shape of the family's member that is so wide."""
    known = {shape.width: shape for shape in (catalog.QWEN_IMAGE_ARCHITECTURE, catalog.DEMO_ARCHITECTURE)}
    return replace(known.get(width, catalog.QWEN_IMAGE_ARCHITECTURE), layers=layers)


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
