"""The order of streams and events, on a card that writes down what waits for what: a wait that is missing is seen.

And what is measured of its time: rates that a bus can have, though the host runs ahead.
"""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from renderer import catalog
from renderer.engine import modulation
from renderer.engine.adapters import AdapterShelf
from renderer.engine.block_source import BlockSource
from renderer.engine.journeys import Journey, Sweep
from renderer.engine.meter import Marks, Span
from renderer.engine.slots import HostMemory, ReadAhead, Slots
from renderer.errors import ModelError
from tests.engine import card as cards
from tests.engine.card import Card
from tests.engine.making import make_job

BLOCK_BYTES = 64
KINDS = ["host memory", "from the disk", "from the disk, one at a time"]


class File:
    """A block whose bytes are all its number, read by a thread of the host."""

    def __init__(self, card: Card, number: int) -> None:
        self._card, self._number = card, number
        self.bytes = BLOCK_BYTES

    def read_into(self, buffer: torch.Tensor, *, direct: bool = False) -> None:
        del direct
        self._card.fill(buffer)
        buffer.fill_(self._number)


class Unreadable(File):
    """A block that cannot be read."""

    def read_into(self, buffer: torch.Tensor, *, direct: bool = False) -> None:
        raise ModelError(f"{len(buffer)} bytes cannot be read: {direct}")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    return cards.install(monkeypatch)


def source(card: Card, kind: str, count: int = 7) -> BlockSource:
    files = [File(card, number) for number in range(count)]
    match kind:
        case "host memory":
            return HostMemory(files, "cuda")
        case "from the disk":
            return ReadAhead(files, "cuda", direct=False)
        case _:
            return ReadAhead(files, "cuda", depth=1, direct=False)


def sweep(card: Card, slots: Slots, block_s: float) -> None:
    """Compute with every block for as long, as those who ride it do: launched, and not waited for."""
    for number, slot in slots.sweep():
        assert int(slot[0]) == number
        card.launch(block_s, reads=[slot])
        del slot


COPY_S = BLOCK_BYTES / Card().bytes_per_s


class TestSlots:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("slots", [2, 3, 5, 7])
    @pytest.mark.parametrize("block_s", [0.1 * COPY_S, 10 * COPY_S], ids=["slow copies", "slow blocks"])
    def test_nothing_is_touched_too_early(self, card: Card, kind: str, slots: int, block_s: float) -> None:
        """No block is computed before it is there, no slot filled while it is computed, no buffer while it is copied.

        Nor is memory let go of that anybody still uses.
        """
        held = Slots(source(card, kind), slots, "cuda")
        for _ in range(3):
            sweep(card, held, block_s)
        held.close()
        assert card.torn == []

    @pytest.mark.parametrize("kind", KINDS[1:])
    def test_nor_by_several_sweeps_over_one_source(self, card: Card, kind: str) -> None:
        """As prompts are encoded: a sweep each, through new slots, from buffers that the last one left."""
        files = source(card, kind)
        for _ in range(3):
            held = Slots(files, 2, "cuda", once=True)
            sweep(card, held, COPY_S)
            held.close()
        held = Slots(files, 2, "cuda")
        sweep(card, held, COPY_S)
        held.close()
        assert card.torn == []

    @pytest.mark.parametrize("kind", KINDS[1:])
    def test_nor_in_buffers_that_another_sweep_left_full(self, card: Card, kind: str) -> None:
        """What was read ahead for nobody is over before others are read into the same memory."""
        files = source(card, kind)
        for _ in range(2):
            held = Slots(files, 2, "cuda")
            sweep(card, held, COPY_S)
            held.close()
        for number in (5, 6, 4, 3):
            files.ahead(number)
        held = Slots(files, 2, "cuda")
        sweep(card, held, COPY_S)
        held.close()
        assert card.torn == []

    @pytest.mark.parametrize("slots", [2, 5, 7])
    def test_nor_while_it_is_still_computed_with(self, card: Card, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Memory that slots are given may have been somebody's whose last launches are under way."""

        def given(_: Slots) -> torch.Tensor:
            memory = card.memory(BLOCK_BYTES)
            card.launch(5.0, writes=[memory])
            return memory

        monkeypatch.setattr(Slots, "_buffer", given)
        held = Slots(source(card, "host memory"), slots, "cuda")
        sweep(card, held, COPY_S)
        held.close()
        assert card.torn == []

    def test_what_cannot_be_filled_waits_for_what_is_under_way(self, card: Card) -> None:
        """A block that cannot be read ends it all; the one before is still being copied, into memory that goes then."""
        files = [Unreadable(card, number) if number == 1 else File(card, number) for number in range(3)]
        broken = ReadAhead(files, "cuda", direct=False)
        with pytest.raises(ModelError):
            Slots(broken, 2, "cuda")
        del broken  # which keeps the error, and all that it came through
        gc.collect()
        assert card.torn == []

    @pytest.mark.parametrize("slots", [2, 3, 7])
    def test_the_host_waits_for_no_sweep(self, card: Card, slots: int) -> None:
        """From host memory everything is asked for beforehand, however long it takes."""
        held = Slots(source(card, "host memory"), slots, "cuda")
        began_s = card.clock_s()
        sweep(card, held, 1.0)
        assert card.clock_s() - began_s < 0.01
        assert card.computation.at_s - began_s > 7.0

    def test_copies_are_hidden_behind_the_computation(self, card: Card) -> None:
        """With two turning slots, a sweep takes what its blocks take, where that is more than the copies."""
        held = Slots(source(card, "host memory"), 2, "cuda")
        sweep(card, held, 2 * COPY_S)
        before_s = card.computation.at_s
        sweep(card, held, 2 * COPY_S)
        assert card.computation.at_s - before_s == pytest.approx(7 * 2 * COPY_S, rel=0.02)


class TestRates:
    @pytest.mark.parametrize("slots", [2, 5])
    def test_the_bus_as_it_was_found(self, card: Card, slots: int) -> None:
        """What company is decided by: the rate of the first copies, by a clock that has waited for them."""
        held = Slots(source(card, "host memory"), slots, "cuda")
        assert held.bus_bytes_per_s == pytest.approx(card.bytes_per_s, rel=0.02)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("block_s", [0.1 * COPY_S, COPY_S, 5 * COPY_S])
    def test_a_sidecar_s_are_the_card_s(self, card: Card, kind: str, block_s: float) -> None:
        """What the bus has, however long copies waited; never more operations than were computed in that time."""
        held = Slots(source(card, kind), 2, "cuda")
        job = make_job()
        journeys = [Journey("first", job), Journey("second", job)]
        for number in range(6):
            moved, computing, began_s = held.moved_bytes, Span("cuda"), card.clock_s()
            sweep(card, held, block_s)
            computing.stop()
            took_s = max(card.clock_s() - began_s, 1e-9)
            done = Sweep(took_s, held.moved_bytes - moved, 7 * 1e9, 1, 2, held.copied, computing)
            journeys[number // 3].account(done, 1.0)
        for journey in journeys:
            sharing = journey.sharing(7, "bf16")
            assert sharing.bus_bytes_per_s <= card.bytes_per_s * 1.0001
            assert sharing.bus_bytes_per_s == pytest.approx(card.bytes_per_s, rel=0.01)
            assert sharing.flops_per_s <= 1e9 / block_s * 1.0001
            assert sharing.flops_per_s == pytest.approx(1e9 / max(block_s, COPY_S), rel=0.12)

    def test_they_are_means_over_time(self, card: Card) -> None:
        """A long sweep counts for more than a short one."""
        held, journey, took_s = Slots(source(card, "host memory"), 2, "cuda"), Journey("alone", make_job()), 0.0
        for block_s in (2 * COPY_S, 20 * COPY_S):
            computing = Span("cuda")
            sweep(card, held, block_s)
            computing.stop()
            journey.account(Sweep(1.0, 7 * BLOCK_BYTES, 7e9, 1, 2, held.copied, computing), 1.0)
            took_s += 7 * block_s
        assert journey.sharing(7, "bf16").flops_per_s == pytest.approx(14e9 / took_s, rel=0.05)

    def test_where_nothing_moves_the_bus_has_no_rate(self, card: Card) -> None:
        """All blocks resident: zero, not a division by nothing."""
        held = Slots(source(card, "host memory"), 7, "cuda")
        sweep(card, held, COPY_S)
        journey = Journey("alone", make_job())
        computing = Span("cuda")
        computing.stop()
        journey.account(Sweep(1.0, 0, 0.0, 1, 2, held.copied, computing), 1.0)
        assert journey.sharing(7, "bf16").bus_bytes_per_s == 0.0


class TestMarks:
    def test_steps_are_what_the_card_took(self, card: Card) -> None:
        """The host asks for all of a picture's steps at once, and waits for none of them."""
        steps, began_s = Marks("cuda"), card.clock_s()
        steps.note()
        for step_s in (1.0, 2.0, 4.0):
            card.launch(step_s)
            steps.note()
        assert card.clock_s() - began_s < 0.01
        assert steps.seconds() == pytest.approx([1.0, 2.0, 4.0], rel=0.01)


class TestBeside:
    def test_what_is_made_beside_follows_what_it_is_made_of(self, card: Card) -> None:
        """Decoded values become pixels when they are decoded; the sweep that has begun meanwhile is not waited for."""
        beside, values = card.stream(), card.memory(8)
        card.launch(1.0)
        decoding = Span("cuda")
        card.launch(2.0, writes=[values])
        decoding.stop()
        card.launch(50.0)
        with decoding.followed_by(beside):
            card.launch(0.5, reads=[values])
            card.current.synchronize()
        assert card.torn == []
        assert card.current is card.computation
        assert decoding.seconds() == pytest.approx(2.0, rel=0.01)
        assert card.clock_s() < 5.0

    def test_it_is_seen_when_it_does_not(self, card: Card) -> None:
        """The card itself: without a wait, both uses are named."""
        values = card.memory(8)
        card.launch(1.0, writes=[values])
        with card.on(card.stream()):
            card.launch(1.0, reads=[values])
        assert card.torn == ["stream 1 reads what computation writes"]


class Table(torch.Tensor):  # type: ignore[misc]  # torch is not typed here
    """A timestep's vectors in host memory, which the card copies from."""

    card: Card

    def to(self, *_: object, **options: object) -> torch.Tensor:
        self.card.launch(5.0, reads=[self])
        assert options == {"non_blocking": True}
        return torch.empty(1)


def test_a_modulation_table_is_not_unmapped_while_it_is_copied(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its picture failed after the copy was asked for, and nobody else wants it: its memory goes when the copy ends."""
    monkeypatch.setattr(modulation, "MOST_TABLES", 0)
    tables = modulation.Modulations(None, [], "cuda", AdapterShelf(catalog.find("demo"), [], "cuda", torch.bfloat16))
    for timestep in (999.0, 1.0):
        memory = torch.zeros(8, dtype=torch.uint8).as_subclass(Table)
        memory.card = card
        tables._tables[timestep, (), False] = memory
        weakref.finalize(memory, card.unmap, memory.data_ptr()).atexit = False
        del memory
    for _ in range(2):
        tables._at((999.0, (), False))
    tables.forget([])
    gc.collect()
    assert tables._tables == {}
    assert card.torn == []
