"""Which precision suits a machine, where a manifest leaves that to it: by its memory, its card's arithmetic, its bus.

Asks the machine and the model alone, and no folder.
"""

from __future__ import annotations

from dataclasses import replace

from renderer import catalog
from renderer.catalog import Model
from renderer.estimate import decide, duration, shape_of
from renderer.estimate.fitted import CONTEXT_BYTES, LIBRARIES_BYTES
from renderer.estimate.host import has_room
from renderer.estimate.memory import TURNING_SLOTS, Streaming
from renderer.estimate.weights import weight_bytes
from renderer.estimate.work import Kernels, Work
from renderer.job import Precision, Stored
from renderer.machine import rates
from renderer.machine.gpus import LocalGpu
from renderer.machine.hardware import Machine
from renderer.machine.rates import Rates
from renderer.planning.auto import ChosenPrecision
from renderer.protocol import Setup
from renderer.text import gb

FASTER = 1.1
"""How many times as fast `fp8` has to be, so that it is taken although `int8` is three times as exact."""

WORTH_TELLING = 1.25
"""How many times as fast `int8` has to be, so that somebody who renders at `fp8` hears of it."""

MUCH_FASTER = 1.5
"""How many times as fast `int4` has to be for a large picture alone: where a bus is slow."""

_SIDE = 1328
"""Of the picture that they are held against each other by."""

_EIGHT_AND_FOUR: tuple[Stored, Stored] = ("int8", "int4")


def choose(model: Model, machine: Machine) -> ChosenPrecision:
    """The precision that a model is rendered at on a machine, where nobody says one."""
    gpu = machine.gpu
    name = f"{gpu.name if gpu else 'a machine without a GPU'}, {gb(machine.ram_bytes)} of host memory"
    if model.is_the_demo:
        return ChosenPrecision(precision="bf16", why="the demo model is small, and bf16 is what it has", machine=name)
    small = _for_little_memory(model, machine)
    if small is not None:
        return ChosenPrecision(precision="int4", why=small, machine=name)
    if gpu is None:
        return ChosenPrecision(precision="int8", why="a CPU multiplies it as it is kept", machine=name)
    kernels, known = Kernels.of(gpu.compute_capability), rates.known(machine)
    found = _by_pace(model, gpu, known) if known is not None else None
    if found is not None:
        return ChosenPrecision(precision=found[0], why=found[1], machine=name)
    able = "int8" in kernels.products
    why = "this card multiplies it as it is kept" if able else "no card of its age multiplies what is kept"
    return ChosenPrecision(precision="int8", why=f"{why}, and it is more exact than fp8", machine=name)


def told(setup: Setup, machine: Machine) -> str | None:
    """What is said to somebody who renders at `fp8` where `int8` is much faster; None elsewhere."""
    model, gpu, known = catalog.find(setup.model), machine.gpu, rates.known(machine)
    if gpu is None or known is None or model.is_the_demo or (setup.precision, setup.profile) != ("fp8", "stream"):
        return None
    times = _step_s(model, "fp8", gpu, known) / _step_s(model, "int8", gpu, known)
    if times < WORTH_TELLING or choose(model, machine).precision != "int8":
        return None
    return (
        f"{setup.weights}: by arithmetic, a step takes {gpu.name} {times:.1f} times as long as at int8, which is more "
        "exact; --precision auto takes that, and keeps what is finished"
    )


def _for_little_memory(model: Model, machine: Machine) -> str | None:
    """Why the blocks have to be small; None where those of int8 fit into host memory, or stay on the GPU."""
    shape, gpu = shape_of(model), machine.gpu
    eight, four = (shape.layers * weight_bytes(shape, kept).block for kept in _EIGHT_AND_FOUR)
    if has_room(eight + LIBRARIES_BYTES, machine.ram_bytes):
        return None
    if gpu is not None and _streaming(model, "int8", gpu, Kernels.of(gpu.compute_capability)).slots >= shape.layers:
        return None
    there = gb(machine.ram_bytes)
    return f"{there} of host memory are too little for int8's {gb(eight)} of blocks; int4's take {gb(four)}"


def _streaming(model: Model, kept: Stored, gpu: LocalGpu, kernels: Kernels) -> Streaming:
    """A large picture's way through as many blocks as stay on a GPU that nobody else uses."""
    bare = Streaming(shape_of(model), kept, TURNING_SLOTS, kernels)
    if gpu.memory == "host":  # what stays there is in the same memory
        return bare
    slots = decide.slots_beside(bare, [[Work(_SIDE, _SIDE)]], gpu.total_bytes - CONTEXT_BYTES)
    return replace(bare, slots=max(TURNING_SLOTS, min(bare.shape.layers, slots)))


def _by_pace(model: Model, gpu: LocalGpu, known: Rates) -> tuple[Precision, str] | None:
    """The precision that is so much faster than int8 that it is worth what it costs; None where none is."""
    eight = _step_s(model, "int8", gpu, known)
    if (times := eight / _step_s(model, "fp8", gpu, known)) >= FASTER:
        return "fp8", f"this card multiplies it {times:.1f} times as fast as int8"
    if (times := eight / _step_s(model, "int4", gpu, known)) >= MUCH_FASTER:
        return "int4", f"over this bus a large picture takes a step {times:.1f} times as fast as at int8"
    return None


def _step_s(model: Model, kept: Stored, gpu: LocalGpu, known: Rates) -> float:
    """Seconds that a step of a large picture takes a GPU."""
    streaming = _streaming(model, kept, gpu, Kernels.of(gpu.compute_capability))
    return duration.sweep(streaming, [Work(_SIDE, _SIDE)], known).seconds
