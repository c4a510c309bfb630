"""A setup and a machine ▶ how much GPU memory there is for it, and which jobs cannot fit in any way, with the reason.

Asks `estimate`'s arithmetic, as the engine does. Starts nothing, imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from renderer import catalog
from renderer.estimate import Kernels, Native, Streaming, Work, decide, shape_of
from renderer.estimate.fitted import CONTEXT_BYTES
from renderer.estimate.memory import TURNING_SLOTS
from renderer.job import Job, Size
from renderer.job.precisions import BOUNDED
from renderer.machine.hardware import Machine
from renderer.planning.placement import OFFLOAD_MARGIN_BYTES
from renderer.protocol import Setup
from renderer.text import GIB


@dataclass(frozen=True, slots=True)
class SizeRefusal:
    """Why a picture cannot be rendered on this machine in any way, and the nearest size that can, if there is one."""

    size: Size
    needed_bytes: int
    available_bytes: int
    nearest: Size | None

    @property
    def message(self) -> str:
        needed, there = (f"{count / GIB:.2f} GiB" for count in (self.needed_bytes, self.available_bytes))
        return f"{self.size} needs {needed} of GPU memory at the least, and {there} are there for it"

    @property
    def hint(self) -> str:
        if self.nearest is None:
            return "no size of this model fits: a larger --vram, or another card"
        return f"the nearest size that fits is {self.nearest}"


def allocator_bytes(machine: Machine, vram_bytes: int | None = None) -> int | None:
    """GPU memory that torch's allocator may hold: what is free, within the limit, less CUDA's context and modules.

    None where there is no GPU.
    """
    gpu = machine.gpu
    if gpu is None:
        return None
    return min(gpu.free_bytes, vram_bytes if vram_bytes is not None else gpu.total_bytes) - CONTEXT_BYTES


def available_bytes(setup: Setup, machine: Machine) -> int | None:
    """GPU memory that torch's allocator may hold for a setup; None where there is no GPU."""
    bound = setup.vram_bytes
    if bound is not None and setup.profile in BOUNDED:
        bound += OFFLOAD_MARGIN_BYTES
    return allocator_bytes(machine, bound)


def streaming_of(setup: Setup, machine: Machine) -> Streaming:
    """The arithmetic of a setup's model as it is streamed on this machine."""
    shape, gpu = shape_of(catalog.find(setup.model)), machine.gpu
    stored = setup.multiplies_stored
    kernels = Kernels.of(gpu.compute_capability, stored=stored) if gpu else Kernels.of_cpu(stored=stored)
    return Streaming(shape, setup.stored, setup.slots or TURNING_SLOTS, kernels)


def refusals(jobs: Sequence[Job], setup: Setup, machine: Machine) -> dict[Job, SizeRefusal]:
    """Which of a setup's jobs cannot be rendered on this machine in any way. They cost nothing, and stop nobody."""
    available = available_bytes(setup, machine)
    if available is None or setup.profile == "cpu":
        return {}
    model, streaming = catalog.find(setup.model), streaming_of(setup, machine)
    found: dict[Work, SizeRefusal | None] = {}

    def look(work: Work) -> SizeRefusal | None:
        if setup.profile == "stream":
            if decide.fits(streaming, work, available):
                return None
            least = decide.least(streaming, [work])
            nearest = decide.nearest_fitting(streaming, model, work, available)
            return SizeRefusal(Size(width=work.width, height=work.height), least, available, nearest)
        native = Native(streaming.shape, setup.stored, setup.profile, setup.vram_bytes, streaming.kernels)
        least = native.needed(work)
        size = Size(width=work.width, height=work.height)
        return SizeRefusal(size, least, available, None) if least > available else None

    refused: dict[Job, SizeRefusal] = {}
    for job in jobs:
        work = Work.of(job)
        if work not in found:
            found[work] = look(work)
        if (refusal := found[work]) is not None:
            refused[job] = refusal
    return refused
