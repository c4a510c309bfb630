"""What this machine is, what it can render, how fast, and why: gathered for `renderer doctor`. Prints nothing.

What is wrong with it, `findings` says of what was gathered.
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from renderer import catalog, findings, machine, plan, rates
from renderer.catalog import Model, cards
from renderer.catalog.cards import Card
from renderer.errors import MachineError
from renderer.findings import GIB, Facts, Finding
from renderer.job import Precision
from renderer.machine import Machine
from renderer.rates import Rates
from renderer.weights import needs, places
from renderer.weights.needs import Need

Forecast = Callable[[Machine, Rates], Mapping[str, str]]
"""What a picture takes on a machine of such rates, a line each by what it is of."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found. `torch` is the probe's answer as it came; `profiles` holds a line a model and precision.

    `rates` are measured; on a machine that gives none, its card's, if that is in the table. `card` is the row of the
    first GPU, `forecasts` what the caller's forecast says.
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

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON-ready values."""
        here = dataclasses.asdict(self.machine)
        for gpu in here["gpus"]:
            gpu["compute_capability"] = ".".join(map(str, gpu["compute_capability"]))
            del gpu["uuid"]
        if here["cuda"] is not None:
            here["cuda"] = ".".join(map(str, here["cuda"]))
        return {
            "python": platform.python_version(),
            **here,
            "free_disk_bytes": self.free_disk_bytes,
            "torch": self.torch,
            "card": None if self.card is None else dataclasses.asdict(self.card),
            "rates": None if self.rates is None else self.rates.model_dump(),
            "forecasts": dict(self.forecasts),
            "profiles": self.profiles,
            "models": self.models,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }


def examine(outputs: Path, forecast: Forecast | None = None) -> Diagnosis:
    """Look at everything a batch needs, and measure how fast it is. Takes some seconds, in child processes.

    `forecast` turns the machine and its rates into lines about pictures.
    """
    here = machine.look()
    torch = machine.ask_torch()
    card = cards.of_gpu(here.gpu.name, here.gpu.total_bytes) if here.gpu else None
    measured: Rates | str
    try:
        measured = rates.measure(here)
    except MachineError as error:
        measured = error.message
    figures = measured if isinstance(measured, Rates) else rates.of_card(card) if card else None
    free_disk_bytes = machine.free_disk_bytes(outputs)
    facts = Facts(
        machine=here,
        torch=torch,
        rates=measured,
        card=card,
        swept_bytes=catalog.QWEN_IMAGE.gpu_bytes["fp8"] // 2 + 4 * GIB,
        outputs_free_bytes=free_disk_bytes,
        models_free_bytes=machine.free_disk_bytes(places.models_folder()),
        cache_trouble=_cache_trouble(machine.cache_folder()),
    )
    return Diagnosis(
        machine=here,
        free_disk_bytes=free_disk_bytes,
        torch=torch,
        profiles={
            f"{model.id} {precision}": _profile(model, precision, here)
            for model in catalog.MODELS.values()
            if not model.unfit
            for precision in get_args(Precision)
        },
        models={model.id: _whereabouts(model) for model in catalog.MODELS.values()},
        findings=findings.find(facts),
        rates=figures,
        card=card,
        forecasts=forecast(here, figures) if forecast and figures else {},
    )


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


def _profile(model: Model, precision: Precision, here: Machine) -> str:
    try:
        choice = plan.choose_profile(model, precision, here)
    except MachineError as error:
        return f"none: {error.message}"
    return f"{choice.profile}: {choice.reason}"


def _whereabouts(model: Model) -> str:
    if model.id == catalog.DEMO.id:
        return "comes with the package"
    precisions: tuple[Precision, ...] = get_args(Precision)
    packed = [each for each in precisions if needs.is_met(Need(model=model.id, store=each))]
    stores = f"packed in {' and '.join(packed)}" if packed else ""
    found = places.look(model)
    if not found.lacking:
        kinds = ", ".join(sorted({each.kind for each in found.found}))
        return f"here, in the {kinds}" + (f"; {stores}" if stores else "")
    if stores:
        return stores
    if not found.found:
        return "not here: renderer models pull fetches it, or the first render does"
    return f"incomplete: no {', '.join(lack.part.role for lack in found.lacking)}"
