"""Which devices render: as they are named, or that they are refused in words."""

from __future__ import annotations

import dataclasses
import re

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


MIXED = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-513536b6-7d19-9063-b049-1e69664bb298)
  MIG 1g.20gb     Device  0: (UUID: MIG-ce861fb0-a248-58ce-a9a8-f9adbc22a66a)
  MIG 1g.20gb     Device  1: (UUID: MIG-a45882f0-9215-5733-a0c1-49286ab31cb5)
  MIG 1g.20gb     Device  2: (UUID: MIG-f00d722c-f4e1-52c9-aa31-750441ae1bfe)
  MIG 1g.20gb     Device  3: (UUID: MIG-930574a9-d43a-5d2b-95da-3e68384c8d6b)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-d8594bd4-0fc3-8595-e355-7c98138f3b95)
GPU 2: NVIDIA A100-SXM4-80GB (UUID: GPU-5e375e7e-b41f-155b-dcdc-534524c356fc)
GPU 3: NVIDIA A100-SXM4-80GB (UUID: GPU-69ec2344-ebac-b028-f88f-452abb3d7f11)
"""
"""What `nvidia-smi -L` said on a host with one of four cards split (influxdata/telegraf issue 5812)."""

LEGACY = """\
GPU 0: A100-SXM4-40GB (UUID: GPU-6482a92e-d06b-dc68-c272-e3d8f7ecabbf)
  MIG 1g.5gb Device 0: (UUID: MIG-GPU-6482a92e-d06b-dc68-c272-e3d8f7ecabbf/7/0)
  MIG 1g.5gb Device 1: (UUID: MIG-GPU-6482a92e-d06b-dc68-c272-e3d8f7ecabbf/8/0)
  MIG 1g.5gb Device 2: (UUID: MIG-GPU-6482a92e-d06b-dc68-c272-e3d8f7ecabbf/11/0)
"""
"""What it said before driver 470 (pytorch/serve issue 1237, three of seven parts)."""


def recorded(monkeypatch: pytest.MonkeyPatch, listed: str) -> Machine:
    """The machine of a recorded list, as NVML describes it: names, UUIDs and parts are those that stand there."""
    cards: list[Card] = []
    for line in listed.splitlines():
        told = re.fullmatch(
            r"GPU \d+: (.+) \(UUID: (GPU-[^)]+)\)|  MIG (\S+) +Device +\d+: \(UUID: (MIG-[^)]+)\)", line
        )
        assert told is not None
        name, uuid, profile, part = told.groups()
        if name:
            cards.append(Card(uuid, name.encode(), 80 * GIB, capability=(8, 0), cores=6912))
            continue
        whole, gib = cards.pop(), int(profile.partition(".")[2].removesuffix("gb"))
        made = Part(part, gib, name=whole.name + b" MIG " + profile.encode())
        cards.append(dataclasses.replace(whole, parts=(*(whole.parts or ()), made)))
    return machine(monkeypatch, *cards)


class TestRecorded:
    @pytest.mark.parametrize(
        ("asked", "uuid"),
        [
            ("GPU-d859", "GPU-d8594bd4-0fc3-8595-e355-7c98138f3b95"),
            ("gpu-D8594BD4-0fc3", "GPU-d8594bd4-0fc3-8595-e355-7c98138f3b95"),
            ("d8594bd4", "GPU-d8594bd4-0fc3-8595-e355-7c98138f3b95"),
            ("1", "GPU-d8594bd4-0fc3-8595-e355-7c98138f3b95"),
            ("MIG-a45", "MIG-a45882f0-9215-5733-a0c1-49286ab31cb5"),
            ("a45882f0", "MIG-a45882f0-9215-5733-a0c1-49286ab31cb5"),
        ],
    )
    def test_a_beginning_names_a_card_or_a_part(self, monkeypatch: pytest.MonkeyPatch, asked: str, uuid: str) -> None:
        """And its worker is told the whole UUID, which CUDA takes of a part as well."""
        (device,) = devices.choose(asked, recorded(monkeypatch, MIXED))
        assert device.machine.visible == uuid
        assert device.machine.gpu is not None
        assert device.machine.gpu.mig is (True if uuid.startswith("MIG") else None)

    @pytest.mark.parametrize(
        ("asked", "told", "hint"),
        [
            ("0", "--gpus 0 means several: MIG-ce861fb0-", "name one"),
            ("GPU-513536b6", 'this machine shows no GPU "GPU-513536b6"', "parts of a split card (MIG) are named by"),
            ("d8594bd", 'this machine shows no GPU "d8594bd"', "1 (NVIDIA A100-SXM4-80GB, GPU-d8594bd4-"),
            ("GPU-d859,d8594bd4", "names GPU 1 (NVIDIA A100-SXM4-80GB) twice", "one worker a GPU"),
        ],
    )
    def test_what_names_none_or_several_is_said(
        self, monkeypatch: pytest.MonkeyPatch, asked: str, told: str, hint: str
    ) -> None:
        with pytest.raises(UsageError) as raised:
            devices.choose(asked, recorded(monkeypatch, MIXED))
        assert told in raised.value.message
        assert hint in raised.value.hint

    def test_all_are_told_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Cards by their numbers, parts by what of their UUIDs differs."""
        found = {each.label for each in devices.choose("all", recorded(monkeypatch, MIXED))}
        parts = {f"GPU 0 ({uuid})" for uuid in ("MIG-ce861fb0", "MIG-a45882f0", "MIG-f00d722c", "MIG-930574a9")}
        assert found == {"GPU 1", "GPU 2", "GPU 3"} | parts
        older = recorded(monkeypatch, LEGACY)
        assert {each.label for each in devices.choose("all", older)} == {f"GPU 0 (MIG {each}/0)" for each in (7, 8, 11)}
        (one,) = devices.choose("MIG-GPU-6482a92e-d06b-dc68-c272-e3d8f7ecabbf/8", older)
        assert one.machine.visible == "MIG-GPU-6482a92e-d06b-dc68-c272-e3d8f7ecabbf/8/0"
