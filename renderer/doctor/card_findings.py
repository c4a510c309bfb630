"""What is wrong with a GPU or worth knowing of it: whether it answers, its memory, its bus, its health, its speed.

Pure functions from facts to findings, as in `findings`.
"""

from __future__ import annotations

from collections.abc import Iterator

from renderer.doctor.finding import Facts, Finding
from renderer.machine import rates as rates_of
from renderer.machine.gpus import Link, LocalGpu
from renderer.machine.rates import Rates
from renderer.text import amount

BUSY_SHARE = 0.1
"""Of a GPU's memory, what a desktop may hold without anybody being told."""

SLOW_BUS_SHARE = 0.7
"""Of what a link should bring, what is less than any healthy one does."""

SLOW_SHARE = 0.6
"""Of what a card's data promise, what is less than clocks and kernels explain."""


def find(facts: Facts) -> Iterator[Finding]:
    """What there is to say of the GPU that renders, and of those that do not answer."""
    yield from _silent(facts)
    yield from of_gpu(facts)


def of_gpu(facts: Facts) -> Iterator[Finding]:
    """The same of the GPU that renders alone."""
    if (gpu := facts.machine.gpu) is not None:
        for found in (_bus(gpu, facts), _memory(gpu), _neighbours(gpu), _health(gpu)):
            yield from found
    yield from _speed(facts)


def _silent(facts: Facts) -> Iterator[Finding]:
    """Cards, or a whole driver, that do not answer."""
    for trouble in facts.machine.gpu_troubles:
        if "MIG" in trouble:
            hint = "name a part in CUDA_VISIBLE_DEVICES (nvidia-smi -L lists them), or make one (nvidia-smi mig)"
        else:
            hint = "see the driver's log (dmesg | grep NVRM); reboot, above all after an update of the driver"
        left = "the other GPUs are used" if facts.machine.gpus else "no GPU can be used"
        yield Finding(trouble, left, hint)


def _memory(gpu: LocalGpu) -> Iterator[Finding]:
    if gpu.memory == "host":
        yield Finding(
            f"{gpu.name} has no memory of its own, and shares the host's {amount(gpu.total_bytes)}",
            f"of what is free there it gets half, {amount(gpu.free_bytes)}; the host keeps the other half",
            "give it another share by --vram, if you like",
        )
    elif gpu.memory == "assumed":
        yield Finding(
            f"{gpu.name}: the driver does not tell its memory",
            f"plans go by the smallest part there is, {amount(gpu.total_bytes)}",
            "say how much it has by --vram (nvidia-smi -L lists parts, where one may see them)",
        )


def _bus(gpu: LocalGpu, facts: Facts) -> Iterator[Finding]:
    link = gpu.link
    if link is None:
        return
    streamed = "streamed blocks come that much slower"
    hides = "use the slot nearest the processor, and no riser cable; more pictures in flight hide it"
    lanes = max(link.most_width, facts.card.pcie_width if facts.card else 0)
    if link.width < lanes:
        yield Finding(f"{gpu.name}: its PCIe link has {link.width} lanes of {lanes}", streamed, hides)
    if link.most_generation < link.own_generation:
        yield Finding(
            f"{gpu.name}: PCIe generation {link.most_generation} here, and the card does {link.own_generation}",
            f"half the bandwidth a generation; {streamed}",
            f"look for a setting of the slot in the BIOS; {hides}",
        )
    if isinstance(facts.rates, Rates) and facts.rates.pinned_bytes_per_s:
        should, does = rates_of.link_bytes_per_s(link.most_generation, link.width), facts.rates.pinned_bytes_per_s
        if does < SLOW_BUS_SHARE * should:
            yield Finding(
                f"{gpu.name}: copies reach {does / 1e9:.1f} GB/s, and {_link(link)} should bring {should / 1e9:.1f}",
                streamed,
                "look for what shares or slows the link: a slot behind the chipset, a riser, a power-saving setting, "
                "another GPU at work, a virtual machine",
            )


def _neighbours(gpu: LocalGpu) -> Iterator[Finding]:
    used = gpu.total_bytes - gpu.free_bytes if gpu.memory == "own" else 0
    if used > BUSY_SHARE * gpu.total_bytes:
        named = [
            f"{process.name} ({process.pid}{f', {amount(process.bytes)}' if process.bytes else ''})"
            for process in gpu.processes[:5]
        ]
        yield Finding(
            f"{amount(used)} of {gpu.name}'s {amount(gpu.total_bytes)} are in use by others",
            "fewer blocks stay on the GPU, and its time is shared" + (f": {', '.join(named)}" if named else ""),
            "end them" if named else "see by whom (nvidia-smi on the host; a container does not see them)",
        )


def _health(gpu: LocalGpu) -> Iterator[Finding]:
    if gpu.uncorrected_errors:
        yield Finding(
            f"{gpu.name}: {gpu.uncorrected_errors} memory errors that ECC could not correct, since the driver loaded",
            "pictures may fail, or come out wrong",
            "reset the GPU or reboot; if they come again, the card is broken",
        )
    if gpu.slowdowns:
        yield Finding(
            f"{gpu.name} is held back by {' and '.join(gpu.slowdowns)}",
            "its clock is below what it could be",
            "look after cooling and power (nvidia-smi -q -d PERFORMANCE)",
        )


def _speed(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.rates, str):
        yield Finding(f"how fast it is could not be measured: {facts.rates}", "forecasts go by the card's data", "")
    elif facts.rates is not None and facts.card is not None:
        should = rates_of.of_card(facts.card)
        for what, does, could in (
            ("bf16 products", facts.rates.product_flops, should.product_flops),
            ("memory", facts.rates.memory_bytes_per_s, should.memory_bytes_per_s),
        ):
            if does < SLOW_SHARE * could:
                yield Finding(
                    f"{facts.card.name}: {what} at {does / could:.0%} of what such a card does",
                    "pictures take longer than on others of its kind",
                    "look for a power limit (nvidia-smi -q -d POWER), heat, or another process at work",
                )


def _link(link: Link) -> str:
    return f"PCIe {link.most_generation} x{link.width}"
