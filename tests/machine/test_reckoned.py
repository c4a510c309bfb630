"""How fast cards may be that are in no table, by what the driver tells of them."""

from __future__ import annotations

import dataclasses

import pytest

from renderer.catalog import cards
from renderer.machine import gpus, rates, reckoned
from renderer.machine.gpus import CardPeaks, LocalGpu
from renderer.machine.hardware import Machine
from tests.nvml import GIB, Card, Nvml, Part


def machine(gpu: LocalGpu | None) -> Machine:
    return Machine((gpu,) if gpu else (), 8, 64 * GIB, 32 * GIB)


@pytest.mark.parametrize(
    ("name", "cores", "mhz", "capability", "lines", "memory_mhz"),
    [
        ("GeForce RTX 3090", 10496, 1695, (8, 6), 384, 9751),
        ("GeForce RTX 4090", 16384, 2520, (8, 9), 384, 10501),
        ("GeForce RTX 5090", 21760, 2407, (12, 0), 512, 14001),
        ("RTX A6000", 10752, 1800, (8, 6), 384, 8001),
        ("L4", 7424, 2040, (8, 9), 192, 6251),
        ("L40S", 18176, 2520, (8, 9), 384, 9001),
        ("T4", 2560, 1590, (7, 5), 256, 5001),
        ("A100 80GB", 6912, 1410, (8, 0), 5120, 1593),
        ("H100 80GB", 16896, 1980, (9, 0), 5120, 2619),
    ],
)
def test_cards_of_the_table_come_out_as_they_stand_there(
    name: str, cores: int, mhz: int, capability: tuple[int, int], lines: int, memory_mhz: int
) -> None:
    """Within a tenth, by cores and clocks alone: so will those do that are not in it."""
    known = cards.find(name).card
    peaks = CardPeaks(cores * mhz * 1e6, lines / 8 * memory_mhz * 2e6)
    gpu = LocalGpu(0, f"NVIDIA {name} X", "GPU-1", known.memory_bytes, 2**30, "", capability, peaks=peaks)
    found, expected = reckoned.reckoned(machine(gpu)), rates.of_card(known)
    assert found is not None
    assert rates.known(machine(gpu)) is None
    for value in ("product_flops", "memory_bytes_per_s", "attention_flops"):
        assert getattr(found, value) == pytest.approx(getattr(expected, value), rel=0.1), value
    assert (found.fp8_flops is None) == (expected.fp8_flops is None)


def test_what_is_known_is_not_reckoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of the table, and one of which the driver tells nothing; a part of a split one has its part."""
    listed = Card("GPU-a", cores=16384)
    silent = Card("GPU-b", b"NVIDIA Something", cores=0)
    split = Card("GPU-c", b"NVIDIA Else", 80 * GIB, cores=10000, parts=(Part("MIG-1", 20, name=b"NVIDIA Else MIG 2g"),))
    monkeypatch.setattr(gpus, "pynvml", Nvml(listed, silent, split))
    seen = {gpu.uuid: gpu for gpu in gpus.look(64 * GIB, 32 * GIB, {}).gpus}
    assert reckoned.reckoned(machine(seen["GPU-a"])) == rates.known(machine(seen["GPU-a"]))
    assert reckoned.reckoned(machine(seen["GPU-b"])) is None
    assert reckoned.reckoned(machine(None)) is None
    part, whole = seen["MIG-1"], dataclasses.replace(seen["MIG-1"], peaks=CardPeaks(10000 * 2e9, 0))
    found = [reckoned.reckoned(machine(each)) for each in (part, whole)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].product_flops * 4 == pytest.approx(found[1].product_flops)
