"""GPUs as NVML really describes them: shared memory, parts, lost cards, strange names, and two orders of counting."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pynvml
import pytest

from renderer.machine import gpus, hardware
from renderer.machine.gpus import Seen
from tests.nvml import GIB, LOST, NOT_SUPPORTED, Card, Nvml, Part

OLD = Card("GPU-5555-1", b"NVIDIA GeForce GTX 1060 6GB", 6 * GIB, capability=(6, 1), cores=1280)
TITAN = Card("GPU-5555-2", b"NVIDIA TITAN V", 12 * GIB, capability=(7, 0), cores=5120)
SMALL = Card("GPU-6666-1", b"NVIDIA GeForce RTX 3060", 12 * GIB, capability=(8, 6), cores=3584)
NEW = Card("GPU-6666-2", b"NVIDIA GeForce RTX 5060", 8 * GIB, capability=(12, 0), cores=3840)
LARGE = Card("GPU-7777-1", cores=16384)
PARTS = (Part("MIG-aaaa", 20, (1, 0), b"NVIDIA H100 80GB HBM3 MIG 2g.20gb"), Part("MIG-bbbb", 40, (2, 0)))
SPLIT = Card("GPU-8888", b"NVIDIA H100 80GB HBM3", 80 * GIB, capability=(9, 0), cores=16896, parts=PARTS)
HIDDEN = dataclasses.replace(SPLIT, parts=())
GB10 = Card("GPU-9999", b"NVIDIA GB10", error=NOT_SUPPORTED, capability=(12, 1))


def seen(monkeypatch: pytest.MonkeyPatch, *cards: Card, init: int = 0, **environment: str) -> Seen:
    """What is seen of these cards on a host with 100 GiB, 80 of them free."""
    monkeypatch.setattr(gpus, "pynvml", Nvml(*cards, init=init))
    return gpus.look(100 * GIB, 80 * GIB, environment)


def uuids(found: Seen) -> list[str]:
    return [gpu.uuid for gpu in found.gpus]


class TestMemory:
    def test_memory_that_is_the_host_s(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """DGX Spark and Jetson have no memory of their own: half of what the host has free is theirs."""
        (gpu,) = seen(monkeypatch, GB10).gpus
        assert (gpu.name, gpu.memory, gpu.total_bytes, gpu.free_bytes) == ("NVIDIA GB10", "host", 100 * GIB, 40 * GIB)

    def test_no_byte_is_counted_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is the GPU's is not the host's as well."""
        alone = hardware.look()
        monkeypatch.setattr(gpus, "pynvml", Nvml(GB10))
        here = hardware.look()
        assert here.gpu is not None
        assert here.gpu.free_bytes + here.ram_free_bytes == pytest.approx(alone.ram_free_bytes, rel=0.1)

    def test_a_card_that_does_not_tell_its_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An error that is no "not supported" is trouble, and is not taken for shared memory."""
        found = seen(monkeypatch, dataclasses.replace(LARGE, error=LOST), SMALL)
        assert uuids(found) == [SMALL.uuid]
        assert found.troubles == ("GPU 0 does not answer: GPU is lost",)


class TestAnswers:
    def test_what_a_card_cannot_tell_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """GeForce has no ECC and old drivers lack calls: neither is an error, and the rest is believed."""
        (gpu,) = seen(monkeypatch, LARGE).gpus
        assert (gpu.link, gpu.ecc, gpu.mig, gpu.processes) == (None, None, None, ())
        assert (gpu.name, gpu.total_bytes, gpu.compute_capability) == ("NVIDIA GeForce RTX 4090", 24 * GIB, (8, 9))

    def test_a_lost_card_costs_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that does not answer is left out and named; the others are used."""
        found = seen(monkeypatch, dataclasses.replace(LARGE, lost=True), SMALL)
        assert uuids(found) == [SMALL.uuid]
        assert found.troubles == ("GPU 0 does not answer: GPU is lost",)

    @pytest.mark.parametrize("name", [b"\xf8\x92\xe7\xe2", b""])
    def test_a_name_that_is_no_text(self, name: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        """WSL has given bytes that are not UTF-8: the card is used under a name of ours."""
        (gpu,) = seen(monkeypatch, dataclasses.replace(LARGE, name=name)).gpus
        assert gpu.name == "NVIDIA GPU of compute capability 8.9"

    def test_no_driver_is_no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A machine without NVIDIA's library is a machine without GPUs; a driver that is broken is trouble."""
        assert seen(monkeypatch, init=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND) == Seen()
        broken = seen(monkeypatch, init=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
        assert broken.troubles == ("NVIDIA's driver does not answer: RM has detected an NVML/RM version mismatch.",)


class TestOrder:
    def test_the_best_renders(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a wish it is the fastest of those that multiply bf16, whichever slot it is in."""
        found = uuids(seen(monkeypatch, OLD, TITAN, SMALL, NEW, LARGE))
        assert found == [card.uuid for card in (LARGE, NEW, SMALL, TITAN, OLD)]
        assert uuids(seen(monkeypatch, OLD, LARGE, CUDA_DEVICE_ORDER="PCI_BUS_ID"))[0] == LARGE.uuid

    def test_cards_that_are_alike_keep_their_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first slot comes first."""
        twins = [dataclasses.replace(LARGE, uuid=f"GPU-{number}") for number in range(3)]
        assert uuids(seen(monkeypatch, *twins)) == ["GPU-0", "GPU-1", "GPU-2"]

    @pytest.mark.parametrize(
        ("setting", "order", "wanted"),
        [
            ("0", "", [LARGE]),
            ("0", "PCI_BUS_ID", [OLD]),
            ("2,0", "", [OLD, LARGE]),
            ("1,7,0", "PCI_BUS_ID", [TITAN]),
            ("GPU-7777", "", [LARGE]),
            (" GPU-5555-2 , 0", "PCI_BUS_ID", [TITAN, OLD]),
            ("GPU-5555", "", []),
            ("0,GPU-7777", "", []),
            ("", "", []),
            ("-1", "", []),
            ("NoDevFiles", "", []),
        ],
    )
    def test_what_is_visible(
        self, setting: str, order: str, wanted: list[Card], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Numbers as CUDA counts, a UUID's beginning if it means one; nothing after what is not there, none twice."""
        found = seen(monkeypatch, OLD, TITAN, LARGE, CUDA_VISIBLE_DEVICES=setting, CUDA_DEVICE_ORDER=order)
        assert uuids(found) == [card.uuid for card in wanted]


class TestParts:
    def test_parts_are_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A split card is no GPU; each of its parts is one, with its own name, UUID and memory."""
        second, first = seen(monkeypatch, SPLIT).gpus
        assert (first.uuid, first.name, first.total_bytes) == ("MIG-aaaa", PARTS[0].name.decode(), 20 * GIB)
        assert (second.name, second.total_bytes) == ("NVIDIA H100 80GB HBM3 (a MIG part)", 40 * GIB)
        assert (first.mig, first.memory, first.compute_capability) == (True, "own", (9, 0))

    @pytest.mark.parametrize(
        ("name", "wanted"), [("MIG-bb", "MIG-bbbb"), ("MIG-GPU-8888/2/0", "MIG-bbbb"), ("1", "MIG-bbbb")]
    )
    def test_a_part_by_name(self, name: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """By its UUID, by the older way of card and places, by its number."""
        assert uuids(seen(monkeypatch, SPLIT, CUDA_VISIBLE_DEVICES=name)) == [wanted]

    @pytest.mark.parametrize("name", ["MIG-377e0049", "MIG-GPU-8888/7/0"])
    def test_a_part_that_the_driver_does_not_show(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is a GPU all the same; of its memory the smallest part's is assumed, and that is said."""
        (gpu,) = seen(monkeypatch, HIDDEN, CUDA_VISIBLE_DEVICES=name).gpus
        assert (gpu.uuid, gpu.memory, gpu.total_bytes) == (name, "assumed", 10 * GIB)
        assert seen(monkeypatch, LARGE, CUDA_VISIBLE_DEVICES=name).gpus == ()

    def test_a_whole_card_before_a_part(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where both are there, the whole one renders; of parts, the largest."""
        assert uuids(seen(monkeypatch, SPLIT, SMALL)) == [SMALL.uuid, "MIG-bbbb", "MIG-aaaa"]


class TestSelecting:
    """What a worker is told: the UUID of the card that was described."""

    def test_where_there_is_a_choice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The best card by its UUID, which means the same to NVML and to CUDA."""
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(gpus, "pynvml", Nvml(OLD, LARGE))
        assert hardware.look().visible == LARGE.uuid
        monkeypatch.setattr(gpus, "pynvml", Nvml(SPLIT))
        assert hardware.look().visible == "MIG-bbbb"

    def test_where_there_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The only card needs no name: some machines' CUDA does not know it by one."""
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(gpus, "pynvml", Nvml(GB10))
        assert hardware.look().visible is None

    def test_what_a_child_is_told(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Probes see the card that renders, and no other."""
        (tmp_path / "tell.py").write_text(
            "import json, os; print(json.dumps({'seen': os.environ.get('CUDA_VISIBLE_DEVICES')}))", encoding="utf-8"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        monkeypatch.setattr(gpus, "pynvml", Nvml(OLD, LARGE))
        assert hardware.ask("tell", hardware.look()) == {"seen": LARGE.uuid}
