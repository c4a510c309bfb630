"""Jobs, machine and what is finished ▶ what will be rendered, in which order, by which profile, until when.

Reads sidecars and the journal; writes nothing, starts nothing, imports no torch.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from renderer import artifacts, catalog
from renderer.artifacts import OutputFolder
from renderer.catalog import Model
from renderer.errors import MachineError, UsageError
from renderer.events import Setup
from renderer.job import Job, ModelIdentity, Picture, Precision, Profile, Sidecar, fingerprint
from renderer.journal import MAX_CRASHES, Journal
from renderer.machine import Machine
from renderer.manifest import Manifest
from renderer.weights.identity import identify
from renderer.weights.places import packed_folder

State = Literal["done", "to do", "failed", "set aside"]

GIB = 2**30
_OFFLOAD_MARGIN_BYTES = 3 * GIB // 2  # what DiffSynth's weights leave free under `vram_limit`


@dataclass(frozen=True, slots=True)
class Planned:
    """One picture and what is to happen to it. `note` says why it is not done, when there is more to say than that."""

    picture: Picture
    model: ModelIdentity
    fingerprint: str
    state: State
    note: str = ""
    suspect: bool = False
    sidecar: Sidecar | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One manifest against its output folder. `items` are in the manifest's order."""

    manifest: Manifest
    folder: OutputFolder
    items: tuple[Planned, ...]
    journal: Journal

    def to_render(self) -> list[Planned]:
        """What will be rendered, in order: by model and precision as first met, and suspects after everybody else."""
        met: dict[tuple[str, Precision], int] = {}
        for item in self.items:
            met.setdefault((item.picture.job.model, item.picture.job.precision), len(met))

        def rank(item: Planned) -> tuple[int, bool]:
            return met[item.picture.job.model, item.picture.job.precision], item.suspect

        return sorted((item for item in self.items if item.state in ("to do", "failed")), key=rank)

    def count(self, state: State) -> int:
        return sum(item.state == state for item in self.items)


def make_plan(
    manifest: Manifest,
    outputs: Path,
    *,
    only: Sequence[str] = (),
    force: bool = False,
    thorough: bool = False,
) -> Plan:
    """Hold a manifest against its output folder.

    `only` keeps pictures by picture or job id; `force` takes nothing for done; `thorough` compares every finished
    file's SHA-256, as a run must before it skips one.

    Raises `UsageError` for an id that no picture has, `ModelError` for a model that is not there.
    """
    folder = OutputFolder(outputs / manifest.name)
    journal = Journal.read(folder.path)
    identities = {name: identify(catalog.find(name)) for name in {picture.job.model for picture in manifest.pictures}}

    def look(picture: Picture) -> Planned:
        return _planned(picture, identities[picture.job.model], folder, journal, force=force, thorough=thorough)

    pictures = _chosen(manifest, only)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        items = tuple(pool.map(look, pictures)) if thorough else tuple(map(look, pictures))
    return Plan(manifest, folder, items, journal)


def _chosen(manifest: Manifest, only: Sequence[str]) -> Sequence[Picture]:
    if not only:
        return manifest.pictures
    known = {name for picture in manifest.pictures for name in (picture.id, picture.place.job_id)}
    if unknown := [name for name in only if name not in known]:
        raise UsageError(f"{manifest.file} has no picture or job {', '.join(unknown)}", hint="renderer plan lists them")
    wanted = set(only)
    return [picture for picture in manifest.pictures if {picture.id, picture.place.job_id} & wanted]


def _planned(
    picture: Picture, model: ModelIdentity, folder: OutputFolder, journal: Journal, *, force: bool, thorough: bool
) -> Planned:
    mark = fingerprint(picture.job, model)
    if force:
        return Planned(picture, model, mark, "to do", "rendered anew on request")
    if sidecar := artifacts.finished(folder, picture.output, mark, thorough=thorough, keep=picture.keep):
        return Planned(picture, model, mark, "done", sidecar=sidecar)
    record = journal.record(mark)
    if record.set_aside:
        note = f"brought down {MAX_CRASHES} workers: {record.failure}; --force tries again"
        return Planned(picture, model, mark, "set aside", note)
    if record.failure:
        return Planned(picture, model, mark, "failed", record.failure, suspect=record.crashes > 0)
    note = _why_not_done(folder, picture, mark)
    return Planned(picture, model, mark, "to do", note, suspect=record.left_open)


def _why_not_done(folder: OutputFolder, picture: Picture, mark: str) -> str:
    sidecar = artifacts.read_sidecar(folder.sidecar(picture.output))
    if sidecar is None:
        return ""
    if sidecar.fingerprint != mark:
        return "the job has changed"
    return (
        "its format or what it embeds has changed"
        if sidecar.keep != picture.keep
        else "the file is not what its sidecar says"
    )


# ---- which profile ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """A profile, the bytes of GPU memory it may take (None: all there is), and why it was chosen."""

    profile: Profile
    vram_bytes: int | None
    reason: str


def choose_profile(model: Model, precision: Precision, machine: Machine, wanted: Profile | None = None) -> Choice:
    """How `model` is to be placed on `machine`: as `wanted`, or streamed, which suits every card.

    Raises `MachineError` when it cannot run at all, or when `wanted` needs what is not there.
    """
    gpu = machine.gpu
    if wanted == "cpu":
        return Choice("cpu", None, "asked for")
    if gpu is None and model.id == catalog.DEMO.id and wanted in (None, "stream"):
        return Choice("stream", None, "no GPU, and the demo model is small: its blocks stream on the CPU")
    if gpu is None:
        message = f"{model.id} needs an NVIDIA GPU, and this machine shows none"
        raise MachineError(message, hint="renderer doctor says what it sees; --proof rehearses with the demo model")
    if wanted is None or wanted == "stream":
        swept = model.gpu_bytes[precision] // 2 + 4 * GIB  # the DiT without its modulation is not quite half of it all
        waiting = "host memory" if swept <= machine.ram_free_bytes else "the disk"
        return Choice("stream", None, f"blocks come from {waiting} to the pictures on {gpu.name}")
    if wanted == "fp8" and precision != "fp8":
        message = f"profile fp8 keeps weights in FP8, and this job asks for {precision}"
        raise MachineError(message, hint="--precision fp8, or --profile resident or disk")
    limit = max(GIB, gpu.total_bytes - _OFFLOAD_MARGIN_BYTES)
    return Choice(wanted, None if wanted == "resident" else limit, "asked for")


def setup_for(job: Job, machine: Machine, wanted: Profile | None, vram_bytes: int | None = None) -> Setup:
    """What a worker has to open for `job`. `vram_bytes` bounds what it may take on the GPU.

    Raises `ModelError` and `MachineError`.
    """
    model = catalog.find(job.model)
    choice = choose_profile(model, job.precision, machine, wanted)
    streamed = choice.profile == "stream" and model.id != catalog.DEMO.id
    return Setup(
        model=job.model,
        precision=job.precision,
        profile=choice.profile,
        vram_bytes=vram_bytes if vram_bytes is not None else choice.vram_bytes,
        store=str(packed_folder(model, job.precision)) if streamed else None,
    )


# ---- how long --------------------------------------------------------------------------------------------------------


class Pace:
    """Seconds a picture takes, learnt from pictures that were rendered the same way.

    A picture's time is taken as proportional to its steps, passes and pixels: right within the sizes of one batch.
    """

    def __init__(self, sidecars: Iterable[Sidecar] = ()) -> None:
        self._rates: dict[tuple[str, Precision, Profile], list[float]] = {}
        for sidecar in sidecars:
            self.learn(sidecar)

    def learn(self, sidecar: Sidecar) -> None:
        if sidecar.timing.total_s is not None:
            key = (sidecar.model.id, sidecar.job.precision, sidecar.engine.profile)
            self._rates.setdefault(key, []).append(sidecar.timing.total_s / _work(sidecar.job))

    def expect_of(self, sidecar: Sidecar) -> float | None:
        """Seconds a picture like this one will take; None when nothing like it has been measured."""
        rates = self._rates.get((sidecar.model.id, sidecar.job.precision, sidecar.engine.profile))
        return statistics.median(rates[-50:]) * _work(sidecar.job) if rates else None

    def expect_s(self, item: Planned, profile: Profile) -> float | None:
        """Seconds a picture will take; None when nothing like it has been measured."""
        job = item.picture.job
        rates = self._rates.get((item.model.id, job.precision, profile))
        return statistics.median(rates[-50:]) * _work(job) if rates else None


def _work(job: Job) -> float:
    passes = 1 if job.cfg_scale == 1 else 2
    return float(job.num_inference_steps * passes * job.width * job.height)
