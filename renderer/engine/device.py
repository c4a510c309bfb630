"""Where a model's weights lie, by profile and precision. A table, and how it reads to DiffSynth.

DiffSynth's VRAM management knows four states of a layer's weights: *offload* while its network is not wanted, *onload*
while it is, *preparing* once the layer has been taken up to stay (as long as the limit allows), and *computation*
while they are multiplied. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch

from renderer.errors import MachineError
from renderer.job import DeviceArithmetic, Profile, Stored
from renderer.job.precisions import ONLY, in_words
from renderer.machine import processor

Where = Literal["disk", "host", "device"]
Device = Literal["cuda", "cpu"]

STORED_DTYPE = torch.bfloat16
"""In which weights lie that no codec has made into something else."""

RESERVED_BYTES = 2**30
"""Left free of weights on a GPU when nobody sets a limit: DiffSynth's limit does not count a step's activations."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the weights are in each state. `computation` is always on the device, in the type it computes in."""

    offload: Where
    onload: Where
    preparing: Where
    bounded: bool
    """Whether weights are taken up only while the GPU's memory in use is below the limit."""


FROM_HOST = Placement(offload="host", onload="host", preparing="device", bounded=True)
FROM_DISK = Placement(offload="disk", onload="host", preparing="device", bounded=True)

PLACEMENTS: Mapping[Profile, Placement | None] = MappingProxyType(
    {"resident": None, "fp8": FROM_HOST, "disk": FROM_DISK, "cpu": None}
)
"""None: all weights on the device, without VRAM management."""

NEEDS_GPU: frozenset[Profile] = frozenset({"resident", "fp8"})


def arithmetic_of(device: Device) -> DeviceArithmetic:
    """What a device computes in, by every engine: a GPU in bf16, a CPU in what its processor multiplies fast.

    The one place where that is decided.
    """
    return processor.arithmetic() if device == "cpu" else "bf16"


def computation_dtype(device: Device) -> torch.dtype:
    """The same as torch's type: of activations, of embeddings, and of weights while they are multiplied."""
    return torch.bfloat16 if arithmetic_of(device) == "bf16" else torch.float32


def find(profile: Profile, precision: Stored) -> Placement | None:
    """The placement of a profile and precision. Raises `MachineError` for a pair there is none for."""
    if ONLY.get(profile, precision) == precision:
        return PLACEMENTS[profile]
    others = " or ".join(name for name in PLACEMENTS if ONLY.get(name, precision) == precision)
    message = f"the profile {profile} keeps weights in {in_words(ONLY[profile])} and cannot render {precision} jobs"
    raise MachineError(message, hint=f"for {precision}: --profile {others}")


def on(device: Device, place: Placement | None) -> Placement | None:
    """The placement as it is on a device: where that widens weights, each layer is, while it is multiplied.

    Widened all at once they would take twice the memory.
    """
    return FROM_HOST if place is None and computation_dtype(device) != STORED_DTYPE else place


def choose_device(profile: Profile) -> Device:
    """The device a profile computes on; `disk` takes the CPU where there is no GPU. Raises `MachineError`."""
    if profile == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if profile in NEEDS_GPU:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        message = f"the profile {profile} needs an NVIDIA GPU, and torch {torch.__version__} ({built}) sees none"
        raise MachineError(message, hint="use --profile cpu; `renderer doctor` says what this machine has")
    return "cpu"


def vram_config(placement: Placement, device: Device) -> dict[str, Any]:
    """The states of a network's weights, as DiffSynth's `ModelConfig` takes them.

    All weights wait in bf16, at every precision: layers whose weights are coded (`coded.py`) are never cast, and what
    else a network has is bf16 in every store. A layer is widened while it is multiplied, if at all.
    """
    config: dict[str, Any] = {"computation_dtype": computation_dtype(device), "computation_device": device}
    for state, where in (
        ("offload", placement.offload),
        ("onload", placement.onload),
        ("preparing", placement.preparing),
    ):
        config[f"{state}_device"] = {"disk": "disk", "host": "cpu", "device": device}[where]
        config[f"{state}_dtype"] = "disk" if where == "disk" else STORED_DTYPE
    return config


def vram_limit_gib(placement: Placement | None, device: Device, vram_bytes: int | None) -> float | None:
    """DiffSynth's `vram_limit` in GiB: a bound on the memory in use on the device; None where nothing is bounded."""
    if placement is None or not placement.bounded or device != "cuda":
        return None
    if vram_bytes is None:
        vram_bytes = torch.cuda.mem_get_info(device)[1] - RESERVED_BYTES
    return float(vram_bytes / 2**30)
