"""Findings: from facts to what they mean and what to do; no GPU, no files, no children."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest

from renderer.catalog import cards
from renderer.doctor import card_findings, findings
from renderer.doctor.finding import Facts, Finding
from renderer.machine import rates
from renderer.machine.gpus import GpuProcess, Link, LocalGpu
from renderer.machine.hardware import Machine
from renderer.machine.processor import Processor
from renderer.text import GIB

CARD = cards.find("4090").card
LINK = Link(generation=1, width=16, most_generation=4, most_width=16, own_generation=4)
GPU = LocalGpu(0, "NVIDIA GeForce RTX 4090", "GPU-1", 24 * GIB, 24 * GIB, "580.82", (8, 9), link=LINK)
HERE = Machine((GPU,), 8, 64 * GIB, 60 * GIB, swap_bytes=GIB, swap_free_bytes=GIB, shm_bytes=32 * GIB, cuda=(13, 0))
SEEN = {"name": GPU.name, "compute_capability": "8.9", "kernel": "ok", "fp8": "ok"}
TORCH: dict[str, Any] = {
    "torch": "2.11.0",
    "cuda": "13.0",
    "transformers": "5.15.1",
    "archs": ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"],
    "gpus": [SEEN],
    "compiler": {"triton": "3.6.0", "c_compiler": True, "python_headers": True, "kernel": "ok"},
    "pinning": "ok",
    "troubles": {},
}
HEALTHY = Facts(
    machine=HERE, torch=TORCH, rates=rates.of_card(CARD), card=CARD, swept_bytes=18 * GIB, outputs_free_bytes=100 * GIB
)


def facts(
    gpu: dict[str, Any] | None = None,
    machine: dict[str, Any] | None = None,
    torch: dict[str, Any] | None = None,
    **others: Any,
) -> Facts:
    """The healthy machine's, with some of them changed."""
    changed = dataclasses.replace(HERE, gpus=(dataclasses.replace(GPU, **(gpu or {})),))
    here = dataclasses.replace(changed, **(machine or {}))
    return dataclasses.replace(HEALTHY, machine=here, torch=TORCH | (torch or {}), **others)


def one(changed: Facts) -> Finding:
    found = findings.find(changed)
    assert len(found) == 1, found
    return found[0]


def test_a_healthy_machine_has_no_findings() -> None:
    """An idle link of generation 1, a little memory in use and an older minor CUDA are nothing to worry about."""
    assert findings.find(HEALTHY) == ()
    assert findings.find(facts({"free_bytes": 22 * GIB}, torch={"cuda": "13.2"})) == ()


class TestSoftware:
    def test_a_driver_too_old(self) -> None:
        """What the driver runs and what torch is of, and which driver would do."""
        found = one(facts({"driver": "550.54"}, {"cuda": (12, 4)}, {"gpus": []}))
        assert found.fatal
        assert found.message == "driver 550.54 runs CUDA up to 12.4, and this torch is of 13.0"
        assert "580.65" in found.hint

    def test_a_torch_without_cuda(self) -> None:
        """The driver is well, and torch sees nothing."""
        found = one(facts(torch={"cuda": None, "gpus": []}))
        assert found.fatal
        assert "built without CUDA" in found.meaning

    @pytest.mark.parametrize(
        ("capability", "archs", "meaning"),
        [
            ("7.0", ["sm_75", "sm_80", "sm_90"], "none of which run on sm_70"),
            ("12.0", ["sm_80", "sm_90"], "none of which run on sm_120"),
            ("8.9", ["sm_80", "sm_90"], "the GPU does not work"),
            ("12.0", ["sm_80", "compute_90"], "the GPU does not work"),
        ],
    )
    def test_an_architecture_torch_was_not_built_for(self, capability: str, archs: list[str], meaning: str) -> None:
        """Told from a broken GPU by what kernels there are: binaries run within a major version, PTX on newer cards."""
        seen = SEEN | {"compute_capability": capability, "kernel": "RuntimeError: no kernel image"}
        found = one(facts(torch={"gpus": [seen], "archs": archs}))
        assert found.fatal
        assert meaning in found.meaning

    def test_transformers_that_diffsynth_cannot_offload_with(self) -> None:
        """The version is named, and which to take."""
        troubles = {"transformers": "AttributeError: no attribute 'Qwen2_5_VisionRotaryEmbedding'"}
        found = one(facts(torch={"transformers": "5.23.0", "troubles": troubles}))
        assert found.fatal
        assert "5.23.0" in found.meaning
        assert "<5.16" in found.hint

    @pytest.mark.parametrize(
        ("lacking", "missing"),
        [
            ({"triton": None}, "Triton is missing"),
            ({"c_compiler": False}, "there is no C compiler"),
            ({"python_headers": False}, "Python.h is missing"),
            ({}, "Triton are here"),
        ],
    )
    def test_what_a_compiler_lacks(self, lacking: dict[str, Any], missing: str) -> None:
        """A kernel did not compile: what is missing is named; rendering goes on, slower."""
        compiler = TORCH["compiler"] | {"kernel": "RuntimeError: Failed to find C compiler"} | lacking
        found = one(facts(torch={"compiler": compiler}))
        assert not found.fatal
        assert missing in found.meaning

    def test_torch_that_gives_no_answer(self) -> None:
        """Nothing else can be said of a torch that cannot be asked."""
        found = one(dataclasses.replace(HEALTHY, torch={"error": "exit status 1: libcudart"}))
        assert found.fatal
        assert "libcudart" in found.message


class TestArithmetic:
    def test_no_fp8(self) -> None:
        """An RTX 30 renders fp8 jobs in bf16 arithmetic."""
        found = one(facts({"compute_capability": (8, 6)}))
        assert "multiplied as bf16" in found.meaning

    def test_no_bf16(self) -> None:
        """A T4 emulates bf16, which is worse than having no FP8 and is said instead."""
        found = one(facts({"compute_capability": (7, 5)}))
        assert "emulated" in found.meaning

    def test_an_fp8_product_that_fails(self) -> None:
        """A card that has FP8 under a torch that has not."""
        found = one(facts(torch={"gpus": [SEEN | {"fp8": "RuntimeError: not supported"}]}))
        assert "--precision bf16" in found.hint


class TestBus:
    def test_a_narrow_link(self) -> None:
        """Four lanes of sixteen; an old slot that offers eight to a card of sixteen is as narrow."""
        narrow = dataclasses.replace(LINK, width=4)
        slow = rates.of_card(CARD).model_copy(update={"pinned_bytes_per_s": 6.5e9})
        assert "4 lanes of 16" in one(facts({"link": narrow}, rates=slow)).message
        slot = dataclasses.replace(LINK, width=8, most_width=8)
        assert "8 lanes of 16" in one(facts({"link": slot})).message

    def test_an_older_slot(self) -> None:
        """A card of generation 4 in a slot of generation 3."""
        old = dataclasses.replace(LINK, most_generation=3)
        assert "generation 3 here, and the card does 4" in one(facts({"link": old})).message

    def test_copies_slower_than_the_link(self) -> None:
        """What NVML says is well and what is measured is not: a chipset's slot, a riser."""
        slow = rates.of_card(CARD).model_copy(update={"pinned_bytes_per_s": 6.0e9})
        found = one(facts(rates=slow))
        assert "6.0 GB/s" in found.message
        assert "PCIe 4 x16 should bring 27.7" in found.message


class TestMemory:
    def test_nothing_can_be_pinned(self) -> None:
        """The limit on locked memory is told with what raises it, and what it costs; rendering goes on."""
        found = one(facts(machine={"lockable_bytes": 64 * 1024**2}, torch={"pinning": "MachineError: 256 MiB"}))
        assert not found.fatal
        assert "GB/s, and computing waits" in found.meaning
        assert "64 MiB" in found.message
        assert "memlock" in found.hint

    def test_a_low_limit_that_forbids_nothing(self) -> None:
        """Drivers pin past the limit: only what was tried counts."""
        assert findings.find(facts(machine={"lockable_bytes": 65536})) == ()

    def test_wsl(self) -> None:
        """Windows bounds what can be pinned; a failure there is its doing, not ulimit's."""
        assert "half" in one(facts(machine={"wsl": True})).meaning
        assert "wslconfig" in one(facts(machine={"wsl": True}, torch={"pinning": "failed"})).hint

    def test_host_memory_that_holds_no_blocks(self) -> None:
        """They come from the disk; without swap it is said what that means."""
        found = one(facts(machine={"ram_free_bytes": 8 * GIB, "swap_bytes": 0, "swap_free_bytes": 0}))
        assert "from the disk" in found.meaning
        assert "no swap" in found.meaning

    def test_swap_in_use(self) -> None:
        """More than half of it."""
        assert "swap are in use" in one(facts(machine={"swap_free_bytes": GIB // 4})).message

    def test_a_small_shm(self) -> None:
        """A container's 64 MiB harm others, not us."""
        found = one(facts(machine={"shm_bytes": 64 * 1024**2}))
        assert "/dev/shm holds 64 MiB" in found.message
        assert "does without" in found.meaning

    def test_a_gpu_that_another_process_fills(self) -> None:
        """By name where the driver tells; from within a container it cannot."""
        neighbour = GpuProcess(4242, "ollama", 9 * GIB)
        assert "ollama (4242, 9.0 GiB)" in one(facts({"free_bytes": 15 * GIB, "processes": (neighbour,)})).meaning
        assert "container" in one(facts({"free_bytes": 15 * GIB})).hint


class TestHealth:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"uncorrected_errors": 3}, "3 memory errors"),
            ({"slowdowns": ("its temperature",)}, "held back by its temperature"),
            ({"memory": "host"}, "has no memory of its own, and shares the host's 24.0 GiB"),
            ({"memory": "assumed"}, "the driver does not tell its memory"),
        ],
    )
    def test_what_nvml_complains_of(self, change: dict[str, Any], message: str) -> None:
        """ECC errors, throttling, memory that is the host's or is not told."""
        assert message in one(facts(change)).message

    def test_a_capability_that_is_not_told(self) -> None:
        """It is not taken for an old card's without a word."""
        assert "does not tell its compute capability" in one(facts({"compute_capability": (0, 0)})).message

    def test_cards_that_do_not_answer(self) -> None:
        """They are named, and that the others are used; a split card without parts has a hint of its own."""
        lost = one(facts(machine={"gpu_troubles": ("GPU 1 does not answer: GPU is lost",)}))
        assert (lost.message, lost.meaning) == ("GPU 1 does not answer: GPU is lost", "the other GPUs are used")
        assert "reboot" in lost.hint
        split = "GPU 0 is split (MIG), and shows none of its parts"
        found = findings.find(facts(machine={"gpu_troubles": (split,), "gpus": ()}, torch={"gpus": []}, card=None))
        assert [each.meaning for each in found if each.message == split] == ["no GPU can be used"]

    def test_a_card_slower_than_its_kind(self) -> None:
        """Products at half of what such a card does: a power limit, heat."""
        slow = rates.of_card(CARD)
        slow = slow.model_copy(update={"product_flops": slow.product_flops / 2})
        assert "bf16 products at 50%" in one(facts(rates=slow)).message

    def test_rates_that_could_not_be_measured(self) -> None:
        """The child's words are told."""
        assert "out of memory" in one(facts(rates="CUDA out of memory")).message


class TestDisks:
    def test_a_disk_nearly_full(self) -> None:
        """Pictures' and models' disks are looked at apart."""
        assert "disk for outputs" in one(facts(outputs_free_bytes=GIB)).message
        assert "disk for models" in one(facts(models_free_bytes=GIB)).message

    def test_a_cache_that_cannot_be_written(self) -> None:
        """With the reason."""
        assert "Permission denied" in one(facts(cache_trouble="/cache: Permission denied")).message

    def test_a_cache_elsewhere(self) -> None:
        """Where another folder stands in, it is said which and for which."""
        found = one(facts(cache_moved=(Path("/tmp/renderer-1/cache"), Path("/.cache/renderer"))))
        assert found.message == "/.cache/renderer cannot be written, and /tmp/renderer-1/cache is used instead"


def test_no_gpu() -> None:
    """A machine without one rehearses, and hears nothing of buses and drivers."""
    found = one(dataclasses.replace(HEALTHY, machine=dataclasses.replace(HERE, gpus=(), cuda=None), card=None))
    assert not found.fatal
    assert "--proof" in found.meaning


class TestProcessor:
    def with_processor(self, processor: Processor) -> list[Finding]:
        found = findings.find(
            dataclasses.replace(
                HEALTHY, machine=dataclasses.replace(HERE, gpus=(), cuda=None), card=None, processor=processor
            )
        )
        return [finding for finding in found if "bf16" in finding.message]

    def test_one_without_bf16_units(self) -> None:
        """What it computes in instead, what that means, and nothing to do about it."""
        (found,) = self.with_processor(Processor(bf16_units=False))
        assert found.message == "this processor has no bf16 units: the CPU computes in float32"
        assert "bits are not those of a machine that computes in bf16" in found.meaning
        assert not found.hint
        assert not found.fatal

    def test_one_that_is_kept_from_using_them(self) -> None:
        """By which variable."""
        (found,) = self.with_processor(Processor(bf16_units=True, capped_by="ONEDNN_MAX_CPU_ISA=AVX2"))
        assert "ONEDNN_MAX_CPU_ISA=AVX2 keeps this processor's bf16 units unused" in found.message
        assert found.hint == "unset ONEDNN_MAX_CPU_ISA, unless you mean it"

    def test_one_with_them_is_no_finding(self) -> None:
        """Nor is any processor beside a GPU, which renders."""
        assert not self.with_processor(Processor(bf16_units=True))
        assert not findings.find(dataclasses.replace(HEALTHY, processor=Processor(bf16_units=False)))


def test_what_forbids_rendering_comes_first() -> None:
    """Whatever else is wrong."""
    found = findings.find(facts({"free_bytes": GIB}, torch={"error": "no libcudart"}, cache_trouble="full"))
    assert [finding.fatal for finding in found] == [True, False, False]


def test_hints_say_what_to_do() -> None:
    """Each begins with a verb: it stands behind "do:"."""
    verbs = {
        "delete", "end", "expect", "free", "give", "install", "look", "make", "name", "plan", "raise", "reset", "run",
        "say", "see", "set", "take", "unset", "use",
    }  # fmt: skip
    hints = [
        text.value
        for room in (findings, card_findings)
        for call in ast.walk(ast.parse(inspect.getsource(room)))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Finding"
        for hint in [*call.args[2:3], *(each.value for each in call.keywords if each.arg == "hint")]
        for text in [hint.values[0] if isinstance(hint, ast.JoinedStr) else hint]
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and text.value
    ]
    assert len(hints) > 15
    assert [hint for hint in hints if hint.split()[0].strip(",:") not in verbs] == []
