"""How fast this machine is: what it does in a second, measured once and remembered, or reckoned from a card's data.

`measure` starts a child process for two seconds of it (`renderer.engine.microbenchmark`); `cached` reads what it
left, without torch; `of_card` knows cards that are not here. Knows nothing of models or pictures.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError

from renderer.catalog import cards
from renderer.catalog.cards import Card
from renderer.errors import MachineError
from renderer.job import BlockArithmetic, DeviceArithmetic
from renderer.machine import processor
from renderer.machine.hardware import Machine, ask
from renderer.system.folders import cache_folder

VERSION: Literal[3] = 3
"""Goes up when what is measured changes its meaning; older measurements are then made anew."""

CPU_DEVICE = "CPU"
"""The device's name on a machine without a GPU."""

LANE_BYTES_PER_S: Mapping[int, float] = MappingProxyType(
    {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
)
"""What one PCIe lane carries in one direction, by generation (PCI-SIG: transfers a second, less their encoding)."""

BUS_SHARE = 0.88
"""Of what its lanes carry, what a copy from pinned memory gets: 53.7 to 55.5 GB/s of 63 (H200, generation 5 x16)."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rates(_Value):
    """Operations, bytes and launches a second, of one GPU and its host; on a machine without one, of its CPU.

    Products are rows x 3072 x 12288 in `arithmetic`, and in FP8 and int8 with a scale a row (None: this device has
    none). Attention is SDPA of 24 heads of 128 over 6,912 tokens. Convolutions are those of the VAE's decode of one
    frame with the norm and activation before each; only the convolutions' operations are counted. `memory` is a pass
    that reads and writes. `pinned` is None where memory cannot be pinned, `disk` where no model's file lies.
    """

    source: Literal["measured", "card"]
    device: str
    arithmetic: DeviceArithmetic = "bf16"
    product_flops: PositiveFloat
    fp8_flops: PositiveFloat | None
    int8_flops: PositiveFloat | None = None
    attention_flops: PositiveFloat
    convolution_flops: PositiveFloat
    memory_bytes_per_s: PositiveFloat
    pinned_bytes_per_s: PositiveFloat | None
    pageable_bytes_per_s: PositiveFloat
    host_copy_bytes_per_s: PositiveFloat
    disk_bytes_per_s: PositiveFloat | None
    launch_s: PositiveFloat

    def flops(self, arithmetic: BlockArithmetic) -> float:
        """Operations a second of products in an arithmetic; of plain ones where the device has none of it."""
        return getattr(self, f"{arithmetic}_flops", None) or self.product_flops

    @property
    def bus_bytes_per_s(self) -> float:
        """How fast blocks come to the GPU: from pinned memory where there can be some."""
        return self.pinned_bytes_per_s or self.pageable_bytes_per_s


class RatesKey(_Value):
    """What a measurement is of: another card, driver or torch, or another type to compute in, is another machine."""

    gpu: str | None
    uuid: str | None
    driver: str | None
    torch: str
    cpus: int
    arithmetic: DeviceArithmetic = "bf16"


class Measurement(_Value):
    """Rates as they lie in the cache."""

    version: Literal[3] = VERSION
    key: RatesKey
    measured_at: datetime
    rates: Rates


def cached(machine: Machine) -> Rates | None:
    """What was measured on this machine before; None when nothing was, or on another card, driver or torch."""
    key = _key(machine)
    try:
        found = Measurement.model_validate_json(_path(key).read_bytes())
    except (OSError, ValidationError):
        return None
    return found.rates if found.key == key else None


def known(machine: Machine) -> Rates | None:
    """What is known of a machine's first GPU without measuring: what was measured before, or by its card's data.

    None without a GPU, and of a card that nobody knows.
    """
    if machine.gpu is None:
        return None
    card = cards.of_gpu(machine.gpu.name, machine.gpu.total_bytes)
    return cached(machine) or (of_card(card) if card else None)


def measure(machine: Machine) -> Rates:
    """Measure the first GPU, or the CPU, in a child process, and remember it.

    Takes two seconds besides the start of torch. A cache that cannot be written is no error: `doctor` tells. Raises
    `MachineError` when the child gives no figures.
    """
    key = _key(machine)
    rates = _ask(machine)
    if machine.gpu is not None and rates.device == CPU_DEVICE:
        message = f"this machine's rates: the driver shows {machine.gpu.name}, but torch sees none"
        raise MachineError(message, hint="run renderer doctor: it says what is wrong here")
    measurement = Measurement(key=key, measured_at=datetime.now(UTC), rates=rates)
    path = _path(key)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(measurement.model_dump_json(indent=2) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
    return rates


def of_card(card: Card, *, host_copy_bytes_per_s: float = 10e9) -> Rates:
    """What a card is expected to do: its peaks times what programs make of them.

    The shares are those that the probe found on an H200 (bf16 805 of 989 TFLOP/s, FP8 1520 to 1540 of 1979, attention
    690) and an H100 (decoding 279), as of a measured machine: what an engine makes of a rate is for
    `renderer.estimate.duration` to say.
    Where float32 sums run at half the rate, the tensor cores are what is short, and more of that rate is reached
    (GeForce: about nine tenths in public measurements). Where bf16 is emulated, half the float32 rate, without fused
    attention. Of the disk nothing is known.
    """
    shares = _SHARES[card.accumulates]
    bus = LANE_BYTES_PER_S[card.pcie_generation] * card.pcie_width * BUS_SHARE
    return Rates(
        source="card",
        device=card.name,
        product_flops=card.bf16_flops * shares["bf16"],
        fp8_flops=None if card.fp8_flops is None else card.fp8_flops * shares["fp8"],
        int8_flops=None if card.int8_flops is None else card.int8_flops * shares["int8"],
        attention_flops=card.bf16_flops * shares["attention"],
        convolution_flops=card.bf16_flops * shares["convolution"],
        memory_bytes_per_s=card.memory_bytes_per_s * MEMORY_SHARE,
        pinned_bytes_per_s=bus,
        pageable_bytes_per_s=min(bus, PAGEABLE_BYTES_PER_S),
        host_copy_bytes_per_s=host_copy_bytes_per_s,
        disk_bytes_per_s=None,
        launch_s=LAUNCH_S,
    )


SOME_GPU = Rates(
    source="card",
    device="some GPU",
    product_flops=8e14,
    fp8_flops=1.54e15,
    int8_flops=1e15,
    attention_flops=6.9e14,
    convolution_flops=2.2e14,
    memory_bytes_per_s=4.2e12,
    pinned_bytes_per_s=5.5e10,
    pageable_bytes_per_s=7.7e9,
    host_copy_bytes_per_s=1e10,
    disk_bytes_per_s=5e9,
    launch_s=4.8e-6,
)
"""For a card that nobody knows: what its rates are to one another matters, and measured factors stand before them."""

_SHARES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "full": {"bf16": 0.814, "fp8": 0.773, "int8": 0.52, "attention": 0.7, "convolution": 0.282},
        "half": {"bf16": 0.9, "fp8": 0.85, "int8": 0.7, "attention": 0.85, "convolution": 0.35},
        "emulated": {"bf16": 0.5, "fp8": 0.5, "int8": 0.5, "attention": 0.2, "convolution": 0.2},
    }
)

MEMORY_SHARE = 0.88
"""Of a memory's bandwidth, what a pass that reads and writes gets."""

PAGEABLE_BYTES_PER_S = 7.7e9
"""From memory that is not pinned: what one core copies into the driver's buffers (measured beside an H200)."""

LAUNCH_S = 5.2e-6
"""Torch's shortest operation on a host of today: 4.8 to 5.8 microseconds were measured beside H200s."""


def link_bytes_per_s(generation: int, width: int) -> float:
    """What a copy from pinned memory gets over a PCIe link of so many lanes."""
    newest = max(LANE_BYTES_PER_S)
    return LANE_BYTES_PER_S[min(generation, newest)] * width * BUS_SHARE


def _ask(machine: Machine) -> Rates:
    found = ask("renderer.engine.microbenchmark", machine)
    if "error" in found:
        raise MachineError(
            f"this machine's rates cannot be measured: {found['error']}",
            hint="run renderer doctor: it says what is wrong here",
        )
    try:
        return Rates.model_validate(found)
    except ValidationError as error:
        message = "this machine's rates cannot be measured: what was measured makes no sense"
        raise MachineError(message, hint="run renderer doctor: it says what is wrong here") from error


def _key(machine: Machine) -> RatesKey:
    gpu = machine.gpu
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "none"
    if gpu is None:
        return RatesKey(
            gpu=None,
            uuid=platform.machine(),
            driver=None,
            torch=torch,
            cpus=machine.cpus,
            arithmetic=processor.arithmetic(),
        )
    return RatesKey(gpu=gpu.name, uuid=gpu.uuid, driver=gpu.driver, torch=torch, cpus=machine.cpus)


def _path(key: RatesKey) -> Path:
    name = "".join(each if each.isalnum() or each == "-" else "-" for each in f"{key.gpu or 'cpu'}-{key.uuid}")
    return cache_folder() / f"rates-{name}.json"
