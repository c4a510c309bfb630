"""Jobs and a machine ▶ by which profile they are rendered, and what a worker opens for them; what fits is `fitting`'s.

Asks `estimate`'s arithmetic and the headers of model files; knows nothing of folders and of what is done. Starts
nothing, imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from renderer import catalog
from renderer.catalog import Model
from renderer.errors import MachineError
from renderer.estimate import Work, host, shape_of
from renderer.estimate.work import WorkKind
from renderer.job import Job, Precision, Profile
from renderer.job.precisions import BOUNDED, ONLY, in_words, stored
from renderer.machine.hardware import Machine
from renderer.protocol import Demand, Setup
from renderer.text import GIB
from renderer.weights import soundness
from renderer.weights.identity import identify
from renderer.weights.places import packed_folder

OFFLOAD_MARGIN_BYTES = 3 * GIB // 2
"""What they leave to the activations."""


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
    if gpu is None and model.is_the_demo and wanted in (None, "stream"):
        return ProfileChoice("stream", vram_bytes, "no GPU, and the demo model is small: its blocks stream on the CPU")
    if gpu is None:
        message = f"{model.id} needs an NVIDIA GPU, and this machine shows none"
        raise MachineError(message, hint="run renderer doctor to see why; or rehearse with the demo model: --proof")
    if wanted is None or wanted == "stream":
        free = machine.ram_free_bytes
        there = host.blocks_in_memory(shape_of(model), stored(precision), free, machine.sharers)
        waiting = "host memory" if there else "the disk"
        return ProfileChoice("stream", vram_bytes, f"blocks come from {waiting} to the pictures on the GPU")
    if wanted is not None and stored(precision) != (only := ONLY.get(wanted, stored(precision))):
        message = f"profile {wanted} keeps weights in {in_words(only)}, and this job asks for {precision}"
        raise MachineError(message, hint=f"--precision {only}, or --profile resident or disk")
    if wanted in BOUNDED:
        vram_bytes = max(GIB, (gpu.total_bytes if vram_bytes is None else vram_bytes) - OFFLOAD_MARGIN_BYTES)
    return ProfileChoice(wanted, vram_bytes, "asked for")


def bound_of(machine: Machine, vram_bytes: int | None) -> int | None:
    """What may be taken on a machine's GPU, of which somebody allows `vram_bytes` (None: all there is)."""
    if vram_bytes is None and machine.gpu is not None and machine.gpu.memory == "host":
        return machine.gpu.free_bytes  # the driver would let it take the host's share too
    return vram_bytes


def setup_for(jobs: Sequence[Job], machine: Machine, wanted: Profile | None, vram_bytes: int | None = None) -> Setup:
    """What a worker has to open for `jobs`, which are of one model and precision.

    `vram_bytes` bounds what it may take on the GPU. Raises `ModelError` and `MachineError`.
    """
    job = jobs[0]
    model = catalog.find(job.model)
    soundness.check(model)
    choice = choose_profile(model, job.precision, machine, wanted, bound_of(machine, vram_bytes))
    streamed = choice.profile == "stream" and not model.is_embedded
    return Setup(
        model=job.model,
        identity=identify(model),
        precision=job.precision,
        profile=choice.profile,
        vram_bytes=choice.vram_bytes,
        store=str(packed_folder(model, stored(job.precision))) if streamed else None,
        demands=_demands(jobs) if choice.profile == "stream" else (),
        extra_bytes=_extra_bytes(jobs, model) if choice.profile == "stream" else 0,
        gpu=machine.visible,
    )


def _extra_bytes(jobs: Sequence[Job], model: Model) -> int:
    """What LoRAs and ControlNets of jobs take on the GPU at the least; those that cannot be had take nothing."""
    if not any(job.extra_networks for job in jobs):
        return 0
    from renderer.planning.riding import riding  # noqa: PLC0415  # most pictures have none

    return riding(jobs, model).least_bytes


def _demands(jobs: Iterable[Job]) -> tuple[Demand, ...]:
    """The kinds of pictures among jobs: of each size, guided or not, the longest prompts, how many, and their steps."""
    steps: dict[Work, list[int]] = {}
    for job in jobs:
        steps.setdefault(Work.of(job), []).append(job.num_inference_steps)
    kinds: dict[WorkKind, Demand] = {}
    for work, of_work in steps.items():
        other = kinds.get(work.kind)
        kinds[work.kind] = Demand(
            width=work.width,
            height=work.height,
            prompt_tokens=max(work.prompt_tokens, other.prompt_tokens if other else 0),
            negative_tokens=max(work.negative_tokens, other.negative_tokens if other else 0),
            guided=work.guided,
            takes_in=work.takes_in,
            edited=work.edited,
            split=work.split,
            layer_num=work.layer_num,
            controls=work.controls,
            context=work.context,
            region_tokens=max(work.region_tokens, other.region_tokens if other else 0),
            pictures=len(of_work) + ((other.pictures or 0) if other else 0),
            steps=sum(of_work) + (other.steps if other else 0),
        )
    return tuple(kinds.values())
