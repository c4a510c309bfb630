from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from renderer import catalog
from renderer.catalog import cards
from renderer.estimate import Streaming, Work, decide
from renderer.estimate.duration import hiding
from renderer.rates import of_card

GIB = 2**30
STREAMING = Streaming(catalog.QWEN_IMAGE_SHAPE, "fp8", 2)
BATCH = [Work(512, 512), Work(1328, 1328), Work(2048, 2048)]


class TestDecide:
    @pytest.mark.parametrize("available", [2.2, 2.6, 3, 4, 5, 6, 8, 10, 12, 16, 24, 80])
    def test_what_is_decided_fits(self, available: float) -> None:
        """With the slots and tiles that were decided, every picture that is not refused fits."""
        room = round(available * GIB)
        decision = decide.decide(STREAMING, BATCH, room)
        there = replace(STREAMING, slots=decision.slots)
        for work in BATCH:
            size = (work.width, work.height)
            if size not in decision.refused:
                assert decide.needed(there, [replace(work, tiled=size in decision.tiled)]) <= room
            else:
                assert decide.needed(STREAMING, [work.tiling()]) > room

    def test_no_slot_is_left_out(self) -> None:
        """One slot more would not fit."""
        for available in (4 * GIB, 8 * GIB, 12 * GIB):
            decision = decide.decide(STREAMING, [Work(1328, 1328)], available)
            more = replace(STREAMING, slots=decision.slots + 1)
            tiled = bool(decision.tiled)
            assert decide.needed(more, [Work(1328, 1328, tiled=tiled)]) > available - 0.02 * available

    def test_tiles_only_where_a_picture_does_not_fit_whole(self) -> None:
        """Of several sizes, the large one is tiled alone."""
        decision = decide.decide(STREAMING, BATCH, 6 * GIB)
        assert decision.tiled == {(2048, 2048)}
        assert not decision.refused

    def test_never_fewer_than_two_slots_nor_one_picture(self) -> None:
        """However little there is; what does not fit then is refused."""
        decision = decide.decide(STREAMING, BATCH, GIB)
        assert (decision.slots, decision.in_flight) == (2, 1)
        assert len(decision.refused) == 3

    def test_small_pictures_ride_together_where_the_bus_is_slow(self) -> None:
        """As many in flight as hide the copies, and those fit; large ones hide them alone."""
        rates = of_card(cards.find("H200").card)

        def hides(work: Work, slots: int) -> int:
            return hiding(replace(STREAMING, slots=slots), work, rates)

        small = decide.decide(STREAMING, [Work(512, 512)], 4 * GIB, hiding=hides, slots=3)
        assert 2 <= small.in_flight <= 8
        assert small.needed <= 4 * GIB
        large = decide.decide(STREAMING, [Work(1328, 1328)], 8 * GIB, hiding=hides)
        assert large.in_flight == 1

    def test_a_bound_on_slots_is_kept(self) -> None:
        """Whoever fixes the slots gets them."""
        assert decide.decide(STREAMING, BATCH, 80 * GIB, slots=7).slots == 7

    def test_without_a_gpu_nothing_is_bounded(self) -> None:
        """On the CPU slots cost what the host has anyway."""
        decision = decide.decide(STREAMING, BATCH, None)
        assert (decision.slots, decision.tiled, decision.refused) == (60, frozenset(), frozenset())

    def test_more_memory_never_refuses_more(self) -> None:
        """What fits in less fits in more."""
        refused = [decide.decide(STREAMING, BATCH, step * GIB // 8).refused for step in range(8, 60)]
        assert all(later <= earlier for earlier, later in itertools.pairwise(refused))


class TestNearestFitting:
    def test_it_fits_and_a_step_more_does_not(self) -> None:
        """The nearest size has about the same ratio, is one the model takes, and is not far from the bound."""
        old = replace(STREAMING, kernels=replace(STREAMING.kernels, fused_attention=False))
        work, available = Work(2048, 2048), 4 * GIB
        assert decide.place(old, work, available) is None
        found = decide.nearest_fitting(old, catalog.QWEN_IMAGE, work, available)
        assert found is not None
        assert not catalog.QWEN_IMAGE.refusal(found)
        assert decide.place(old, Work(found.width, found.height), available)
        assert decide.place(old, Work(found.width + 32, found.height + 32), available) is None

    def test_there_may_be_none(self) -> None:
        """Where not even the smallest fits, nothing is proposed."""
        assert decide.nearest_fitting(STREAMING, catalog.QWEN_IMAGE, Work(1024, 1024), GIB) is None


class TestTokensTogether:
    def test_prompts_ride_in_what_is_left(self) -> None:
        """Little room, few tokens; much room, as many as the engine ever takes."""
        few = decide.tokens_together(STREAMING, [], round(2.1 * GIB))
        assert 0 < few < 4096
        assert decide.needed(STREAMING, [Work(256, 256, prompt_tokens=few - 60)]) <= 2.2 * GIB
        assert decide.tokens_together(STREAMING, [], 24 * GIB) == 4096
        assert decide.tokens_together(STREAMING, [], GIB) == 0
