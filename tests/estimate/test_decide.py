from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from renderer import catalog
from renderer.catalog import DROPPED_TOKENS, cards
from renderer.estimate import Streaming, Work, decide, duration
from renderer.estimate.decide import Decision, Series
from renderer.estimate.fitted import PAGES_BYTES, PAGES_PART
from renderer.estimate.memory import TURNING_SLOTS
from renderer.estimate.work import BEHIND
from renderer.job import Size, Stored
from renderer.machine.rates import of_card

GIB = 2**30
STREAMING = Streaming(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", 2)
BATCH = [Work(512, 512), Work(1328, 1328), Work(2048, 2048)]
KINDS = list(map(Series, BATCH))
SMALL = Series(Work(512, 512, guided=False))
H100, H200 = (of_card(cards.find(name).card) for name in ("H100", "H200"))
COMPANIES = [
    *([Work(side, side)] * number for side in (256, 512, 768, 1024, 1328, 2048) for number in (1, 2, 8)),
    [Work(512, 512, prompt_tokens=1600)],  # of which one pass is small
    [Work(512, 512), Work(640, 640), Work(768, 768)],
    [Work(512, 512, guided=False), *BATCH],
]


def recorded(decision: Decision) -> bool:
    """Whether there is room to record the launches of all that ride, who are of one kind."""
    ((work, number),) = decision.riding.items()
    assert decision.bytes is not None
    return decide.recording(replace(STREAMING, slots=decision.slots), [work] * number) <= decision.bytes


def step_s(decision: Decision) -> float:
    """Seconds of a step of one picture, of a kind that rides so on an H100."""
    ((work, number),) = decision.riding.items()
    there = replace(STREAMING, slots=decision.slots, recording=recorded(decision))
    return duration.sweep(there, [work] * number, H100).seconds / number


class TestNeeded:
    @pytest.mark.parametrize("works", COMPANIES)
    @pytest.mark.parametrize("slots", [2, 10, 60])
    @pytest.mark.parametrize("precision", ["fp8", "bf16"])
    def test_least_then_needed_then_recording(self, precision: Stored, slots: int, works: list[Work]) -> None:
        """Doing without takes less; going together and recording more, where there is any picture so small."""
        there = replace(STREAMING, precision=precision, slots=slots)
        least, needed, recording = (each(there, works) for each in (decide.least, decide.needed, decide.recording))
        assert least < needed <= recording
        companies = there.companies(works)
        assert recording > needed or not any(map(there.is_recorded, companies))
        assert recording == needed or any(len(each) > 1 or there.is_recorded(each) for each in companies)

    @pytest.mark.parametrize("works", COMPANIES)
    def test_each_says_itself_whether_recordings_count(self, works: list[Work]) -> None:
        """What is needed has none in it, and what recording takes has all, whatever whoever asks does."""
        without = replace(STREAMING, recording=False)
        for count in (decide.least, decide.needed, decide.recording):
            assert count(without, works) == count(STREAMING, works)


class TestWithRoom:
    def test_what_is_not_wanted_is_not_done_for_all_the_room(self) -> None:
        """A device that records nothing records nothing."""
        works = [Work(512, 512)]
        assert decide.with_room(STREAMING, works, 80 * GIB).recording
        assert not decide.with_room(replace(STREAMING, recording=False), works, 80 * GIB).recording


class TestFits:
    def test_a_picture_is_taken_from_the_least_on(self) -> None:
        """Where it fits with luck alone, it is tried: refused is what cannot be rendered at all."""
        work = Work(2048, 2048)
        least, needed = (each(STREAMING, [work]) for each in (decide.least, decide.needed))
        for room in (least, (least + needed) // 2, needed):
            assert decide.fits(STREAMING, work, room)
            decision = decide.decide(STREAMING, [Series(work)], room)
            assert (decision.slots, decision.in_flight, decision.refused) == (2, 1, frozenset())
        assert not decide.fits(STREAMING, work, least - 1)
        assert decide.decide(STREAMING, [Series(work)], least - 1).refused == {(2048, 2048)}


class TestSlotsBeside:
    def test_with_little_room_slots_come_before_recordings(self) -> None:
        """Where recordings would leave not even two slots, as many are found as fit without."""
        works, apart = COMPANIES[-2], replace(STREAMING, together=0)
        room = decide.needed(replace(apart, slots=3), works)
        assert decide.recording(apart, works) > room
        assert decide.slots_beside(apart, [works], room) == 3

    @pytest.mark.parametrize("works", COMPANIES)
    def test_with_more_room_recordings_fit_beside_the_slots(self, works: list[Work]) -> None:
        """From two slots with recordings on, all that is chosen fits together, and one slot more would not."""
        fewest = decide.recording(STREAMING, works)
        for room in range(fewest, fewest + 16 * GIB, GIB // 7):
            slots = decide.slots_beside(STREAMING, [works], room)
            assert decide.recording(replace(STREAMING, slots=slots), works) <= room
            assert slots == 60 or decide.recording(replace(STREAMING, slots=slots + 1), works) > room

    def test_the_company_that_needs_most_tells(self) -> None:
        """Slots are beside each of the companies, one after another."""
        small, large = [Work(512, 512)], [Work(2048, 2048)] * 4
        together = decide.slots_beside(STREAMING, [small, large], 8 * GIB)
        assert together == decide.slots_beside(STREAMING, [large], 8 * GIB)
        assert together < decide.slots_beside(STREAMING, [small], 8 * GIB)


class TestDecide:
    @pytest.mark.parametrize("available", [1.85, 1.95, 2.2, 2.6, 3, 4, 5, 6, 8, 10, 12, 16, 24, 80])
    def test_what_is_decided_fits(self, available: float) -> None:
        """With the slots that were decided, all fit but what is refused; with two slots, luck may be needed."""
        room = round(available * GIB)
        decision = decide.decide(STREAMING, KINDS, room)
        there = replace(STREAMING, slots=decision.slots)
        for work in BATCH:
            if (work.width, work.height) in decision.refused:
                assert decide.least(STREAMING, [work]) > room
            elif decision.slots == TURNING_SLOTS:
                assert decide.least(there, [work]) <= room
            else:
                assert decide.needed(there, [work]) <= room

    def test_no_slot_is_left_out(self) -> None:
        """One slot more would not fit."""
        for available in (4 * GIB, 8 * GIB, 12 * GIB):
            decision = decide.decide(STREAMING, [Series(Work(1328, 1328))], available)
            more = replace(STREAMING, slots=decision.slots + 1)
            assert decide.needed(more, [Work(1328, 1328)]) > available - 0.02 * available

    def test_large_pictures_fit_where_small_ones_do(self) -> None:
        """A decode takes its strips: 2048x2048 needs a tenth of a GiB more than 512x512."""
        large, small = (decide.needed(STREAMING, [Work(side, side)]) for side in (2048, 512))
        assert large - small < GIB / 8
        assert not decide.decide(STREAMING, KINDS, round(1.9 * GIB)).refused

    def test_never_fewer_than_two_slots_nor_one_picture(self) -> None:
        """However little there is; what does not fit then is refused."""
        decision = decide.decide(STREAMING, KINDS, GIB)
        assert (decision.slots, decision.in_flight) == (2, 1)
        assert len(decision.refused) == 3

    def test_small_pictures_ride_together_where_the_bus_is_slow(self) -> None:
        """As many in flight as hide the copies, and those fit; large ones hide them alone."""
        small = decide.decide(STREAMING, [Series(Work(512, 512))], 4 * GIB, rates=H200, slots=3)
        assert 2 <= small.in_flight <= 8
        assert small.needed <= 4 * GIB
        there = replace(STREAMING, slots=3)
        assert duration.sweep(there, [Work(512, 512)] * small.in_flight, H200).limit == "arithmetic"
        assert duration.sweep(there, [Work(512, 512)] * (small.in_flight - 1), H200).limit == "bus"
        assert decide.decide(STREAMING, [Series(Work(1328, 1328))], 8 * GIB, rates=H200).in_flight == 1

    def test_a_slot_goes_where_one_rider_more_makes_more_pictures(self) -> None:
        """All slots there is room for, or some fewer: the batch takes no longer than with any other number of them."""
        weighed = set[int]()
        for tenth in range(30, 140, 3):
            room = tenth * GIB // 10
            found = decide.decide(STREAMING, [SMALL], room, rates=H100)
            most = decide.decide(STREAMING, [SMALL], room).slots
            weighed.add(most - found.slots)
            others = [decide.decide(STREAMING, [SMALL], room, rates=H100, slots=count) for count in range(2, most + 1)]
            assert step_s(found) <= 1.011 * min(map(step_s, others))
            assert recorded(found) == (recorded(others[-1]) or recorded(found))
        assert min(weighed) <= 0  # fewer rows go together, where a slot is worth more
        assert max(weighed) > 0

    def test_what_weighs_most_decides(self) -> None:
        """Where nearly all steps are large pictures', they get the slot; where they are small ones', their company."""
        room, large = round(3.4 * GIB), Series(Work(2048, 2048))
        by_small, by_large = (
            decide.decide(
                STREAMING, [replace(SMALL, steps=small), replace(large, steps=1000 - small)], room, rates=H100
            )
            for small in (999, 1)
        )
        assert by_small.slots < by_large.slots
        assert by_small.slots == decide.decide(STREAMING, [SMALL], room, rates=H100).slots

    def test_nobody_rides_more_than_there_are(self) -> None:
        """Of three pictures in all, three ride at most: no room is kept for more."""
        kinds = [Series(Work(512, 512, guided=False), 2), Series(Work(640, 640, guided=False), 1)]
        found = decide.decide(STREAMING, kinds, 4 * GIB, rates=H100)
        assert found.in_flight == 3
        many = decide.decide(STREAMING, [replace(kind, pictures=None) for kind in kinds], 4 * GIB, rates=H100)
        assert many.in_flight > 3

    def test_where_some_are_many_nobody_counts(self) -> None:
        """A kind of which nobody knows how many there are rides in company, beside one picture of another."""
        kinds = [Series(Work(512, 512, guided=False)), Series(Work(640, 640, guided=False), 1)]
        assert decide.decide(STREAMING, kinds, 4 * GIB, rates=H100).in_flight > 1

    def test_a_kind_that_fits_by_luck_alone_costs_others_no_company(self) -> None:
        """With two slots it is tried, and small ones ride as many as they would without it."""
        large, small = Work(2048, 2048, prompt_tokens=2000), Work(256, 256, guided=False)
        room = decide.least(STREAMING, [large])
        assert room < decide.needed(STREAMING, [large])
        found = decide.decide(STREAMING, [Series(small), Series(large)], room, rates=H100)
        assert (found.slots, found.riding[large]) == (2, 1)
        assert found.riding[small] > 1

    def test_a_bound_on_slots_is_kept(self) -> None:
        """Whoever fixes the slots gets them."""
        assert decide.decide(STREAMING, KINDS, 80 * GIB, slots=7).slots == 7

    def test_without_a_gpu_nothing_is_bounded(self) -> None:
        """On the CPU slots cost what the host has anyway."""
        decision = decide.decide(STREAMING, KINDS, None)
        assert (decision.slots, decision.refused) == (60, frozenset())

    def test_more_memory_never_refuses_more(self) -> None:
        """What fits in less fits in more."""
        refused = [decide.decide(STREAMING, KINDS, step * GIB // 8).refused for step in range(8, 60)]
        assert all(later <= earlier for earlier, later in itertools.pairwise(refused))


class TestNearestFitting:
    def test_it_fits_and_a_step_more_does_not(self) -> None:
        """The nearest size has about the same ratio, is one the model takes, and is not far from the bound."""
        old = replace(STREAMING, kernels=replace(STREAMING.kernels, fused_attention=False))
        work, available = Work(2048, 2048), 4 * GIB
        assert not decide.fits(old, work, available)
        found = decide.nearest_fitting(old, catalog.QWEN_IMAGE, work, available)
        assert found is not None
        assert not catalog.QWEN_IMAGE.refusal(found)
        assert decide.fits(old, Work(found.width, found.height), available)
        assert not decide.fits(old, Work(found.width + 32, found.height + 32), available)

    def test_it_is_found_beside_the_smallest_side(self) -> None:
        """Where half the sides are fewer than the model takes, it is between them and the whole."""
        room = decide.least(STREAMING, [Work(400, 400)])
        assert not decide.fits(STREAMING, Work(448, 448), room)
        found = decide.nearest_fitting(STREAMING, catalog.QWEN_IMAGE, Work(448, 448), room)
        assert found == Size(width=400, height=400)

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

    def test_what_is_recorded_of_pictures_in_flight_leaves_less(self) -> None:
        """So many tokens fit beside what they have, with their launches recorded; and a fifth more would not."""
        flying, room = [SMALL.work] * 4, 3 * GIB
        there = replace(STREAMING, slots=2)
        recordings = decide.recording(there, flying) - decide.needed(there, flying)
        assert recordings > GIB / 16

        def taken(tokens: int) -> float:
            prompts = [64] * (tokens // (64 + DROPPED_TOKENS + BEHIND))
            waiting = sum(there.waiting(work) // 2 + there.belongings(work) for work in flying)
            return (there.encode(flying, prompts).bytes + waiting + recordings) * (1 + PAGES_PART) + PAGES_BYTES

        most = decide.tokens_together(there, flying, room)
        assert 0 < most < 4096
        assert taken(most) <= room < taken(most + most // 5)
