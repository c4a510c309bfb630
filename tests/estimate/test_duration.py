"""Seconds against what an H200 showed, from its rates: tests/benchmarks/engine-h200.md, and runs since recordings.

The decode's are an H100's: the H200's figures are of the VAE of films.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from renderer import catalog
from renderer.catalog import cards
from renderer.estimate import Streaming, Work, duration
from renderer.job import Stored
from renderer.machine.rates import Rates, of_card

SHAPE = catalog.QWEN_IMAGE_SHAPE
MACHINE, *ROWS = map(json.loads, (Path(__file__).parent.parent / "benchmarks" / "decodes-h100.jsonl").open())
DECODES = {
    tuple(row["size"]): row["seconds"] for row in ROWS if (row["what"], row.get("form")) == ("decode", "kernels")
}
H200 = Rates(
    source="measured", device="NVIDIA H200", product_flops=804.8e12, fp8_flops=1544.7e12, attention_flops=694.7e12,
    convolution_flops=221.3e12, memory_bytes_per_s=4238e9, pinned_bytes_per_s=55.5e9, pageable_bytes_per_s=11.5e9,
    host_copy_bytes_per_s=60.5e9, disk_bytes_per_s=5e9, launch_s=4.81e-6,
)  # fmt: skip
"""As `renderer doctor` measured them; steps and decodes are of the same day."""


class TestSweep:
    @pytest.mark.parametrize(
        ("precision", "slots", "side", "in_flight", "measured", "limit"),
        [
            ("fp8", 60, 512, 1, 0.0482, "arithmetic"),
            ("fp8", 60, 1024, 1, 0.167, "arithmetic"),
            ("fp8", 60, 1328, 1, 0.314, "arithmetic"),
            ("fp8", 3, 1328, 1, 0.315, "arithmetic"),
            ("fp8", 3, 2048, 1, 1.16, "arithmetic"),
            ("fp8", 3, 1024, 4, 0.682, "arithmetic"),
            ("fp8", 3, 512, 1, 0.245, "bus"),
            ("bf16", 3, 512, 1, 0.483, "bus"),
            ("bf16", 3, 1328, 1, 0.668, "arithmetic"),
        ],
    )
    def test_within_a_tenth_of_what_was_measured(
        self, precision: Stored, slots: int, side: int, in_flight: int, measured: float, limit: str
    ) -> None:
        """A step takes what the arithmetic says, and waits for what it says."""
        works = [Work(side, side, 26)] * in_flight
        found = duration.sweep(Streaming(SHAPE, precision, slots), works, H200)
        assert found.seconds == pytest.approx(measured, rel=0.1)
        assert found.limit == limit

    @pytest.mark.parametrize(("slots", "side", "in_flight", "measured"), [(3, 512, 8, 8 * 0.0503), (60, 768, 1, 0.100)])
    def test_some_small_pictures_within_an_eighth(self, slots: int, side: int, in_flight: int, measured: float) -> None:
        """Where a GPU's kernels are short, what lies between them is known less well than what they compute."""
        found = duration.sweep(Streaming(SHAPE, "fp8", slots), [Work(side, side, 26)] * in_flight, H200)
        assert found.seconds == pytest.approx(measured, rel=0.125)
        assert found.limit == "arithmetic"

    @pytest.mark.parametrize(("precision", "measured"), [("fp8", 0.089), ("bf16", 0.180)])
    def test_without_recordings_small_pictures_wait_for_the_host(self, precision: Stored, measured: float) -> None:
        """A step of 512x512 whose launches are made one by one takes as long as they do."""
        streaming = Streaming(SHAPE, precision, 60, recording=False)
        found = duration.sweep(streaming, [Work(512, 512, 26)], H200)
        assert found.seconds == pytest.approx(measured, rel=0.1)
        assert found.limit == "launches"

    @pytest.mark.parametrize(("precision", "measured"), [("fp8", 0.314), ("bf16", 0.668)])
    def test_a_card_that_is_not_here_is_as_fast_as_one_that_was_measured(
        self, precision: Stored, measured: float
    ) -> None:
        """From the H200's data alone, too, a step takes what it took there."""
        found = duration.sweep(Streaming(SHAPE, precision, 3), [Work(1328, 1328, 26)], of_card(cards.find("H200").card))
        assert found.seconds == pytest.approx(measured, rel=0.05)

    def test_from_the_disk_the_disk_limits(self) -> None:
        """Blocks that do not fit into host memory come as fast as the disk reads."""
        found = duration.sweep(Streaming(SHAPE, "fp8", 2), [Work(512, 512)], H200, from_disk=True)
        assert found.limit == "disk"
        assert found.seconds == pytest.approx(60 * 226.8e6 / 5e9, rel=0.01)

    def test_so_many_in_flight_hide_the_copies(self) -> None:
        """With the number that is said to hide them, the sweep waits for nothing that one picture less would."""
        streaming, work = Streaming(SHAPE, "fp8", 3), Work(512, 512)
        enough = duration.hiding(streaming, work, H200)
        assert duration.sweep(streaming, [work] * (enough - 1), H200).limit == "bus"
        assert duration.sweep(streaming, [work] * enough, H200).limit == "arithmetic"


class TestDecode:
    @pytest.mark.parametrize("size", DECODES)
    def test_within_a_tenth(self, size: tuple[int, int]) -> None:
        """By the H100's own rates, a decode takes what it took there."""
        rates = Rates(**{name: value for name, value in MACHINE.items() if name in Rates.model_fields})
        assert duration.decode_seconds(SHAPE, Work(*size), rates) == pytest.approx(DECODES[size], rel=0.1)

    def test_a_card_that_is_not_here_is_as_fast_as_one_that_was_measured(self) -> None:
        """From the H100's data alone, too."""
        found = duration.decode_seconds(SHAPE, Work(1328, 1328), of_card(cards.find("H100").card))
        assert found == pytest.approx(DECODES[1328, 1328], rel=0.1)
