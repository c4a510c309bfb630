from __future__ import annotations

import gc

import pytest
import torch

from renderer import catalog
from renderer.engine import budget
from renderer.engine.budget import Budget, Recovery
from renderer.estimate import Streaming, Work, decide
from renderer.estimate.work import Kernels
from renderer.job import Job
from renderer.protocol import Demand, Setup
from tests.making import make_job

GIB = 2**30


def job(side: int, prompt: str = "a harbour") -> Job:
    return make_job(prompt, side=side).model_copy(update={"model": "Qwen/Qwen-Image", "precision": "fp8"})


def demand(side: int) -> Demand:
    return Demand(width=side, height=side, prompt_tokens=64, negative_tokens=0, guided=True)


def of(
    monkeypatch: pytest.MonkeyPatch, gib: float | None, *sides: int, shares: bool = True, **settings: int | bool
) -> Budget:
    """A budget of so many GiB, for these sizes."""
    room = None if gib is None else round(gib * GIB)
    monkeypatch.setattr(budget, "_available", lambda *_: room)
    setup = Setup(
        model="Qwen/Qwen-Image",
        precision="fp8",
        profile="stream",
        demands=tuple(map(demand, sides)),
        **settings,
    )
    return Budget(catalog.QWEN_IMAGE_ARCHITECTURE, setup, "cpu", shares=shares)


class TestBudget:
    @pytest.mark.parametrize("gib", [2.5, 4, 6, 8.6, 16, 60])
    def test_it_is_what_the_plan_decides(self, monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
        """The engine's slots are those of the same function that the plan asks."""
        found = of(monkeypatch, gib, 512, 1328, 2048)
        works = [Work(side, side) for side in (512, 1328, 2048)]
        planned = decide.decide(
            Streaming(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", 2), list(map(decide.Series, works)), round(gib * GIB)
        )
        assert found.slots == planned.slots

    @pytest.mark.parametrize("gib", [2.5, 4, 6, 8.6, 16, 60])
    def test_loras_have_their_room_beside_slots(self, monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
        """What they take at the least is there for nothing else, as in the plan."""
        loras = round(0.4 * GIB)
        found = of(monkeypatch, gib, 512, 1328, extra_bytes=loras)
        works = [Work(side, side) for side in (512, 1328)]
        planned = decide.decide(
            Streaming(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", 2),
            list(map(decide.Series, works)),
            round(gib * GIB) - loras,
        )
        assert found.slots == planned.slots
        assert (found.slots < of(monkeypatch, gib, 512, 1328).slots) == (gib < 16)

    def test_a_picture_is_let_in_with_what_it_rides_with(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two blocks of each LoRA need room beside it; what stays on the device for want of nothing else makes room."""
        streaming = Streaming(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", 8)
        room = decide.needed(streaming, [Work.of(job(512))] * 2)
        found = of(monkeypatch, (room + 1000) / GIB, 512, in_flight=16, slots=8)
        assert found.admits([job(512)], job(512), 1000)
        assert not found.admits([job(512)], job(512), 1001)
        for count in (5000, 3000, 0):
            found.set_aside(count)
            assert found.admits([job(512)], job(512), 1000)
            assert not found.admits([job(512)], job(512), 1001)

    def test_no_more_are_let_in_than_somebody_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever room there is."""
        found = of(monkeypatch, 60, 256, in_flight=2)
        assert found.admits([], job(256))
        assert found.admits([job(256)], job(256))
        assert not found.admits([job(256)] * 2, job(256))

    def test_weights_that_are_scaled_back_have_their_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where FP8 products do not work, a block in bf16 stands beside the slots, and takes the place of some."""
        found, planned = [], []
        kernels = Kernels.of((9, 0), stored=False)
        for gib in (2.5, 4, 6):
            fp8 = of(monkeypatch, gib, 512)
            setup = Setup(model="Qwen/Qwen-Image", precision="fp8", profile="stream", demands=(demand(512),))
            bf16 = Budget(catalog.QWEN_IMAGE_ARCHITECTURE, setup, "cpu", "bf16")
            streaming = Streaming(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", 2, kernels)
            planned.append(decide.decide(streaming, [decide.Series(Work.of(job(512)))], round(gib * GIB)).slots)
            found.append(bf16.slots)
            assert bf16.slots <= fp8.slots
        assert found == planned

    def test_small_sizes_leave_room_for_slots(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A batch of small pictures keeps at least as many blocks as one with a large picture in it, and often more."""
        rooms = [4 + step / 10 for step in range(20)]
        small, large = ([of(monkeypatch, gib, *sides).slots for gib in rooms] for sides in ((1024,), (1024, 2048)))
        assert all(one >= other for one, other in zip(small, large, strict=True))
        assert small != large

    def test_no_more_ride_than_fit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is admitted fits beside the slots, by the arithmetic; the first is always admitted."""
        room = decide.needed(Streaming(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", 8), [Work.of(job(512))] * 4)
        found = of(monkeypatch, room / GIB, 512, in_flight=16, slots=8)
        flying: list[Job] = []
        while found.admits(flying, job(512)):
            flying.append(job(512))
        assert len(flying) == 4
        assert of(monkeypatch, 1, 512).admits([], job(2048))

    def test_small_pictures_are_recorded_where_there_is_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a byte less than recordings take they are rendered without; large ones have none, and need no room."""
        there = Streaming(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", 8)
        room = decide.recording(there, [Work.of(job(512))])
        enough, scarce = (of(monkeypatch, each / GIB, 512, slots=8) for each in (room, room - 1))
        assert enough.records([job(512)])
        assert not scarce.records([job(512)])
        assert scarce.admits([], job(512))
        larger = decide.needed(there, [Work.of(job(1328))])
        assert of(monkeypatch, larger / GIB, 1328, slots=8).records([job(1328)])

    def test_each_size_in_flight_takes_room_for_its_recordings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where one size's recordings just fit, another size's beside it do not; with fewer slots they do."""
        there = Streaming(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", 8, together=0)
        room = decide.recording(there, [Work.of(job(768))])
        found = of(monkeypatch, room / GIB, 768, slots=8, shares=False)
        assert found.records([job(768)])
        assert not found.records([job(768), job(512)])
        assert of(monkeypatch, room / GIB, 768, slots=4, shares=False).records([job(768), job(512)])

    def test_prompts_ride_in_what_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fewer tokens together on a small card, and fewer while pictures are in flight."""
        small, large = of(monkeypatch, 2.2, 512), of(monkeypatch, 20, 512)
        assert small.tokens_together([]) < large.tokens_together([]) == 4096
        assert small.tokens_together([job(512)]) < small.tokens_together([])

    @pytest.mark.parametrize(("held", "room"), [(0.0, True), (5.0, True), (5.95, False)])
    def test_a_decode_beside_all_that_is_held(self, monkeypatch: pytest.MonkeyPatch, held: float, room: bool) -> None:  # noqa: FBT001  # as pytest hands it over
        """Where it fits, nobody has to wait until what is held in vain is given back."""
        found = of(monkeypatch, 6, 512)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: round(held * GIB))
        assert found.has_room_to_decode(job(512)) is room

    def test_on_the_cpu_nothing_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All blocks stay, and there is always room."""
        found = of(monkeypatch, None, 512)
        assert found.slots == 60
        assert found.records([job(512)])


def test_a_limit_goes_with_its_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator's limit is one of the process: a later setup without a limit has all of the card again."""
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (20 * GIB, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    setup = Setup(model="Qwen/Qwen-Image", precision="fp8", profile="stream", vram_bytes=12 * GIB)
    limited = Budget(catalog.QWEN_IMAGE_ARCHITECTURE, setup, "cuda")
    assert fractions == [pytest.approx(0.44, abs=0.03)]
    del limited
    gc.collect()
    assert fractions[1:] == [1.0]
    Budget(catalog.QWEN_IMAGE_ARCHITECTURE, setup.model_copy(update={"vram_bytes": None}), "cuda")
    gc.collect()
    assert fractions[2:] == []  # a limit that somebody else has set is left alone


class TestRecovery:
    def test_fewer_slots(self) -> None:
        """Half as many each time, down to the two that take turns; what has fewer keeps them."""
        counts = [60]
        while (less := budget.fewer(counts[-1])) < counts[-1]:
            counts.append(less)
        assert counts == [60, 30, 15, 7, 3, 2]
        assert budget.fewer(1) == 1

    def test_what_was_given_up_comes_back(self) -> None:
        """At once after the first time, then later each time; after a long quiet all is as it was."""
        recovery, pauses = Recovery(), []
        for _ in range(9):
            recovery.gave_up()
            pauses.append(0)
            while not recovery.due:
                recovery.passed()
                pauses[-1] += 1
        assert pauses == [0, 32, 64, 128, 256, 512, 1024, 0, 32]
        for _ in range(budget.LONGEST_PAUSE):
            recovery.passed()
        recovery.gave_up()
        assert recovery.due

    def test_nothing_is_forgiven_that_is_not_to_be(self) -> None:
        """What is not tried again at once waits from the first time on."""
        recovery = Recovery(forgiven=0)
        assert recovery.due
        recovery.gave_up()
        assert not recovery.due
        for _ in range(budget.FIRST_PAUSE):
            recovery.passed()
        assert recovery.due
