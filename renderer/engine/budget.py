"""How many slots, how many pictures in flight: from the memory there is, this machine's rates, and what sweeps show.

Asks `renderer.estimate` of the bytes that this device really has free: what the plan forecasts is what happens here.
Knows nothing of how anything is computed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from renderer.catalog import MOST_TOKENS, Architecture
from renderer.engine import failures
from renderer.engine.block_source import BlockSource
from renderer.engine.company import Company
from renderer.engine.device import Device
from renderer.engine.meter import Shown
from renderer.engine.slots import ReadAhead, Slots
from renderer.estimate import decide, duration
from renderer.estimate.companies import MOST_ROWS_TOGETHER
from renderer.estimate.fitted import CONTEXT_BYTES
from renderer.estimate.memory import TURNING_SLOTS, Streaming
from renderer.estimate.work import Kernels, Work
from renderer.job import BlockArithmetic, Job
from renderer.machine import hardware, rates
from renderer.machine.rates import Rates
from renderer.protocol import Setup

MODULES_BYTES = 192 * 2**20
"""What kernels that are not loaded yet will take beside the allocator."""

USUAL = Work(1328, 1328, prompt_tokens=512)
"""What the room is shared out for when nobody says what is to come."""

FIRST_PAUSE, LONGEST_PAUSE = 32, 1024
"""Sweeps: how long less is made do with, at first and at most, where a want of memory comes again and again."""


class Budget:
    """What this device's memory allows. What one picture has to do without is not known here: it is that picture's."""

    def __init__(
        self,
        shape: Architecture,
        setup: Setup,
        device: Device,
        arithmetic: BlockArithmetic | None = None,
        *,
        shares: bool = True,
        known: Rates | None = None,
        from_disk: bool = False,
    ) -> None:
        """Taken when what stays on the device for good is there already. `arithmetic` is the blocks', once known.

        `shares` says whether riders may go through them together.

        On the CPU copies and computing take turns, company hides nothing, and no rates are `known`: each picture rides
        alone, unless the setup says how many.
        """
        reckoned = setup.in_flight is None and (device == "cuda" or known is not None)
        self._company = Company(known, from_disk=from_disk) if reckoned else None
        self._most = setup.in_flight or (decide.MOST_IN_FLIGHT if reckoned else 1)
        self._crowds, self._too_many = Recovery(forgiven=0), 0
        self._bytes, self._aside = _available(setup, device), 0
        if device == "cuda" and setup.vram_bytes is not None:  # the limit goes with the setup that it was of
            weakref.finalize(self, torch.cuda.set_per_process_memory_fraction, 1.0).atexit = False
        capability = torch.cuda.get_device_capability() if device == "cuda" else (9, 0)
        kernels = Kernels.of(capability, stored=setup.multiplies_stored and arithmetic != "bf16")
        self._streaming = Streaming(
            shape,
            setup.stored,
            TURNING_SLOTS,
            kernels,
            together=MOST_ROWS_TOGETHER if shares and kernels.fused_attention else 0,
        )
        decision = decide.decide(
            self._streaming,
            [decide.Series.of(demand) for demand in setup.demands] or [decide.Series(USUAL)],
            None if self._bytes is None else self._bytes - setup.extra_bytes,
            rates=known if reckoned else None,
            from_disk=from_disk,
            slots=setup.slots,
        )
        self.slots = min(shape.layers, max(TURNING_SLOTS, decision.slots))

    def admits(self, flying: Sequence[Job], job: Job, loras: int = 0) -> bool:
        """Whether `job` may join those in flight: the first always, the next while it is wanted and fits.

        `loras` is what all of them ride with takes at the least; what of it stays on the device may make room.
        """
        if not flying:
            return True
        if len(flying) >= self._most:
            return False
        works, more = [Work.of(each) for each in flying], Work.of(job)
        if self._company is not None:
            now, then = self._there(works), self._there([*works, more])
            if not self._company.wants(now, then, works, more):
                return False
        needed = decide.needed(self._here, [*works, more])
        crowded = not self._crowds.due and needed >= self._too_many
        return not crowded and (self._bytes is None or needed + loras <= self._bytes + self._aside)

    def set_aside(self, count: int) -> None:
        """So many bytes are taken on the device besides: LoRAs."""
        if self._bytes is not None:
            self._bytes += self._aside - count
            self._aside = count

    def keeps(self, flying: Sequence[Job], count: int) -> bool:
        """Whether so many bytes, set aside, would leave room for the slots and those in flight."""
        if self._bytes is None:
            return True
        needed = decide.needed(self._here, [Work.of(each) for each in flying])
        return needed + count <= self._bytes + self._aside

    def records(self, flying: Sequence[Job]) -> bool:
        """Whether there is room to record the launches of those in flight that are small enough for it."""
        return self._there([Work.of(each) for each in flying]).recording

    def rows_together(self, flying: Sequence[Job]) -> int:
        """How many rows of those in flight there is room for to go through a block as one."""
        return self._there([Work.of(each) for each in flying]).together

    def _there(self, works: Sequence[Work], slots: int | None = None) -> Streaming:
        """What is done where these fly: all that there is room for beside them."""
        return decide.with_room(replace(self._streaming, slots=slots or self.slots), works, self._bytes)

    @property
    def _here(self) -> Streaming:
        return replace(self._streaming, slots=self.slots)

    def tokens_together(self, flying: Sequence[Job]) -> int:
        """How many tokens of prompts may be encoded together while these pictures are in flight."""
        if self._bytes is None:
            return MOST_TOKENS
        works = [Work.of(job) for job in flying]
        return decide.tokens_together(self._here, works, self._bytes)

    def has_room_to_decode(self, job: Job) -> bool:
        """Whether a picture can be decoded beside all that the allocator holds, in use or not."""
        needed = sum(term.bytes for term in self._here.decoder(Work.of(job)).terms)
        return self._bytes is None or torch.cuda.memory_reserved() + needed <= self._bytes

    def brought(self, bytes_per_s: float) -> None:
        """Note how fast blocks came to new slots; 0 where none had to."""
        if self._company is not None:
            self._company.brought(bytes_per_s)

    def swept(self, flying: Sequence[Job], slots: int, shown: Shown) -> None:
        """Note a sweep of those in flight through so many slots, and what it showed of the device."""
        if self._company is not None and shown.moved_bytes:
            works = [Work.of(each) for each in flying]
            self._company.swept(self._there(works, slots), works, shown)

    def passed(self) -> None:
        """Note a sweep without trouble."""
        self._crowds.passed()

    def too_many(self, flying: Sequence[Job]) -> None:
        """Note that there was no room for so many together: for some sweeps less is let in, then it is tried again."""
        if len(flying) > 1:
            self._too_many = decide.needed(self._here, [Work.of(each) for each in flying])
            self._crowds.gave_up()


def here(
    source: BlockSource,
    shape: Architecture,
    setup: Setup,
    device: Device,
    arithmetic: BlockArithmetic,
    *,
    shares: bool,
) -> Budget:
    """The budget of this machine, by what is known of its rates, for a model whose blocks come from `source`."""
    known = rates.known(hardware.look()) if device == "cuda" else None
    from_disk = isinstance(source, ReadAhead)
    return Budget(shape, setup, device, arithmetic, shares=shares, known=known, from_disk=from_disk)


def as_many(source: BlockSource, count: int, device: Device, recover: Callable[[], None]) -> Slots:
    """So many slots, or fewer where there is no room for them; between two tries memory is to `recover`.

    Raises what torch raises where there is no room for the fewest.
    """
    while True:
        try:
            return Slots(source, count, device)
        except Exception as error:
            if count <= TURNING_SLOTS or not failures.is_out_of_memory(error):
                raise
        count = fewer(count)
        recover()


def fewer(slots: int) -> int:
    """What a picture that does not fit with so many slots is tried with next; as many when there is nothing less."""
    return min(slots, max(TURNING_SLOTS, slots // 2))


class Recovery:
    """When what was given up for want of memory is tried again, in sweeps: after longer and longer.

    Where a machine really has less room than was reckoned, each picture would otherwise be begun in vain.
    """

    def __init__(self, forgiven: int = 1) -> None:
        """The first `forgiven` times it is tried again at once."""
        self._forgiven = forgiven
        self._times = 0
        self._quiet = 0

    @property
    def due(self) -> bool:
        """Whether it is to be tried again."""
        again = self._times - self._forgiven
        pause = FIRST_PAUSE * 2 ** (again - 1) if again > 0 else 0
        return self._quiet >= min(pause, LONGEST_PAUSE)

    def gave_up(self) -> None:
        """Note that it was given up."""
        self._times += 1
        self._quiet = 0

    def passed(self) -> None:
        """Note a sweep without trouble; after many, what was before is forgotten."""
        self._quiet += 1
        if self._quiet >= LONGEST_PAUSE:
            self._times = 0


def step_flops(shape: Architecture, job: Job) -> float:
    """Floating-point operations of one denoising step in the blocks: linear layers and attention, both passes."""
    return duration.block_flops(shape, Work.of(job)) * shape.layers


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
