"""Seconds against what was measured, from the rates of the same machine, on the same day.

Constants of steps in fp8 were found with an H200 (tests/benchmarks/engine-h200.json), and an H100 only tests them
(engine-h100.json). Those of bf16 and of launches that are not recorded were found with both, the decode's with an H100
(decodes-h100.jsonl).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from renderer import catalog
from renderer.benchmarks import engine
from renderer.catalog import DROPPED_TOKENS, MOST_TOKENS, cards
from renderer.estimate import Kernels, Streaming, Work, duration, weight_bytes
from renderer.estimate.fitted import DECODE_HOST_CALLS, KEPT_UP
from renderer.machine.rates import Rates, of_card

SHAPE = catalog.QWEN_IMAGE_ARCHITECTURE
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
MACHINE, *ROWS = map(json.loads, (BENCHMARKS / "decodes-h100.jsonl").open())
DECODES = {
    tuple(row["size"]): row["seconds"] for row in ROWS if (row["what"], row.get("form")) == ("decode", "kernels")
}
FOUND: dict[str, Any] = {
    file.stem.removeprefix("engine-"): json.loads(file.read_text(encoding="utf-8"))
    for file in BENCHMARKS.glob("engine-*.json")
}
RATES = {card: Rates.model_validate(found["rates"]) for card, found in FOUND.items()}
CASES = {
    (card, row["case"], row["side"]): row
    for card, found in FOUND.items()
    for row in (*engine.ours(found), *found["rows"].get(engine.RESIDENT_PEER, ()))
    if row["side"] >= 1024 or "bf16" in row["case"] or "together" in row
}
"""But for small pictures in fp8 from before they went together, and blocks had fewer kernels."""
INT8_LINES = (BENCHMARKS / "int8-h100.jsonl").read_text(encoding="utf-8").splitlines()
INT8 = [line for line in map(json.loads, INT8_LINES) if "step_s" in line]
INT4_LINES = (BENCHMARKS / "int4-h100.jsonl").read_text(encoding="utf-8").splitlines()
INT4 = [line for line in map(json.loads, INT4_LINES) if "step_s" in line]
LIMITS: dict[tuple[str, int], duration.Limit] = {
    ("3-slots-small", 512): "bus",
    ("bf16-3-slots-small", 512): "bus",
    ("3-slots-768", 768): "bus",
    ("3-slots-1024", 1024): "bus",
    ("3-slots-1024-unguided", 1024): "bus",
    ("resident-small-unrecorded", 512): "launches",
    (engine.RESIDENT_PEER, 512): "launches",
}
"""What a case waits for that does not wait for the GPU's arithmetic."""


APART = Streaming(SHAPE, "fp8", 3, together=0)
"""Where each goes through the blocks alone, company is for hiding copies."""


class TestSweep:
    @pytest.mark.parametrize("key", CASES, ids=str)
    def test_what_was_measured(self, key: tuple[str, str, int]) -> None:
        """A step takes what the arithmetic says within 6.5 %, and waits for what it says."""
        row = CASES[key]
        found = engine.forecast(row, RATES[key[0]])
        assert found.seconds / row.get("pictures", 1) == pytest.approx(row["step_s"], rel=0.065)
        assert found.limit == LIMITS.get(key[1:], "arithmetic")

    @pytest.mark.parametrize("key", [key for key in CASES if LIMITS.get(key[1:]) != "launches"], ids=str)
    def test_a_card_that_is_not_here_is_as_fast_as_one_that_was_measured(self, key: tuple[str, str, int]) -> None:
        """From the card's data alone, too, a step takes what it took there within 6.5 %, whatever its host launches."""
        row, card = CASES[key], cards.find(key[0].upper()).card
        found = engine.forecast(row, of_card(card))
        assert found.seconds / row.get("pictures", 1) == pytest.approx(row["step_s"], rel=0.065)

    @pytest.mark.parametrize("row", INT8, ids=[row["case"] for row in INT8])
    def test_int8_keeps_up_a_little_more(self, row: dict[str, Any]) -> None:
        """Nothing was found with these figures: a step takes what is said, or up to an eighth less."""
        (measured,) = (line["rates"] for line in map(json.loads, INT8_LINES) if "rates" in line)
        rates = of_card(cards.find("H100").card).model_copy(update=measured)
        found = engine.forecast(row, rates).seconds / row["pictures"]
        assert 0.98 < found / row["step_s"] < 1.125

    @pytest.mark.parametrize("row", INT4, ids=[row["case"] for row in INT4])
    def test_int4_is_int8_and_what_unpacking_takes(self, row: dict[str, Any]) -> None:
        """Nothing was found with these figures either, over a fast bus and over a slow one."""
        (measured,) = (line["rates"] for line in map(json.loads, INT4_LINES) if "rates" in line)
        rates = of_card(cards.find("H100").card).model_copy(update=measured)
        found = engine.forecast(row, rates).seconds / row["pictures"]
        assert found == pytest.approx(row["step_s"], rel=0.065)

    def test_four_bits_halve_what_is_moved(self) -> None:
        """A bus of 8 GB/s holds one small picture up half as long; unpacking takes a little, whatever is computed."""
        rates = RATES["h100"].model_copy(update={"pinned_bytes_per_s": 8e9})
        int4, int8 = (duration.sweep(Streaming(SHAPE, kept, 2), [Work(512, 512)], rates) for kept in ("int4", "int8"))
        assert (int4.limit, int8.limit) == ("bus", "bus")
        assert int4.bus_s == pytest.approx(0.55 * int8.bus_s, rel=0.01)
        assert 0.005 < int4.arithmetic_s - int8.arithmetic_s < 0.02
        assert int4.launches_s > int8.launches_s

    def test_what_is_decoded_to_bf16_takes_a_pass_over_each_block(self) -> None:
        """On a card that does not multiply fp8: to float32, times the scales, to bf16, block by block."""
        old = Streaming(SHAPE, "fp8", 60, Kernels(products=frozenset()))
        restored, plain = (
            duration.sweep(each, [Work(1328, 1328)], RATES["h100"]).arithmetic_s
            for each in (old, replace(old, precision="bf16"))
        )
        moved = SHAPE.layers * 7 * weight_bytes(SHAPE, "bf16").block
        assert restored - plain == pytest.approx(moved / RATES["h100"].memory_bytes_per_s / KEPT_UP)

    def test_what_has_a_slot_of_its_own_is_not_moved(self) -> None:
        """All but two of the slots keep their block, and all of them where there are as many as blocks."""
        blocks = [duration.moved_bytes(Streaming(SHAPE, "fp8", slots)) // weight_bytes(SHAPE, "fp8").block
                  for slots in (2, 3, 59, 60)]  # fmt: skip
        assert blocks == [60, 59, 3, 0]

    def test_from_the_disk_the_disk_limits(self) -> None:
        """Blocks that do not fit into host memory come as fast as the disk reads."""
        found = duration.sweep(Streaming(SHAPE, "fp8", 2), [Work(512, 512)], RATES["h200"], from_disk=True)
        assert found.limit == "disk"
        assert found.seconds == pytest.approx(60 * 226.8e6 / 5e9, rel=0.01)

    def test_who_hides_copies_pays(self) -> None:
        """One more pays as long as the sweep waits for the bus, and not when it waits for arithmetic."""
        streaming, work = APART, Work(512, 512)
        riding = [work]
        while duration.pays(streaming, streaming, riding, work, RATES["h200"]):
            assert duration.sweep(streaming, riding, RATES["h200"]).limit == "bus"
            riding.append(work)
        assert len(riding) > 1
        assert duration.sweep(streaming, riding, RATES["h200"]).limit == "arithmetic"

    def test_who_hides_next_to_nothing_does_not_pay(self) -> None:
        """Where the copies take a hundredth of its computing longer than the others', one more makes all later."""
        streaming, work = APART, Work(512, 512)
        rates = RATES["h200"]
        alone = duration.sweep(streaming, [work], rates)
        for part, pays in ((1.01, False), (1.2, True)):
            bus = rates.bus_bytes_per_s * alone.bus_s / (part * alone.computing_s)
            there = rates.model_copy(update={"pinned_bytes_per_s": bus})
            assert duration.pays(streaming, streaming, [work], work, there) == pays

    def test_each_is_weighed_by_its_own_size(self) -> None:
        """A large picture hides what would take many small ones; beside it, nobody pays any more."""
        streaming, small, large = APART, Work(512, 512, guided=False), Work(1328, 1328)
        assert duration.pays(streaming, streaming, [small] * 3, large, RATES["h200"])
        assert duration.pays(streaming, streaming, [small] * 4, small, RATES["h200"])
        assert not duration.pays(streaming, streaming, [large], small, RATES["h200"])

    def test_who_takes_the_room_of_recordings_does_not_pay(self) -> None:
        """Where launches would no longer be recorded, the host launches longer than the copies take."""
        streaming, work = APART, Work(512, 512)
        assert duration.pays(streaming, streaming, [work] * 4, work, RATES["h200"])
        unrecorded = replace(streaming, recording=False)
        assert not duration.pays(streaming, unrecorded, [work] * 4, work, RATES["h200"])

    def test_slower_computing_needs_less_company(self) -> None:
        """Where computing takes twice as long as the rates say, half as many hide the copies."""
        streaming, work = APART, Work(512, 512)

        def riding(slower: float) -> int:
            number = 1
            while duration.pays(streaming, streaming, [work] * number, work, RATES["h200"], slower=slower):
                number += 1
            return number

        assert riding(2.0) == pytest.approx(riding(1.0) / 2, abs=0.5)
        assert riding(0.5) == pytest.approx(riding(1.0) * 2, abs=1)


class TestTogether:
    """Small pictures that go through the blocks as one."""

    RESIDENT = Streaming(SHAPE, "fp8", 60)

    def company(self, work: Work, **there: object) -> int:
        """How many ride where nothing is copied."""
        streaming, number = replace(self.RESIDENT, **there), 1  # type: ignore[arg-type]
        while number < 40 and duration.pays(streaming, streaming, [work] * number, work, RATES["h100"]):
            number += 1
        return number

    def test_it_pays_until_they_are_as_many_as_go_together(self) -> None:
        """Eight passes of 512x512, two of each guided picture; eleven of 256x256, whose launches take longest."""
        small, guided = Work(512, 512, guided=False), Work(512, 512)
        assert [self.company(work) for work in (small, guided, Work(256, 256, guided=False))] == [8, 4, 11]
        assert [self.company(small, together=most) for most in (0, 2400, 4608)] == [1, 2, 4]

    def test_large_ones_and_others_arithmetic_go_alone(self) -> None:
        """Nothing is gained where a picture's own rows are many, nor where each is scaled back to bf16."""
        assert self.company(Work(1328, 1328)) == self.company(Work(1328, 1328, guided=False)) == 1
        assert self.company(Work(512, 512), precision="bf16") == 1

    def test_a_picture_takes_less_than_alone(self) -> None:
        """A third less for eight of 512x512, as it was measured."""
        work = Work(512, 512, guided=False)
        alone, together = (duration.sweep(self.RESIDENT, [work] * count, RATES["h100"]) for count in (1, 8))
        assert 0.6 < together.seconds / 8 / alone.seconds < 0.75


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

    def test_each_layer_is_decoded(self) -> None:
        """A picture that is taken apart into four is five decodes, and one in which goes in."""
        whole, apart = (Work(512, 512, takes_in=True, layer_num=number) for number in (0, 4))
        one = duration.decode_seconds(SHAPE, Work(512, 512), RATES["h100"])
        more, without = (duration.decode_seconds(SHAPE, each, RATES["h100"]) for each in (apart, whole))
        assert more - without == pytest.approx(4 * one)

    def test_a_slow_host_is_waited_for(self) -> None:
        """Launching a decode takes as long, however small the picture."""
        slow = RATES["h100"].model_copy(update={"launch_s": 1e-3})
        assert duration.decode_seconds(SHAPE, Work(256, 256), slow) == pytest.approx(DECODE_HOST_CALLS * 1e-3)


class TestEncode:
    """Before the steps, what is read from the disk takes longest: the encoder's layers, once for each group."""

    RATES = RATES["h100"]

    def seconds(self, *prompts: int, timesteps: int = 0, looking: bool = False) -> float:
        """By the disk's rate alone, in bytes that are read."""
        slow = self.RATES.model_copy(update={"disk_bytes_per_s": 1.0, "launch_s": 0.0})
        return duration.encode_seconds(SHAPE, "fp8", prompts, timesteps, slow, looking=looking)

    def test_prompts_share_a_sweep_while_they_fit(self) -> None:
        """With what its template has before it, each: two of half the tokens do not, and one always does."""
        weights = weight_bytes(SHAPE, "fp8")
        sweep = SHAPE.text_layers * weights.text_block
        half = MOST_TOKENS // 2 - DROPPED_TOKENS
        assert [self.seconds(*each) / sweep for each in ((), (9,), (9,) * 3, (half, half), (half, half, 9))] == [
            *(0, 1, 1, 1, 2)
        ]
        assert self.seconds(half + 1, half) == 2 * sweep
        assert self.seconds(10 * MOST_TOKENS) == sweep

    def test_pictures_are_looked_at_in_each_sweep(self) -> None:
        """Past the vision tower, once a group."""
        for prompts in ((9,), (MOST_TOKENS, MOST_TOKENS)):
            more = self.seconds(*prompts, looking=True) - self.seconds(*prompts)
            assert more == len(prompts) * weight_bytes(SHAPE, "fp8").vision

    def test_modulations_are_read_once_where_some_are_made(self) -> None:
        """However many timesteps; native, there are none, and nothing is read."""
        read = SHAPE.layers * weight_bytes(SHAPE, "fp8").modulation
        assert [self.seconds(9, timesteps=count) - self.seconds(9) for count in (0, 1, 40)] == [0, read, read]
