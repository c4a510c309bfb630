"""How fast a card may be that is not in the table: by its cores, clocks and generation, as the driver tells them.

Good to tell such cards from one another before any picture has come from them, and for nothing else: nobody is told a
time by it. Knows nothing of models or pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from renderer.catalog.cards import Card
from renderer.machine import rates
from renderer.machine.gpus import BF16_CAPABILITY, LocalGpu
from renderer.machine.hardware import Machine
from renderer.machine.rates import Rates

_SERVERS = frozenset({(8, 0), (9, 0), (10, 0), (10, 3)})
"""Capabilities of cards for servers, whose tensor cores do 16 products in bf16 for one in float32."""

_FP8_CAPABILITY = (8, 9)

_SOME_BYTES: Mapping[bool, float] = MappingProxyType({True: 2e12, False: 6e11})
"""A second, of memory whose clocks are not told: with products as fast as on servers' cards, or not."""


def reckoned(machine: Machine) -> Rates | None:
    """What is known of a machine's GPU, or else what its units come to; None where the driver tells nothing of them."""
    if (known := rates.known(machine)) is not None or machine.gpu is None:
        return known
    card = _card(machine.gpu)
    return rates.of_card(card) if card is not None else None


def _card(gpu: LocalGpu) -> Card | None:
    if gpu.peaks is None or gpu.compute_capability == (0, 0):
        return None
    own_bf16 = gpu.compute_capability >= BF16_CAPABILITY
    is_geforce = any(word in gpu.name for word in ("GeForce", "TITAN"))
    for_servers = gpu.compute_capability in _SERVERS
    more = 1 if not own_bf16 else 16 if for_servers else 2 if is_geforce else 4  # for one in float32
    flops = 2 * gpu.peaks.cores_hz * more
    return Card(
        name=gpu.name,
        memory_bytes=gpu.total_bytes,
        memory_bytes_per_s=gpu.peaks.memory_bytes_per_s or _SOME_BYTES[for_servers],
        bf16_flops=flops,
        fp8_flops=2 * flops if gpu.compute_capability >= _FP8_CAPABILITY else None,
        pcie_generation=min(gpu.link.most_generation, max(rates.LANE_BYTES_PER_S)) if gpu.link else 4,
        pcie_width=gpu.link.most_width if gpu.link else 16,
        compute_capability=gpu.compute_capability,
        accumulates="emulated" if not own_bf16 else "half" if is_geforce else "full",
        source="the driver",
    )
