"""Which devices render: as they are named, or that they are refused in words."""

from __future__ import annotations

import pytest

from renderer.errors import UsageError
from renderer.machine import devices, gpus
from renderer.machine.hardware import Machine
from tests.nvml import GIB, Card, Nvml, Part

CARDS = (
    Card("GPU-aaaa-1", b"NVIDIA H100", 80 * GIB, capability=(9, 0), cores=16896),
    Card("GPU-bbbb-2", b"NVIDIA GeForce RTX 3080", 10 * GIB, capability=(8, 6), cores=8704),
    Card("GPU-abcc-3", b"NVIDIA GeForce RTX 4090", 24 * GIB, capability=(8, 9), cores=16384),
)


def machine(monkeypatch: pytest.MonkeyPatch, *cards: Card) -> Machine:
    """A machine with these cards, and 90 GiB of free memory."""
    monkeypatch.setattr(gpus, "pynvml", Nvml(*cards))
    seen = gpus.look(128 * GIB, 90 * GIB, {})
    return Machine(seen.gpus, cpus=8, ram_bytes=128 * GIB, ram_free_bytes=90 * GIB, chosen=seen.chosen)


def test_all_are_each_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker a card: each sees one GPU, by its UUID, and its part of the host's free memory."""
    found = devices.choose("all", machine(monkeypatch, *CARDS))
    assert sorted((each.label, each.machine.visible) for each in found) == [
        ("GPU 0", "GPU-aaaa-1"), ("GPU 1", "GPU-bbbb-2"), ("GPU 2", "GPU-abcc-3"),
    ]  # fmt: skip
    assert {each.machine.ram_free_bytes for each in found} == {30 * GIB}
    assert [each.number for each in found] == [0, 1, 2]


def test_numbers_and_beginnings_of_uuids(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `nvidia-smi` counts them, in the order in which they are named."""
    found = devices.choose("2, gpu-bb", machine(monkeypatch, *CARDS))
    assert [each.machine.visible for each in found] == ["GPU-abcc-3", "GPU-bbbb-2"]


def test_one_that_is_named_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has all memory, and nothing that is said of it needs a name."""
    (found,) = devices.choose("1", machine(monkeypatch, *CARDS))
    assert (found.label, found.machine.visible, found.machine.ram_free_bytes) == ("", "GPU-bbbb-2", 90 * GIB)


def test_nothing_named_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best card, and `all` of a machine without one is its CPU."""
    here = machine(monkeypatch, *CARDS)
    assert devices.choose(None, here) == (devices.WorkerDevice(here),)
    without = machine(monkeypatch)
    assert devices.choose("all", without) == (devices.WorkerDevice(without),)


def test_workers_on_the_cpu_see_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is one."""
    found = devices.choose("cpu,cpu", machine(monkeypatch, *CARDS))
    assert [(each.label, each.machine.gpu, each.machine.visible) for each in found] == [
        ("CPU 1", None, ""), ("CPU 2", None, ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("0,GPU-aaaa", "names GPU 0 (NVIDIA H100) twice"),
        ("7", 'no GPU "7"'),
        ("GPU-a", "means several: GPU-aaaa-1, GPU-abcc-3"),
        ("0,", 'no GPU ""'),
        ("0,cpu", "cpu stands for itself"),
        (",".join(["cpu"] * 65), "64 are the most"),
    ],
)
def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str, told: str) -> None:
    with pytest.raises(UsageError) as raised:
        devices.choose(asked, machine(monkeypatch, *CARDS))
    assert told in raised.value.message


def test_parts_of_a_card_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have one number, so they are named by UUID."""
    split = Card("GPU-s", parts=(Part("MIG-1111-aaaa", 10), Part("MIG-2222-bbbb", 20)))
    here = machine(monkeypatch, split)
    assert sorted(each.label for each in devices.choose("all", here)) == [
        "GPU 0 (MIG-1111-aaa)",
        "GPU 0 (MIG-2222-bbb)",
    ]
    with pytest.raises(UsageError, match="means several"):
        devices.choose("0", here)
