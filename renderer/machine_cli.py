"""The door to what this machine is: `renderer doctor`.

Words and exit codes for what `doctor` finds. Whatever takes time to import is imported by the command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from renderer.errors import EXIT_DONE, EXIT_MACHINE

if TYPE_CHECKING:
    from renderer import doctor


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Give the parser its command."""
    parser = commands.add_parser("doctor", help="say what this machine is, and what it can render")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from renderer import doctor  # noqa: PLC0415

    found = doctor.examine(options.outputs)
    if options.json:
        print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(found)))
    return EXIT_MACHINE if any(finding.fatal for finding in found.findings) else EXIT_DONE


def _lines(found: doctor.Diagnosis) -> Iterator[str]:
    from renderer.words import gib  # noqa: PLC0415

    here, torch = found.machine, found.torch
    cores = f"{here.cpus} core" if here.cpus == 1 else f"{here.cpus} cores"
    yield f"memory     {gib(here.ram_bytes)}, {gib(here.ram_free_bytes)} free; {cores}"
    yield f"disk       {gib(found.free_disk_bytes)} free for outputs"
    for gpu in here.gpus:
        capability = ".".join(map(str, gpu.compute_capability))
        yield f"GPU {gpu.index}      {gpu.name}, {gib(gpu.total_bytes)}, {gib(gpu.free_bytes)} free, cc {capability}"
        yield f"           driver {gpu.driver}"
    versions = (f"{name} {torch.get(name) or '?'}" for name in ("python", "torch", "cuda", "diffsynth", "transformers"))
    yield f"software   {', '.join(versions)}"
    for gpu in torch.get("gpus") or ():
        yield f"torch      sees {gpu.get('name')}: a kernel ran: {gpu.get('kernel')}; FP8 product: {gpu.get('fp8')}"
    for model, where in found.models.items():
        yield f"model      {model}: {where}"
    for what, profile in found.profiles.items():
        yield f"profile    {what}: {profile}"
    for finding in found.findings:
        yield f"{'PROBLEM' if finding.fatal else 'note':10} {finding.message}"
        if finding.hint:
            yield f"           {finding.hint}"
