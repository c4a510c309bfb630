"""How many ride: before the first sweep, after sweeps that showed otherwise, and after a crowd that did not fit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from renderer import catalog
from renderer.catalog import cards
from renderer.engine import budget
from renderer.engine.budget import Budget
from renderer.engine.company import Company
from renderer.engine.meter import Shown, Span, Spans
from renderer.engine.slots import HostMemory, Slots
from renderer.estimate import Streaming, Work, decide, duration
from renderer.estimate.companies import MOST_ROWS_TOGETHER
from renderer.job import Job
from renderer.machine.rates import of_card
from renderer.protocol import Demand, Setup
from tests.engine.card import Card, install
from tests.engine.test_streaming import open_engine, pixels, render
from tests.making import make_job

GIB = 2**30
H100 = of_card(cards.find("H100").card)
SHAPE = catalog.QWEN_IMAGE_ARCHITECTURE


def job(side: int, cfg: float = 1.0, steps: int = 4) -> Job:
    real = {"model": "Qwen/Qwen-Image", "precision": "fp8", "cfg_scale": cfg}
    return make_job("a harbour", side=side, steps=steps).model_copy(update=real)


SMALL, WORK = job(512), Work.of(job(512))


def opened(
    monkeypatch: pytest.MonkeyPatch, gib: float, jobs: Sequence[Job] = (SMALL,) * 64, *, shares: bool = False
) -> Budget:
    """A budget on an H100 of which `gib` GiB are free for torch's allocator, for these pictures.

    Unless they are said to share, each goes through the blocks alone: company is for hiding copies.
    """
    monkeypatch.setattr(budget, "_available", lambda *_: round(gib * GIB))
    setup = Setup(
        model="Qwen/Qwen-Image",
        precision="fp8",
        profile="stream",
        demands=tuple(
            Demand(
                width=kind.width,
                height=kind.height,
                prompt_tokens=Work.of(kind).prompt_tokens,
                negative_tokens=Work.of(kind).negative_tokens,
                guided=kind.cfg_scale != 1.0,
                pictures=jobs.count(kind),
                steps=jobs.count(kind) * kind.num_inference_steps,
            )
            for kind in dict.fromkeys(jobs)
        ),
    )
    return Budget(SHAPE, setup, "cpu", shares=shares, known=H100)


def admitted(found: Budget, waiting: Sequence[Job]) -> list[Job]:
    """Who rides the first sweep of those that wait in line."""
    flying: list[Job] = []
    for each in waiting:
        if not found.admits(flying, each):
            break
        flying.append(each)
    return flying


def limit(found: Budget, flying: Sequence[Job]) -> str:
    """What a sweep of these waits for."""
    return duration.sweep(Streaming(SHAPE, "fp8", found.slots, together=0), list(map(Work.of, flying)), H100).limit


class TestBeforeTheFirstSweep:
    def test_as_many_as_hide_the_copies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Through 6 GiB, pictures of four steps without guidance begin in a company that waits for no bus."""
        found = opened(monkeypatch, 6 - 1.375)
        flying = admitted(found, [SMALL] * 64)
        assert 4 < len(flying) < 16
        assert limit(found, flying) == "arithmetic"
        assert limit(found, flying[1:]) == "bus"

    @pytest.mark.parametrize("gib", [3, 4, 4.6, 6, 8, 10, 20])
    def test_it_is_what_the_plan_decides(self, monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
        """Slots and company are those of the function that the plan asks, with the same rates."""
        found = opened(monkeypatch, gib, shares=True)
        planned = decide.decide(
            Streaming(SHAPE, "fp8", 2), [decide.Series(WORK, 64, 256)], round(gib * GIB), rates=H100
        )
        assert (found.slots, len(admitted(found, [SMALL] * 64))) == (planned.slots, planned.in_flight)

    def test_resident_each_rides_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where nothing is copied there is nothing to hide."""
        assert len(admitted(opened(monkeypatch, 60), [SMALL] * 64)) == 1

    def test_resident_small_ones_are_as_many_as_go_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Their products are faster together; a large picture's are not."""
        found = opened(monkeypatch, 60, shares=True)
        kinds = [SMALL, job(512, cfg=4.0), job(1328)]
        assert [len(admitted(found, [kind] * 64)) for kind in kinds] == [8, 4, 1]
        assert found.rows_together([SMALL] * 8) == MOST_ROWS_TOGETHER

    def test_with_little_room_fewer_rows_go_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Or none: a picture that fits alone is never kept waiting for that."""
        rows = {gib: opened(monkeypatch, gib, shares=True).rows_together([SMALL] * 8) for gib in (1.6, 2.4, 4.6)}
        assert list(rows.values()) == sorted(rows.values())
        assert rows[1.6] == 0
        assert rows[4.6] == MOST_ROWS_TOGETHER

    def test_each_counts_by_its_own_size_and_guidance(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Guided pictures are half as many; beside a large one, few small ones, and none behind it."""
        kinds = [SMALL, job(512, cfg=4.0), job(1328, cfg=4.0)]
        found = opened(monkeypatch, 4.6, [*kinds * 8])
        plain, guided = (len(admitted(found, [kind] * 64)) for kind in kinds[:2])
        assert guided == pytest.approx(plain / 2, abs=0.5)
        assert admitted(found, [kinds[2], *[SMALL] * 9]) == [kinds[2]]
        assert admitted(found, [SMALL, SMALL, kinds[2], SMALL]) == [SMALL, SMALL, kinds[2]]

    def test_a_new_slot_tells_how_fast_the_bus_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Blocks that came at half the rate need twice the company; slots that none came to tell nothing."""
        found = opened(monkeypatch, 3)
        before = len(admitted(found, [SMALL] * 64))
        found.brought(0.0)
        assert len(admitted(found, [SMALL] * 64)) == before
        found.brought(H100.bus_bytes_per_s * 2)
        assert len(admitted(found, [SMALL] * 64)) == pytest.approx(before / 2, abs=0.6)

    def test_where_nobody_knows_the_rates_the_first_rides_alone(self, card: Card) -> None:
        """Its first sweep tells."""
        found, there = Company(None), Streaming(SHAPE, "fp8", 3, together=0)
        assert not found.wants(there, there, [WORK], WORK)
        found.swept(there, [WORK], shown(card, there, slower=1.0, bus=H100.bus_bytes_per_s))
        card.synchronize()
        assert found.wants(there, there, [WORK], WORK)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    return install(monkeypatch)


def shown(card: Card, there: Streaming, *, slower: float, bus: float, works: Sequence[Work] = (WORK,)) -> Shown:
    """A sweep on the card that computes so many times as long as an H100's rates say, and copies at such a rate."""
    stream = card.stream()
    whole, computed, copied = Span("cuda"), Spans("cuda"), Spans("cuda", stream)
    moved = duration.moved_bytes(there)
    with card.on(stream), copied.one():
        card.launch(moved / bus)
    with computed.one():
        card.launch(slower * duration.sweep(there, works, H100).computing_s)
    card.current.follow(stream.known, stream.at_s)
    whole.stop()
    return Shown(whole, computed, copied, moved)


def riding(found: Company, there: Streaming) -> int:
    """How many small pictures ride."""
    number = 1
    while number < 40 and found.wants(there, there, [WORK] * number, WORK):
        number += 1
    return number


class TestCorrections:
    THERE = Streaming(SHAPE, "fp8", 14, together=0)

    def after(self, card: Card, *sweeps: tuple[float, float], from_disk: bool = False) -> list[int]:
        """How many ride before the sweeps and after each, of which it is said how much slower it was, and the bus."""
        found = Company(H100, from_disk=from_disk)
        counts = [riding(found, self.THERE)]
        for slower, part in sweeps:
            found.swept(self.THERE, [WORK], shown(card, self.THERE, slower=slower, bus=part * H100.bus_bytes_per_s))
            card.synchronize()
            counts.append(riding(found, self.THERE))
        return counts

    def test_sweeps_that_are_as_reckoned_change_nothing(self, card: Card) -> None:
        first, *others = self.after(card, (1.0, 1.0), (1.01, 1.0), (1.0, 1.01))
        assert others == [first] * 3

    def test_up_after_one_sweep(self, card: Card) -> None:
        """Where computing takes half as long as reckoned, twice as many ride, at once."""
        first, second = self.after(card, (0.5, 1.0))
        assert second == pytest.approx(2 * first, abs=1)

    def test_up_after_two_sweeps_of_a_slow_bus(self, card: Card) -> None:
        """The bus may have had one bad moment; when it is slow twice, twice as many ride."""
        counts = self.after(card, (1.0, 0.5), (1.0, 0.5))
        assert counts[1] == counts[0]
        assert counts[2] == pytest.approx(2 * counts[0], abs=1)

    def test_down_after_two_sweeps(self, card: Card) -> None:
        """One slow sweep may have had kernels to compile; after two, fewer ride, and more when they are fast again."""
        counts = self.after(card, (3.0, 1.0), (3.0, 1.0), (1.0, 1.0))
        assert counts[1] == counts[0]
        assert counts[2] == pytest.approx(counts[0] / 3, abs=0.7)
        assert counts[3] == counts[0]

    def test_down_where_the_bus_is_faster(self, card: Card) -> None:
        """At once: nobody needs company that has nothing to hide."""
        first, second = self.after(card, (1.0, 2.0))
        assert second == pytest.approx(first / 2, abs=0.6)

    def test_from_the_disk_a_sweep_that_waits_tells_how_fast_it_reads(self, card: Card) -> None:
        """By the whole of the sweep; one that computes all the time tells nothing of the disk."""
        first, *slow = self.after(card, (1.0, 0.5), (1.0, 0.5), from_disk=True)
        assert slow[-1] == pytest.approx(2 * first, abs=1)
        found = Company(H100, from_disk=True)
        busy = shown(card, self.THERE, slower=1.0, bus=9 * H100.bus_bytes_per_s, works=[WORK] * 40)
        for _ in range(2):
            found.swept(self.THERE, [WORK] * 40, busy)
        card.synchronize()
        assert riding(found, self.THERE) == first

    def test_nobody_waits_for_a_sweep_that_is_not_over(self, card: Card) -> None:
        """The host runs ahead of the device: what is not known yet is asked for again at the next sweep."""
        found = Company(H100)
        before = riding(found, self.THERE)
        found.swept(self.THERE, [WORK], shown(card, self.THERE, slower=0.5, bus=H100.bus_bytes_per_s))
        at_s = card.host.at_s
        assert riding(found, self.THERE) == before
        assert card.host.at_s == at_s
        card.synchronize()
        assert riding(found, self.THERE) > before

    def test_nothing_is_kept_of_sweeps_that_are_over(self, card: Card) -> None:
        """However many sweeps nobody is asked to join: only those that the device is not done with are held."""
        found = Company(H100)
        for _ in range(5):
            found.swept(self.THERE, [WORK], shown(card, self.THERE, slower=1.0, bus=H100.bus_bytes_per_s))
            card.synchronize()
        assert len(found._under_way) == 1


class Block:
    """A block of a model that lies nowhere."""

    bytes = 1000

    def __init__(self, card: Card) -> None:
        self._card = card

    def read_into(self, buffer: torch.Tensor, *, direct: bool = False) -> None:  # noqa: ARG002  # what a source asks
        self._card.fill(buffer)


@pytest.mark.parametrize("compute_s", [0.001, 0.2])
@pytest.mark.parametrize("slots", [2, 7])
def test_computing_and_copying_are_told_apart(card: Card, slots: int, compute_s: float) -> None:
    """Whichever waits for the other: each is what it takes itself."""
    there = Slots(HostMemory([Block(card) for _ in range(12)], "cuda"), slots, "cuda")
    copy_s = Block.bytes / card.bytes_per_s
    for _ in range(2):
        moved = there.moved_bytes
        for _number, slot in there.sweep():
            card.launch(compute_s, reads=[slot])
        moved = there.moved_bytes - moved
        card.synchronize()
        assert there.computed.seconds() == pytest.approx(12 * compute_s, rel=0.05)
        assert there.copied.seconds() == pytest.approx(moved / Block.bytes * copy_s, rel=0.05)


class TestCrowds:
    def test_as_many_are_not_let_in_again_for_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One fewer, for 32 sweeps; then as many as before, and where that is too many again, for longer."""
        found = opened(monkeypatch, 4.6)
        flying = admitted(found, [SMALL] * 64)
        for pause in (32, 64):
            found.too_many(flying)
            for _ in range(pause):
                assert len(admitted(found, [SMALL] * 64)) == len(flying) - 1
                found.passed()
            assert admitted(found, [SMALL] * 64) == flying

    def test_what_needs_less_may_ride(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A crowd of large pictures says nothing of one of small ones."""
        large = job(768)
        found = opened(monkeypatch, 4.6, [SMALL, large] * 8)
        crowd = admitted(found, [large] * 64)
        found.too_many(crowd)
        assert len(admitted(found, [large] * 64)) == len(crowd) - 1
        assert len(admitted(found, [SMALL] * 64)) > len(crowd) - 1

    def test_one_alone_is_no_crowd(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a picture wants alone is its own affair."""
        found = opened(monkeypatch, 4.6)
        before = admitted(found, [SMALL] * 64)
        found.too_many([SMALL])
        assert admitted(found, [SMALL] * 64) == before


class TestEngine:
    def test_company_is_there_at_the_first_sweep(self) -> None:
        """Beside a slow bus, the demo model's pictures of two steps set out together, with the bits they have alone."""
        jobs = [make_job("a red circle", seed=seed, side=64, steps=2) for seed in range(4)]
        engine = open_engine(slots=2)
        alone = render(engine, jobs)
        steps = [told[0] for told in alone.told]
        assert steps.index("stepped") == 1
        slow = H100.model_copy(update={"pinned_bytes_per_s": 1.0})
        engine._budget = engine._shelf._budget = Budget(engine._shape, engine.setup, "cpu", known=slow)
        together = render(engine, jobs)
        assert [told[0] for told in together.told].index("stepped") == 4
        assert pixels(together) == pixels(alone)

    def test_new_slots_are_heard_of(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An engine tells its budget how fast blocks came, and what every sweep that moved some has shown."""
        engine = open_engine(slots=2)
        engine._budget = engine._shelf._budget = Budget(engine._shape, engine.setup, "cpu", known=H100)
        heard: list[float] = []
        swept: list[tuple[int, int, float]] = []
        monkeypatch.setattr(engine._budget, "brought", heard.append)
        monkeypatch.setattr(
            engine._budget,
            "swept",
            lambda flying, slots, shown: swept.append((len(flying), slots, shown.computed.seconds())),
        )
        engine._slots.close()
        render(engine, [make_job(side=64, steps=3)])
        assert len(heard) == 1
        assert heard[0] > 0
        assert [(number, slots) for number, slots, _ in swept] == [(1, 2)] * 3
        assert all(seconds > 0 for _, _, seconds in swept)
