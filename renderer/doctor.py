"""What this machine is, what it can render, and why: gathered for `renderer doctor`. Prints nothing."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from renderer import catalog, machine, plan
from renderer.catalog import Model
from renderer.errors import MachineError
from renderer.job import Precision
from renderer.machine import Machine
from renderer.weights import needs, places
from renderer.weights.needs import Need

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or worth knowing, what it means, and what to do. `fatal` ones forbid rendering."""

    message: str
    hint: str = ""
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found. `torch` is the probe's answer as it came; `profiles` holds a line a model and precision."""

    machine: Machine
    free_disk_bytes: int
    torch: dict[str, Any]
    profiles: dict[str, str]
    models: dict[str, str]
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON-ready values."""
        here = self.machine
        return {
            "python": platform.python_version(),
            "cpus": here.cpus,
            "ram_bytes": here.ram_bytes,
            "ram_free_bytes": here.ram_free_bytes,
            "free_disk_bytes": self.free_disk_bytes,
            "gpus": [
                {
                    "name": gpu.name,
                    "total_bytes": gpu.total_bytes,
                    "free_bytes": gpu.free_bytes,
                    "driver": gpu.driver,
                    "compute_capability": ".".join(map(str, gpu.compute_capability)),
                }
                for gpu in here.gpus
            ],
            "torch": self.torch,
            "profiles": self.profiles,
            "models": self.models,
            "findings": [
                {"message": finding.message, "hint": finding.hint, "fatal": finding.fatal} for finding in self.findings
            ],
        }


def examine(outputs: Path) -> Diagnosis:
    """Look at everything a batch needs. Takes some seconds: torch is asked in a child process."""
    here = machine.look()
    torch = machine.ask_torch()
    profiles = {
        f"{model.id} {precision}": _profile(model, precision, here)
        for model in catalog.MODELS.values()
        if not model.unfit
        for precision in get_args(Precision)
    }
    return Diagnosis(
        machine=here,
        free_disk_bytes=machine.free_disk_bytes(outputs),
        torch=torch,
        profiles=profiles,
        models={model.id: _whereabouts(model) for model in catalog.MODELS.values()},
        findings=tuple(_findings(here, torch)),
    )


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


def _findings(here: Machine, torch: dict[str, Any]) -> list[Finding]:
    found: list[Finding] = []
    if error := torch.get("error"):
        found.append(Finding(f"torch cannot be asked: {error}", "rm -rf .venv and run make setup", fatal=True))
    for library, trouble in (torch.get("troubles") or {}).items():
        found.append(
            Finding(f"{library}: {trouble}", "versions are held by constraints.txt: run make setup", fatal=True)
        )
    if not here.gpus:
        found.append(Finding("no NVIDIA GPU is visible", "only the demo model renders here (--proof)"))
    elif not torch.get("gpus"):
        hint = "a driver older than torch's CUDA, or a torch without CUDA: see the driver's release notes"
        found.append(Finding("the driver shows a GPU, but torch sees none", hint, fatal=True))
    for gpu in torch.get("gpus") or ():
        if gpu.get("kernel") != "ok":
            hint = "this torch was not built for this card; install one that was"
            found.append(Finding(f"{gpu.get('name')}: a kernel did not run: {gpu.get('kernel')}", hint, fatal=True))
    if here.gpu and here.gpu.free_bytes < here.gpu.total_bytes * 0.9:
        used = (here.gpu.total_bytes - here.gpu.free_bytes) / GIB
        found.append(Finding(f"{used:.1f} GiB of {here.gpu.name} are in use by others", "nvidia-smi shows by whom"))
    return found
