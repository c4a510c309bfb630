"""Which devices of this machine render, a worker on each: GPUs by number or UUID, or the CPU, as often as it is named.

Each is the machine as its worker sees it: one GPU, or none. Starts nothing. Knows no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from renderer.errors import UsageError
from renderer.machine.gpus import LocalGpu
from renderer.machine.hardware import Machine
from renderer.system import shared_memory

ALL, CPU = "all", "cpu"

_SHORT = 8
"""Signs of a UUID that stand behind a card's name."""

NO_GPU = ""
"""What CUDA_VISIBLE_DEVICES is for a worker that is to use none."""

MOST_WORKERS = 64
"""More than any machine has GPUs: what is named beyond it is a slip."""


@dataclass(frozen=True, slots=True)
class WorkerDevice:
    """A device, and the machine as a worker there sees it. `label` tells it from the others; empty where it is alone.

    `number` counts the devices that render, from 0.
    """

    machine: Machine
    number: int = 0
    label: str = ""


def choose(asked: str | None, here: Machine) -> tuple[WorkerDevice, ...]:
    """The devices that are asked for: `all`, numbers and UUIDs like `0,GPU-5d3f`, or `cpu,cpu`; None: one that suits.

    Numbers are those that `renderer doctor` shows. Of a UUID its beginning is enough, or the eight signs of it that
    stand behind a card's name. Raises `UsageError` for what this machine has not, and for a GPU that is named twice.
    """
    if asked is None or (asked == ALL and len(here.gpus) < 2):  # noqa: PLR2004
        return (WorkerDevice(here),)
    names = [name.strip() for name in asked.split(",")]
    if len(names) > MOST_WORKERS:
        raise UsageError(f"--gpus names {len(names)} devices; {MOST_WORKERS} are the most")
    if CPU in names:
        if set(names) != {CPU}:
            raise UsageError(f"--gpus {asked}: cpu stands for itself", hint="GPUs alone, or cpu,cpu for two on the CPU")
        return _labelled([_seen(here, None)] * len(names), [f"CPU {number + 1}" for number in range(len(names))])
    gpus = here.gpus if asked == ALL else _named(names, here.gpus)
    return _labelled([_seen(here, gpu) for gpu in gpus], [_label(gpu, gpus) for gpu in gpus])


def _labelled(machines: Sequence[Machine], labels: Sequence[str]) -> tuple[WorkerDevice, ...]:
    """The devices; several share the host's free memory evenly, and the blocks in it where the system lets them."""
    if len(machines) == 1:
        return (WorkerDevice(machines[0]),)
    part = machines[0].ram_free_bytes // len(machines)
    sharers = len(machines) if shared_memory.is_possible() else 1
    shared = (replace(machine, ram_free_bytes=part, sharers=sharers) for machine in machines)
    return tuple(WorkerDevice(machine, number, labels[number]) for number, machine in enumerate(shared))


def _seen(here: Machine, gpu: LocalGpu | None) -> Machine:
    """The machine from one device. Raises `UsageError` for a GPU by whose name no process can be bound to it."""
    if gpu is not None and not gpu.uuid:
        raise UsageError(f"GPU {gpu.index} does not tell its UUID, and no worker can be bound to it")
    return replace(here, gpus=() if gpu is None else (gpu,), chosen=True, without_gpu=gpu is None)


def _named(names: Sequence[str], gpus: Sequence[LocalGpu]) -> list[LocalGpu]:
    found: list[LocalGpu] = []
    for name in names:
        gpu = _find(name, gpus)
        if gpu in found:
            raise UsageError(f"--gpus names GPU {gpu.index} ({gpu.name}) twice", hint="one worker a GPU")
        found.append(gpu)
    return found


def _find(name: str, gpus: Sequence[LocalGpu]) -> LocalGpu:
    if name.isdecimal():
        matching = [gpu for gpu in gpus if gpu.index == int(name)]
    else:
        matching = [gpu for gpu in gpus if name and _begins(gpu.uuid.casefold(), name.casefold())]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise UsageError(f"--gpus {name} means several: {', '.join(gpu.uuid for gpu in matching)}", hint="name one")
    there = ", ".join(f"{gpu.index} ({gpu.name}, {gpu.uuid})" for gpu in gpus) or "none; cpu stands for the CPU"
    parts = any(gpu.mig for gpu in gpus) and not name.isdecimal()
    named = "parts of a split card (MIG) are named by their own UUIDs; " if parts else ""
    raise UsageError(f'this machine shows no GPU "{name}"', hint=f"{named}it shows {there}")


def _begins(uuid: str, name: str) -> bool:
    """Whether a name is the beginning of a UUID, or of what stands in it behind its kind."""
    return uuid.startswith(name) or (len(name) >= _SHORT and uuid.partition("-")[2].startswith(name))


def _label(gpu: LocalGpu, gpus: Sequence[LocalGpu]) -> str:
    """Its number; of a part of a card what of its UUID tells it from the others.

    Before driver 470 that is its end: the card's own, and which of its instances it is.
    """
    alone = sum(other.index == gpu.index for other in gpus) == 1
    _, *places = gpu.uuid.split("/")
    part = f"MIG {'/'.join(places)}" if places else gpu.uuid[:12]
    return f"GPU {gpu.index}" if alone else f"GPU {gpu.index} ({part})"
