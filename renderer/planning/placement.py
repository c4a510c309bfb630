"""Jobs and a machine ▶ by which profile they are rendered, what a worker opens for them, and what cannot fit.

Asks `estimate`'s arithmetic and the headers of model files; knows nothing of folders and of what is done. Starts
nothing, imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from renderer import catalog
from renderer.catalog import Model
from renderer.errors import MachineError
from renderer.estimate import Kernels, Native, Streaming, Work, decide, host, shape_of
from renderer.estimate.memory import CONTEXT_BYTES
from renderer.job import Job, Precision, Profile, Size, stored
from renderer.machine.hardware import Machine
from renderer.protocol import Demand, Setup
from renderer.text import GIB
from renderer.weights import soundness
from renderer.weights.identity import identify
from renderer.weights.places import packed_folder

_BOUNDED: tuple[Profile, ...] = ("fp8", "disk")  # DiffSynth takes weights up until so much of the GPU is in use
_OFFLOAD_MARGIN_BYTES = 3 * GIB // 2  # what they leave to the activations


# ---- which profile ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProfileChoice:
    """A profile, a setup's `vram_bytes` with it, and why it was chosen."""

    profile: Profile
    vram_bytes: int | None
    reason: str


def choose_profile(
    model: Model, precision: Precision, machine: Machine, wanted: Profile | None = None, vram_bytes: int | None = None
) -> ProfileChoice:
    """How `model` is to be placed on `machine`: as `wanted`, or streamed, which suits every card.

    `vram_bytes` bounds what all of it may take on the GPU. Raises `MachineError` where it cannot run, or where
    `wanted` needs what is not there.
    """
    gpu = machine.gpu
    if wanted == "cpu":
        return ProfileChoice("cpu", vram_bytes, "asked for")
    if gpu is None and model.id == catalog.DEMO.id and wanted in (None, "stream"):
        return ProfileChoice("stream", vram_bytes, "no GPU, and the demo model is small: its blocks stream on the CPU")
    if gpu is None:
        message = f"{model.id} needs an NVIDIA GPU, and this machine shows none"
        raise MachineError(message, hint="run renderer doctor to see why; or rehearse with the demo model: --proof")
    if wanted is None or wanted == "stream":
        there = host.blocks_in_memory(shape_of(model), stored(precision), machine.ram_free_bytes)
        waiting = "host memory" if there else "the disk"
        return ProfileChoice("stream", vram_bytes, f"blocks come from {waiting} to the pictures on {gpu.name}")
    if wanted == "fp8" and precision == "bf16":
        message = f"profile fp8 keeps weights in FP8, and this job asks for {precision}"
        raise MachineError(message, hint="--precision fp8, or --profile resident or disk")
    if wanted in _BOUNDED:
        vram_bytes = max(GIB, (gpu.total_bytes if vram_bytes is None else vram_bytes) - _OFFLOAD_MARGIN_BYTES)
    return ProfileChoice(wanted, vram_bytes, "asked for")


def setup_for(jobs: Sequence[Job], machine: Machine, wanted: Profile | None, vram_bytes: int | None = None) -> Setup:
    """What a worker has to open for `jobs`, which are of one model and precision.

    `vram_bytes` bounds what it may take on the GPU. Raises `ModelError` and `MachineError`.
    """
    job = jobs[0]
    model = catalog.find(job.model)
    soundness.check(model)
    if vram_bytes is None and machine.gpu is not None and machine.gpu.memory == "host":
        vram_bytes = machine.gpu.free_bytes  # the driver would let it take the host's share too
    choice = choose_profile(model, job.precision, machine, wanted, vram_bytes)
    streamed = choice.profile == "stream" and model.id != catalog.DEMO.id
    return Setup(
        model=job.model,
        identity=identify(model),
        precision=job.precision,
        profile=choice.profile,
        vram_bytes=choice.vram_bytes,
        store=str(packed_folder(model, stored(job.precision))) if streamed else None,
        demands=_demands(jobs) if choice.profile == "stream" else (),
        gpu=machine.visible,
    )


def _demands(jobs: Iterable[Job]) -> tuple[Demand, ...]:
    """The kinds of pictures among jobs: of each size, guided or not, the longest prompts."""
    kinds: dict[tuple[int, int, bool], Work] = {}
    for work in map(Work.of, jobs):
        key = (work.width, work.height, work.guided)
        other = kinds.get(key, work)
        kinds[key] = replace(
            work,
            prompt_tokens=max(work.prompt_tokens, other.prompt_tokens),
            negative_tokens=max(work.negative_tokens, other.negative_tokens),
        )
    return tuple(
        Demand(
            width=kind.width,
            height=kind.height,
            prompt_tokens=kind.prompt_tokens,
            negative_tokens=kind.negative_tokens,
            guided=kind.guided,
        )
        for kind in kinds.values()
    )


# ---- what fits -------------------------------------------------------------------------------------------------------


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
    if bound is not None and setup.profile in _BOUNDED:
        bound += _OFFLOAD_MARGIN_BYTES
    return allocator_bytes(machine, bound)


def streaming_of(setup: Setup, machine: Machine) -> Streaming:
    """The arithmetic of a setup's model as it is streamed on this machine."""
    capability = machine.gpu.compute_capability if machine.gpu else (0, 0)
    shape = shape_of(catalog.find(setup.model))
    kernels = Kernels.of(capability, fp8=setup.multiplies_fp8)
    return Streaming(shape, setup.stored, setup.slots or decide.FEWEST_SLOTS, kernels)


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
