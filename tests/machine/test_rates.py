"""Rates: measured by a child, kept while card, driver and torch stay what they are, reckoned for cards elsewhere."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from renderer.catalog import cards
from renderer.errors import MachineError
from renderer.machine import hardware, rates
from renderer.machine.gpus import LocalGpu
from renderer.machine.hardware import Machine
from renderer.machine.rates import Measurement, Rates

GIB = 2**30
NO_GPU = Machine((), 2, 8 * GIB, 8 * GIB)
GPU = LocalGpu(0, "A card", "GPU-1f", 10 * GIB, 10 * GIB, "580.1", (8, 9))


def with_gpu(gpu: LocalGpu = GPU) -> Machine:
    return dataclasses.replace(NO_GPU, gpus=(gpu,))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDERER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def some() -> Rates:
    return rates.of_card(cards.find("4090").card)


def remember(here: Machine, found: Rates, monkeypatch: pytest.MonkeyPatch) -> Rates:
    monkeypatch.setattr(rates, "_ask", lambda _: found)
    return rates.measure(here)


def path_of(machine: Machine) -> Path:
    """The file in the cache that holds a machine's rates."""
    return rates._path(rates._key(machine))


class TestCache:
    def test_what_was_measured_is_remembered(self, some: Rates, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing before, the figures afterwards, in one file that may be deleted."""
        here = with_gpu()
        assert rates.cached(here) is None
        assert remember(here, some, monkeypatch) == some
        assert rates.cached(here) == some
        path_of(here).unlink()
        assert rates.cached(here) is None

    def test_another_driver_or_card_is_measured_anew(self, some: Rates, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was measured under another driver, or on another card of the name, tells nothing."""
        remember(with_gpu(), some, monkeypatch)
        for change in ({"driver": "590.2"}, {"uuid": "GPU-2f"}, {"name": "Another"}):
            assert rates.cached(with_gpu(dataclasses.replace(GPU, **change))) is None  # type: ignore[arg-type]

    def test_another_torch_is_measured_anew(self, some: Rates, monkeypatch: pytest.MonkeyPatch) -> None:
        """Other kernels have other rates."""
        remember(with_gpu(), some, monkeypatch)
        monkeypatch.setattr("renderer.machine.rates.metadata.version", lambda _: "9.9")
        assert rates.cached(with_gpu()) is None

    @pytest.mark.parametrize("damage", ["{", "[]", "\0", "null"])
    def test_a_damaged_cache_is_no_cache(self, some: Rates, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
        """Half a file, or another file, is measured anew without a word."""
        remember(with_gpu(), some, monkeypatch)
        path_of(with_gpu()).write_text(damage)
        assert rates.cached(with_gpu()) is None

    @pytest.mark.parametrize("change", [{"product_flops": 0}, {"launch_s": -1}, {"product_flops": None}, {"more": 1}])
    def test_figures_that_cannot_be_are_no_cache(
        self, some: Rates, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
    ) -> None:
        """A rate of nothing, below nothing, missing or unknown is refused before anything divides by it."""
        remember(with_gpu(), some, monkeypatch)
        path = path_of(with_gpu())
        found = json.loads(path.read_text())
        found["rates"] |= change
        path.write_text(json.dumps(found))
        assert rates.cached(with_gpu()) is None

    def test_a_cache_that_cannot_be_written_is_no_error(
        self, some: Rates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The figures are there all the same."""
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("RENDERER_CACHE", str(tmp_path / "file"))
        assert remember(with_gpu(), some, monkeypatch) == some


class TestMeasure:
    def test_the_child_measures_this_machine(self) -> None:
        """The real child, on the device that is here; every figure is a number above 0, and the next look is free."""
        here = hardware.look()
        found = rates.measure(here)
        assert found.source == "measured"
        assert found.product_flops > 1e9
        assert found.memory_bytes_per_s > 1e8
        assert rates.cached(here) == found
        kept = Measurement.model_validate_json(path_of(here).read_bytes())
        assert kept.rates == found

    def test_a_child_that_fails_is_explained(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where torch cannot be imported, its last words are in the message."""
        (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open')\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(MachineError, match=r"libcudart\.so\.13"):
            rates.measure(NO_GPU)

    def test_a_processor_is_not_taken_for_a_gpu(self, some: Rates, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the driver shows a GPU and torch sees none, nothing is remembered as the GPU's."""
        monkeypatch.setattr(rates, "_ask", lambda _: some.model_copy(update={"device": "CPU"}))
        with pytest.raises(MachineError, match="torch sees none"):
            rates.measure(with_gpu())
        assert rates.cached(with_gpu()) is None

    def test_looking_needs_no_torch(self) -> None:
        """The plan asks for rates before any torch is imported."""
        code = "import sys; from renderer.machine import hardware, rates; rates.cached(hardware.look())"
        code += "; print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
        assert done.stdout == "False\n"


class TestOfCard:
    def test_the_h200_as_it_was_measured(self) -> None:
        """The stated shares give what the probe found there: products, FP8, attention, memory, the bus, launches."""
        found = rates.of_card(cards.find("H200").card)
        assert found.product_flops == pytest.approx(805e12, rel=0.02)
        assert found.fp8_flops == pytest.approx(1530e12, rel=0.02)
        assert found.attention_flops == pytest.approx(690e12, rel=0.02)
        assert found.convolution_flops == pytest.approx(279e12, rel=0.02)
        assert found.memory_bytes_per_s == pytest.approx(4.24e12, rel=0.02)
        assert found.pinned_bytes_per_s == pytest.approx(54.6e9, rel=0.02)
        assert 4.8e-6 <= found.launch_s <= 5.8e-6

    def test_every_card_has_rates(self) -> None:
        """FP8 where the card has it, an eight-lane card half the bus, and nothing above its peak."""
        for card in cards.CARDS:
            found = rates.of_card(card)
            assert found.product_flops < card.bf16_flops
            assert (found.fp8_flops is None) == (card.fp8_flops is None)
        narrow, wide = (rates.of_card(cards.find(name).card) for name in ("4060 Ti", "4080"))
        assert 2 * narrow.bus_bytes_per_s == pytest.approx(wide.bus_bytes_per_s)

    def test_the_bus_without_pinned_memory(self, some: Rates) -> None:
        """Where nothing can be pinned, copies are as slow as pageable ones."""
        unpinned = some.model_copy(update={"pinned_bytes_per_s": None})
        assert unpinned.bus_bytes_per_s == some.pageable_bytes_per_s
