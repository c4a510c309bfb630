"""What this machine is, what it can render, how fast, and why: gathered for `renderer doctor`. Prints nothing.

What is wrong with it, `findings` says of what was gathered.
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from renderer import catalog
from renderer.catalog import Model, cards
from renderer.catalog.cards import Card
from renderer.doctor import findings
from renderer.doctor.finding import Facts, Finding
from renderer.errors import MachineError
from renderer.estimate import Kernels, Streaming, Work, decide, duration, host, shape_of
from renderer.estimate.memory import TURNING_SLOTS
from renderer.job import Stored
from renderer.job.precisions import DEFAULT_PRECISION, stored
from renderer.machine import hardware, processor, rates
from renderer.machine.hardware import Machine
from renderer.machine.processor import WITH_UNITS, Processor
from renderer.machine.rates import Rates
from renderer.planning import fitting, placement
from renderer.system import folders
from renderer.text import GIB
from renderer.weights import needs, places
from renderer.weights.needs import Need

Forecaster = Callable[[Machine, Rates], Mapping[str, str]]
"""What a picture takes on a machine of such rates, a line each by what it is of."""


ROUNDED_S = 10
"""From here on nobody wants parts of a second."""

FORECAST_SIDES = (1328, 512)
"""Of the pictures that are forecast: the model's own size, and a small one."""

LIMITS: Mapping[duration.Limit, str] = MappingProxyType(
    {
        "arithmetic": "the GPU's arithmetic",
        "launches": "the host's launching of kernels",
        "bus": "the bus",
        "disk": "the disk: host memory does not hold the blocks",
    }
)


@dataclass(frozen=True, slots=True)
class OtherGpu:
    """One of the GPUs besides the first: `rates` are measured, or its card's; `forecasts` what pictures take there.

    `torch` is the probe's answer from that GPU.
    """

    machine: Machine
    torch: dict[str, Any]
    rates: Rates | None
    card: Card | None
    forecasts: Mapping[str, str]

    @property
    def index(self) -> int:
        """Its number."""
        return self.machine.gpus[0].index

    @property
    def name(self) -> str:
        """Its card's name, with the first part of its UUID."""
        return self.machine.gpus[0].described

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "index": self.index,
            "name": self.name,
            "torch": self.torch,
            "card": None if self.card is None else dataclasses.asdict(self.card),
            "rates": None if self.rates is None else self.rates.model_dump(),
            "forecasts": dict(self.forecasts),
        }


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found. `torch` is the probe's answer as it came; `profiles` holds a line a model and precision.

    `rates` are measured; on a machine that gives none, its card's, if that is in the table. `card` is the row of the
    first GPU, `forecasts` what pictures take at these rates; `others` say the same of the other GPUs.
    """

    machine: Machine
    free_disk_bytes: int
    torch: dict[str, Any]
    profiles: dict[str, str]
    models: dict[str, str]
    findings: tuple[Finding, ...]
    rates: Rates | None = None
    card: Card | None = None
    forecasts: Mapping[str, str] = field(default_factory=dict)
    processor: Processor = WITH_UNITS
    others: tuple[OtherGpu, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON-ready values."""
        here = dataclasses.asdict(self.machine)
        for gpu, told in zip(self.machine.gpus, here["gpus"], strict=True):
            told["compute_capability"] = ".".join(map(str, gpu.compute_capability))
            told["short_uuid"] = gpu.short_uuid
            del told["uuid"]
        if here["cuda"] is not None:
            here["cuda"] = ".".join(map(str, here["cuda"]))
        return {
            "python": platform.python_version(),
            **here,
            "free_disk_bytes": self.free_disk_bytes,
            "processor": {**dataclasses.asdict(self.processor), "arithmetic": self.processor.arithmetic},
            "torch": self.torch,
            "card": None if self.card is None else dataclasses.asdict(self.card),
            "rates": None if self.rates is None else self.rates.model_dump(),
            "others": [each.as_dict() for each in self.others],
            "forecasts": dict(self.forecasts),
            "profiles": self.profiles,
            "models": self.models,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }


def pictures(here: Machine, known: Rates) -> dict[str, str]:
    """What a large and a small picture of Qwen-Image take when many of them are streamed, by arithmetic.

    Empty where there is no GPU.
    """
    available = fitting.allocator_bytes(here)
    if here.gpu is None or available is None:
        return {}
    model, kernels = catalog.QWEN_IMAGE, Kernels.of(here.gpu.compute_capability)
    shape = shape_of(model)
    precisions: tuple[Stored, ...] = get_args(Stored)
    found = {}
    for precision in precisions:
        streaming = Streaming(shape, precision, TURNING_SLOTS, kernels)
        from_disk = not host.blocks_in_memory(shape, precision, here.ram_free_bytes)
        for side in FORECAST_SIDES:
            found[f"{side}x{side}, {precision}"] = _picture(
                streaming, Work(side, side), available, known, from_disk, model.steps
            )
    return found


def _picture(streaming: Streaming, work: Work, available: int, known: Rates, from_disk: bool, steps: int) -> str:  # noqa: FBT001
    decision = decide.decide(streaming, [decide.Series(work)], available, rates=known, from_disk=from_disk)
    if decision.refused:
        return "does not fit"
    company = decision.in_flight
    sweep = duration.sweep(replace(streaming, slots=decision.slots), [work] * company, known, from_disk=from_disk)
    step_s = sweep.seconds / company
    picture_s = steps * step_s + duration.decode_seconds(streaming.shape, work, known)
    return (
        f"{_brief(step_s)} a step, {_brief(picture_s)} a picture of {steps} steps; {decision.slots} of "
        f"{streaming.shape.layers} blocks on the GPU, {company} in flight, limited by {LIMITS[sweep.limit]}"
    )


def _brief(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < ROUNDED_S else f"{seconds:.0f} s"


def examine(outputs: Path, forecast: Forecaster = pictures) -> Diagnosis:
    """Look at everything a batch needs, and measure how fast it is. Takes some seconds, in child processes.

    `forecast` turns the machine and its rates into lines about pictures.
    """
    here = hardware.look()
    torch, card, measured, figures = _look(here)
    free_disk_bytes = hardware.free_disk_bytes(outputs)
    facts = Facts(
        machine=here,
        torch=torch,
        rates=measured,
        card=card,
        swept_bytes=catalog.QWEN_IMAGE.gpu_bytes[stored(DEFAULT_PRECISION)] // 2 + 4 * GIB,
        outputs_free_bytes=free_disk_bytes,
        models_free_bytes=hardware.free_disk_bytes(folders.models_folder()),
        cache_trouble=_cache_trouble(folders.cache_folder()),
        processor=processor.look(),
        cache_moved=None if (usual := folders.cache_instead_of()) is None else (folders.cache_folder(), usual),
    )
    others, more = _others(here, facts, forecast)
    return Diagnosis(
        machine=here,
        free_disk_bytes=free_disk_bytes,
        torch=torch,
        processor=facts.processor,
        profiles={
            f"{model.id} {precision}": _profile(model, precision, here)
            for model in catalog.MODELS.values()
            if not model.unfit
            for precision in get_args(Stored)
        },
        models={model.id: _whereabouts(model) for model in catalog.MODELS.values()},
        findings=(*findings.find(facts), *more),
        rates=figures,
        others=others,
        card=card,
        forecasts=forecast(here, figures) if figures else {},
    )


def _look(here: Machine) -> tuple[dict[str, Any], Card | None, Rates | str, Rates | None]:
    """What torch makes of the GPU that renders, its card, its rates or why there are none, and those that are known."""
    torch = hardware.ask("renderer.engine.probe", here)
    card = cards.of_gpu(here.gpu.name, here.gpu.total_bytes) if here.gpu else None
    measured: Rates | str
    try:
        measured = rates.measure(here)
    except MachineError as error:
        measured = error.message
    return torch, card, measured, measured if isinstance(measured, Rates) else rates.of_card(card) if card else None


def _others(here: Machine, facts: Facts, forecast: Forecaster) -> tuple[tuple[OtherGpu, ...], tuple[Finding, ...]]:
    """The other GPUs, examined as the first one, with what is wrong with them; their rates are kept for plans."""
    if len(here.gpus) < 2:  # noqa: PLR2004
        return (), ()
    found: list[OtherGpu] = []
    wrong: list[Finding] = []
    for gpu in here.gpus[1:]:
        label = f"GPU {gpu.index}"
        if not gpu.uuid:
            wrong.append(Finding(f"{label} does not tell its UUID", "no worker can be bound to it", ""))
            continue
        there = replace(here, gpus=(gpu,), chosen=True)
        torch, card, measured, figures = _look(there)
        found.append(OtherGpu(there, torch, figures, card, forecast(there, figures) if figures else {}))
        wrong += findings.of_gpu(label, replace(facts, machine=there, torch=torch, rates=measured, card=card))
    return tuple(found), tuple(wrong)


def _cache_trouble(folder: Path) -> str:
    """Why nothing can be kept in the cache, or an empty string: found by writing a file and deleting it."""
    trial = folder / f"trial-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"trial")
        trial.unlink()
    except OSError as error:
        return f"{folder}: {error.strerror or error}"
    return ""


def _profile(model: Model, precision: Stored, here: Machine) -> str:
    try:
        choice = placement.choose_profile(model, precision, here)
    except MachineError as error:
        return f"none: {error.message}"
    return f"{choice.profile}: {choice.reason}"


def _whereabouts(model: Model) -> str:
    if model.is_embedded:
        return "comes with the package"
    precisions: tuple[Stored, ...] = get_args(Stored)
    packed = [each for each in precisions if needs.is_met(Need(model=model.id, store=each))]
    stores = f"packed in {' and '.join(packed)}" if packed else ""
    found = places.look(model)
    if not found.lacking:
        kinds = ", ".join(sorted({each.kind for each in found.found} - {"given"}))
        return ("here" + f", in the {kinds}" * bool(kinds)) + (f"; {stores}" if stores else "")
    if stores:
        return stores
    if not found.found:
        return "not here: renderer models pull fetches it, or the first render does"
    return f"incomplete: no {', '.join(lack.part.role for lack in found.lacking)}"
