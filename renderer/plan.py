"""Jobs, machine and what is finished ▶ what will be rendered, in which order, by which profile, and what is refused.

Reads sidecars and the journal; writes nothing, starts nothing, imports no torch. How long it takes and what it needs of
the disk is `forecast`'s business.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from renderer import catalog, done
from renderer import sources as sourcing
from renderer.catalog import Model
from renderer.done import Done, Found
from renderer.errors import MachineError, UsageError
from renderer.estimate import Kernels, Native, Streaming, Work, decide, host, shape_of
from renderer.estimate.decide import Decision
from renderer.estimate.memory import CONTEXT_BYTES
from renderer.estimate.terms import GIB
from renderer.events import Demand, Setup
from renderer.job import Job, ModelIdentity, Picture, Precision, Profile, Size, fingerprint, stored
from renderer.journal import MAX_CRASHES, Journal
from renderer.layout import OutputFolder
from renderer.machine import Machine
from renderer.manifest import Manifest
from renderer.sources import Source, Wanted, can_become
from renderer.weights import soundness, streamable
from renderer.weights.identity import identify
from renderer.weights.places import packed_folder

State = Literal["done", "to do", "failed", "set aside"]

_AT_A_TIME = 200
"""Pictures that are looked at between two looks at whether to go on."""

_BOUNDED: tuple[Profile, ...] = ("fp8", "disk")  # DiffSynth takes weights up until so much of the GPU is in use
_OFFLOAD_MARGIN_BYTES = 3 * GIB // 2  # what they leave to the activations


@dataclass(frozen=True, slots=True)
class Planned:
    """One picture and what is to happen to it. `note` says why it is not done, when there is more to say than that.

    `sidecar` is what is known of it where it is done. One that is to do needs no rendering where it has a `source`, a
    place where it lies already, or is another's `twin`: the id of a picture of the same fingerprint that is rendered.
    """

    picture: Picture
    model: ModelIdentity
    fingerprint: str
    state: State
    note: str = ""
    suspect: bool = False
    sidecar: Done | None = None
    source: Source | None = None
    twin: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """One manifest against its output folder. `items` are in the manifest's order.

    `ids` are those of the pictures that were chosen, None where all are.
    """

    manifest: Manifest
    folder: OutputFolder
    items: tuple[Planned, ...]
    journal: Journal
    ids: frozenset[str] | None = None

    @property
    def chosen(self) -> Sequence[Planned]:
        """The pictures that were chosen."""
        return self.items if self.ids is None else [item for item in self.items if item.picture.id in self.ids]

    def is_chosen(self, item: Planned) -> bool:
        return self.ids is None or item.picture.id in self.ids

    def to_render(self) -> list[Planned]:
        """What will be rendered, in order: by model and precision as first met, and suspects after everybody else."""
        met: dict[tuple[str, Precision], int] = {}
        for item in self.items:
            met.setdefault((item.picture.job.model, item.picture.job.precision), len(met))

        def rank(item: Planned) -> tuple[int, bool]:
            return met[item.picture.job.model, item.picture.job.precision], item.suspect

        wanted = (item for item in self.chosen if item.state in ("to do", "failed"))
        return sorted((item for item in wanted if item.source is None and not item.twin), key=rank)

    def to_bring(self) -> list[Planned]:
        """What lies in the folder already, of the whole manifest: what is chosen may be rendered over it."""
        return [item for item in self.items if item.source is not None]

    def twins(self) -> list[Planned]:
        """Chosen pictures that are another's once that is rendered."""
        return [item for item in self.chosen if item.twin]

    def to_write(self) -> list[Planned]:
        """What takes room on the disk: what is rendered, copied, or kept another way; moving takes none."""
        changing = (item for item in self.to_bring() if item.source and item.source.keep != item.picture.keep)
        return [*self.to_render(), *self.twins(), *changing]

    def count(self, state: State) -> int:
        """How many of the chosen pictures are in this state."""
        return sum(item.state == state for item in self.chosen)

    def updated(self, changes: Mapping[str, Planned]) -> Plan:
        """The plan with other items for some picture ids."""
        return replace(self, items=tuple(changes.get(item.picture.id, item) for item in self.items))


Heard = Callable[[int, int], None]
"""Told every now and then how many of how many pictures have been looked at. What it raises ends the looking."""


def make_plan(
    manifest: Manifest,
    outputs: Path,
    *,
    only: Sequence[str] = (),
    force: bool = False,
    thorough: bool = False,
    heard: Heard | None = None,
) -> Plan:
    """Hold a manifest against its output folder.

    `only` chooses pictures (see `choose`), and the others stay in the plan; `force` takes nothing for done that is
    chosen; `thorough` compares the SHA-256 of every finished file that is chosen, as a run must before it skips one.

    Raises `ModelError` for a model that is not there, `DiskError` for a folder or journal that cannot be read.
    """
    folder = OutputFolder(outputs / manifest.name)
    journal = Journal.read(folder)
    identities = {name: identify(catalog.find(name)) for name in {picture.job.model for picture in manifest.pictures}}
    ids = choose(manifest, only) if only else None

    def look(picture: Picture) -> tuple[Planned, Found | None]:
        wanted = ids is None or picture.id in ids
        model = identities[picture.job.model]
        return _look(picture, model, folder, journal, force=force and wanted, thorough=thorough and wanted)

    pictures = manifest.pictures
    items: list[Planned] = []
    elsewhere: list[Found] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for begin in range(0, len(pictures), _AT_A_TIME):
            some = pictures[begin : begin + _AT_A_TIME]
            for item, found in pool.map(look, some) if thorough else map(look, some):
                items.append(item)
                if found is not None:
                    elsewhere.append(found)
            if heard is not None:
                heard(len(items), len(pictures))
    plan = Plan(manifest, folder, tuple(items), journal, ids)
    return _with_sources(plan, elsewhere, force=force, thorough=thorough)


def _with_sources(plan: Plan, elsewhere: Sequence[Found], *, force: bool, thorough: bool) -> Plan:
    """The plan, and where those pictures lie that are not in their places. `elsewhere`: what stands there instead."""
    forced = {item.picture.output for item in plan.chosen} if force else set()
    wanted = [
        Wanted(item.fingerprint, item.picture.output, item.picture.keep)
        for item in plan.items
        if item.sidecar is None and item.picture.output not in forced
    ]
    sources: dict[str, Source] = {}
    if wanted:
        outputs = {item.picture.output for item in plan.items}
        found = [*elsewhere, *done.find_all(plan.folder, outputs)]
        in_place = {
            item.fingerprint: Source(item.picture.output, item.picture.keep) for item in plan.items if item.sidecar
        }
        sources = sourcing.choose(plan.folder, wanted, found, in_place, thorough=thorough)
    brought = replace(plan, items=tuple(_with_source(item, sources.get(item.picture.output)) for item in plan.items))
    return brought.updated(_twins(brought.to_render()))


def _with_source(item: Planned, source: Source | None) -> Planned:
    if source is None:
        return item
    note = f"rendered already, as {source.output}"
    if source.output == item.picture.output:
        note = "its format or what it embeds has changed"
    return replace(item, state="to do", note=note, suspect=False, source=source)


def _twins(to_render: Sequence[Planned]) -> dict[str, Planned]:
    """Pictures of one fingerprint: one is rendered, from whose file the others can be made."""
    firsts: dict[str, Planned] = {}
    for item in sorted(to_render, key=lambda item: item.picture.keep.format == "jpeg"):
        firsts.setdefault(item.fingerprint, item)
    return {
        item.picture.id: replace(item, twin=first.picture.id, note=f"the same as {first.picture.id}")
        for item in to_render
        if (first := firsts[item.fingerprint]) is not item and can_become(first.picture.keep, item.picture.keep)
    }


def choose(manifest: Manifest, only: Sequence[str]) -> frozenset[str]:
    """The ids of the pictures that `only` names: by picture or job id, or by patterns of them like `moon*`."""
    named = set(only)
    patterns = [re.compile(fnmatch.translate(name)) for name in only if glob.has_magic(name)]
    return frozenset(
        picture.id
        for picture in manifest.pictures
        if not named.isdisjoint(names := (picture.id, picture.place.job_id))
        or any(pattern.match(name) for pattern in patterns for name in names)
    )


def check_chosen(manifests: Sequence[Manifest], only: Sequence[str]) -> None:
    """Raise `UsageError` for a name or pattern in `only` that no picture of any of the manifests has."""
    if unknown := [name for name in only if not any(choose(manifest, [name]) for manifest in manifests)]:
        files = ", ".join(manifest.file for manifest in manifests)
        raise UsageError(f"{files} has no picture or job {', '.join(unknown)}", hint="renderer plan lists them")


def look_again(plan: Plan, positions: Iterable[int]) -> list[Planned]:
    """The pictures at some positions of a plan, held against their places as they are now and the journal as read."""
    items = (plan.items[position] for position in positions)
    return [
        _look(item.picture, item.model, plan.folder, plan.journal, force=False, thorough=False)[0] for item in items
    ]


def _look(
    picture: Picture, model: ModelIdentity, folder: OutputFolder, journal: Journal, *, force: bool, thorough: bool
) -> tuple[Planned, Found | None]:
    """A picture by what stands in its place; and what does, where that is not the picture as it is to be."""
    mark = fingerprint(picture.job, model)
    found = done.find(folder, picture.output)
    if force:
        return Planned(picture, model, mark, "to do", "rendered anew on request"), found
    note = ""
    if found is not None:
        if found.fingerprint != mark:
            note = "the job has changed"
        elif found.keep != picture.keep:
            note = "its format or what it embeds has changed"
        elif found.is_whole(folder, thorough=thorough):
            return Planned(picture, model, mark, "done", sidecar=found.of(picture.job)), None
        else:
            note = "the file is not what its sidecar says"
    record = journal.record(mark)
    if record.set_aside:
        note = f"brought down {MAX_CRASHES} workers: {record.failure}; --force tries again"
        return Planned(picture, model, mark, "set aside", note), found
    if record.failure:
        return Planned(picture, model, mark, "failed", record.failure, suspect=record.crashes > 0), found
    return Planned(picture, model, mark, "to do", note, suspect=record.left_open), found


# ---- which profile ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """A profile, a setup's `vram_bytes` with it, and why it was chosen."""

    profile: Profile
    vram_bytes: int | None
    reason: str


def choose_profile(
    model: Model, precision: Precision, machine: Machine, wanted: Profile | None = None, vram_bytes: int | None = None
) -> Choice:
    """How `model` is to be placed on `machine`: as `wanted`, or streamed, which suits every card.

    `vram_bytes` bounds what all of it may take on the GPU. Whether it can be streamed at all is `why_not_streamed`'s
    business. Raises `MachineError` where it cannot run, or where `wanted` needs what is not there.
    """
    gpu = machine.gpu
    if wanted == "cpu":
        return Choice("cpu", vram_bytes, "asked for")
    if gpu is None and model.id == catalog.DEMO.id and wanted in (None, "stream"):
        return Choice("stream", vram_bytes, "no GPU, and the demo model is small: its blocks stream on the CPU")
    if gpu is None:
        message = f"{model.id} needs an NVIDIA GPU, and this machine shows none"
        raise MachineError(message, hint="run renderer doctor to see why; or rehearse with the demo model: --proof")
    if wanted is None or wanted == "stream":
        there = host.blocks_in_memory(shape_of(model), stored(precision), machine.ram_free_bytes)
        waiting = "host memory" if there else "the disk"
        return Choice("stream", vram_bytes, f"blocks come from {waiting} to the pictures on {gpu.name}")
    if wanted == "fp8" and precision == "bf16":
        message = f"profile fp8 keeps weights in FP8, and this job asks for {precision}"
        raise MachineError(message, hint="--precision fp8, or --profile resident or disk")
    if wanted in _BOUNDED:
        vram_bytes = max(GIB, (gpu.total_bytes if vram_bytes is None else vram_bytes) - _OFFLOAD_MARGIN_BYTES)
    return Choice(wanted, vram_bytes, "asked for")


def why_not_streamed(jobs: Sequence[Job]) -> str:
    """Why `jobs`, which are of one model and precision, cannot be streamed, in words; empty where they can.

    The one place that knows: what a job can ask for and the streaming engine does not do yet gets a line here.
    """
    job = jobs[0]
    return streamable.obstacle(catalog.find(job.model), stored(job.precision))


def setup_for(jobs: Sequence[Job], machine: Machine, wanted: Profile | None, vram_bytes: int | None = None) -> Setup:
    """What a worker has to open for `jobs`, which are of one model and precision.

    What cannot be streamed falls back to the native engine. `vram_bytes` bounds what it may take on the GPU. Raises
    `ModelError` and `MachineError`, also where `wanted` is `stream` and that cannot be.
    """
    job = jobs[0]
    model = catalog.find(job.model)
    soundness.check(model)
    if vram_bytes is None and machine.gpu is not None and machine.gpu.memory == "host":
        vram_bytes = machine.gpu.free_bytes  # the driver would let it take the host's share too
    choice = choose_profile(model, job.precision, machine, wanted, vram_bytes)
    reason = why_not_streamed(jobs) if choice.profile == "stream" else ""
    if reason and wanted == "stream":
        message = f"{model.id} cannot be streamed: {reason}"
        raise MachineError(
            message, hint="without --profile stream it is rendered by the native engine, which is slower"
        )
    if reason:
        native = _native_profile(jobs, machine, vram_bytes)
        choice = choose_profile(model, job.precision, machine, native, vram_bytes)
    streamed = choice.profile == "stream" and model.id != catalog.DEMO.id
    return Setup(
        model=job.model,
        precision=job.precision,
        profile=choice.profile,
        instead_of_streaming=reason or None,
        vram_bytes=choice.vram_bytes,
        store=str(packed_folder(model, stored(job.precision))) if streamed else None,
        demands=_demands(jobs) if choice.profile == "stream" else (),
        gpu=machine.visible,
    )


def _native_profile(jobs: Sequence[Job], machine: Machine, vram_bytes: int | None) -> Profile:
    """The fastest of the native engine's profiles that fits: all weights on the GPU, else below a limit."""
    job, available = jobs[0], allocator_bytes(machine, vram_bytes)
    if machine.gpu is not None and available is not None:
        kernels = Kernels.of(machine.gpu.compute_capability)
        resident = Native(shape_of(catalog.find(job.model)), stored(job.precision), "resident", None, kernels)
        if max(map(resident.needed, map(Work.of, jobs))) <= available:
            return "resident"
    return "disk" if stored(job.precision) == "bf16" else "fp8"


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
class Refusal:
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


def refusals(jobs: Sequence[Job], setup: Setup, machine: Machine) -> dict[Job, Refusal]:
    """Which of a setup's jobs cannot be rendered on this machine in any way. They cost nothing, and stop nobody."""
    available = available_bytes(setup, machine)
    if available is None or setup.profile == "cpu":
        return {}
    model, streaming = catalog.find(setup.model), streaming_of(setup, machine)
    found: dict[Work, Refusal | None] = {}

    def look(work: Work) -> Refusal | None:
        if setup.profile == "stream":
            if decide.place(streaming, work, available):
                return None
            least = decide.least(streaming, [work.tiling()])
            nearest = decide.nearest_fitting(streaming, model, work, available)
            return Refusal(Size(width=work.width, height=work.height), least, available, nearest)
        native = Native(streaming.shape, setup.stored, setup.profile, setup.vram_bytes, streaming.kernels)
        least = native.needed(work)
        size = Size(width=work.width, height=work.height)
        return Refusal(size, least, available, None) if least > available else None

    refused: dict[Job, Refusal] = {}
    for job in jobs:
        work = Work.of(job)
        if work not in found:
            found[work] = look(work)
        if (refusal := found[work]) is not None:
            refused[job] = refusal
    return refused


def decide_for(setup: Setup, machine: Machine, **more: Any) -> Decision:
    """What a setup's demands are rendered with on this machine, by the function that the engine asks as well."""
    works = [Work(**demand.model_dump()) for demand in setup.demands]
    available = available_bytes(setup, machine)
    return decide.decide(streaming_of(setup, machine), works, available, slots=setup.slots, **more)
