from __future__ import annotations

import ctypes
import gc
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from renderer.engine import pinned, slots
from renderer.engine.block_source import BlockSource
from renderer.engine.pinned import host_buffer, pinned_buffer
from renderer.engine.slots import HostMemory, ReadAhead, Slots, _spread
from renderer.errors import MachineError, ModelError
from renderer.estimate import host


class File:
    """A block whose bytes are all its number; counts how often it is read."""

    def __init__(self, number: int, size: int = 64) -> None:
        self._number = number
        self.bytes = size
        self.checksum = f"{number} of {size}"
        self.reads = 0
        self.direct = False

    def read_into(self, buffer: torch.Tensor, *, direct: bool = False) -> None:
        self.reads += 1
        self.direct = direct
        buffer.fill_(self._number)


def files(count: int) -> list[File]:
    return [File(number) for number in range(count)]


def numbers(slots: Slots) -> list[tuple[int, int]]:
    """One sweep: each block's number, and what lies in its slot when it comes."""
    return [(number, int(slot[0])) for number, slot in slots.sweep()]


def sources(blocks: Sequence[File]) -> list[BlockSource]:
    return [HostMemory(blocks, "cpu"), ReadAhead(blocks, "cpu")]


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("slots", [2, 3, 4, 7, 60])
def test_every_block_comes_in_order_in_every_sweep(kind: int, count: int, slots: int) -> None:
    """With any number of slots, each sweep shows each block its own bytes, once, in order."""
    held = Slots(sources(files(count))[kind], slots, "cpu")
    for _ in range(3):
        assert numbers(held) == [(number, number) for number in range(count)]


def test_with_as_many_slots_as_blocks_nothing_moves() -> None:
    """All resident: sweeps copy nothing."""
    held = Slots(HostMemory(files(4), "cpu"), 4, "cpu")
    numbers(held)
    assert (held.resident, held.count, held.moved_bytes) == (4, 4, 0)


def test_only_the_streamed_ones_move() -> None:
    """A sweep copies each block that does not stay, once."""
    held = Slots(HostMemory(files(6), "cpu"), 4, "cpu")
    assert (held.resident, held.count) == (2, 4)
    numbers(held)
    assert held.moved_bytes == 4 * 64


def test_host_memory_reads_each_block_once() -> None:
    """There is one copy in host memory, however many sweeps there are."""
    blocks = files(5)
    held = Slots(HostMemory(blocks, "cpu"), 2, "cpu")
    for _ in range(3):
        numbers(held)
    assert [block.reads for block in blocks] == [1] * 5


def test_one_sweep_reads_each_block_once_from_the_disk() -> None:
    """For a single sweep nothing is read for a second one."""
    blocks = files(5)
    assert numbers(Slots(ReadAhead(blocks, "cpu"), 2, "cpu", once=True)) == [(number, number) for number in range(5)]
    assert [block.reads for block in blocks] == [1] * 5


def test_the_same_source_serves_sweep_after_sweep() -> None:
    """A source that was read ahead serves the next slots as well."""
    source = ReadAhead(files(5), "cpu")
    for _ in range(3):
        assert numbers(Slots(source, 2, "cpu", once=True)) == [(number, number) for number in range(5)]


def test_short_host_memory_reads_from_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for all blocks they are kept in host memory; without, they are read as they are wanted."""
    assert isinstance(slots.source_for(files(5), "cpu"), HostMemory)
    monkeypatch.setattr(host, "MARGIN_BYTES", 2**60)
    source = slots.source_for(files(5), "cpu")
    assert isinstance(source, ReadAhead)
    held = Slots(source, 3, "cpu")
    for _ in range(3):
        assert numbers(held) == [(number, number) for number in range(5)]


def test_what_does_not_fit_goes_past_the_page_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that host memory has no room for is read directly, so that it does not drive out what is cached."""
    for margin, direct in ((0, False), (2**60, True)):
        monkeypatch.setattr(host, "MARGIN_BYTES", margin)
        blocks = files(3)
        numbers(Slots(ReadAhead(blocks, "cpu"), 2, "cpu", once=True))
        assert [block.direct for block in blocks] == [direct] * 3


class Late(File):
    """A block that comes only once somebody says so."""

    def __init__(self, number: int, says: threading.Event) -> None:
        super().__init__(number)
        self._says = says

    def read_into(self, buffer: torch.Tensor, *, direct: bool = False) -> None:
        assert self._says.wait(10)
        super().read_into(buffer, direct=direct)


@pytest.mark.parametrize("slots", [2, 3, 7])
def test_a_sweep_waits_for_the_block_that_it_is_at_alone(slots: int) -> None:
    """Blocks come while others are ridden; slots are made before the last have come. That is no wait of the bus."""
    says = threading.Event()
    source = HostMemory([*files(5), Late(5, says), Late(6, says)], "cpu")
    held = Slots(source, slots, "cpu")
    found = []
    for number, slot in held.sweep():
        found.append((number, int(slot[0])))
        if number == 2:
            assert source.took_s is None
            says.set()
    assert found == numbers(held) == [(number, number) for number in range(7)]
    assert source.took_s is not None


def test_what_has_come_is_brought_before_a_sweep_is_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that stay are copied side by side with what is computed, in their order, and once."""
    source = HostMemory(files(6), "cpu")
    for number in range(6):
        source.block(number)
    held, brought = Slots(source, 6, "cpu"), list[int]()
    copy = Slots._copy

    def noted(self: Slots, number: int, block: torch.Tensor, slot: torch.Tensor) -> object:
        brought.append(number)
        return copy(self, number, block, slot)

    monkeypatch.setattr(Slots, "_copy", noted)
    sweep = held.sweep()
    next(sweep)
    assert brought == list(range(6))
    assert [number for number, _ in sweep] == list(range(1, 6))
    assert len(numbers(held)) == len(brought) == 6


class Slow(File):
    """A block that is read only once others are being read at the same time."""

    def __init__(self, number: int, together: threading.Barrier) -> None:
        super().__init__(number)
        self._together = together

    def read_into(self, buffer: torch.Tensor, *, direct: bool = False) -> None:
        self._together.wait(timeout=10)
        super().read_into(buffer, direct=direct)


@pytest.mark.parametrize("slots", [2, 8])
def test_several_reads_are_under_way_at_once(slots: int) -> None:
    """As many as the depth says, whether blocks stream past or are brought to stay: no single one waits alone."""
    together = threading.Barrier(3)
    source = ReadAhead([Slow(number, together) for number in range(6)], "cpu", depth=3)
    assert numbers(Slots(source, slots, "cpu", once=True)) == [(number, number) for number in range(6)]


def test_what_another_sweep_left_behind_is_dropped() -> None:
    """A source whose buffers all hold what was asked for ahead serves new slots from their first block on."""
    source = ReadAhead(files(9), "cpu", depth=2)
    for number in (6, 7, 8):
        source.ahead(number)
    assert numbers(Slots(source, 2, "cpu")) == [(number, number) for number in range(9)]


class Unsteady(File):
    """A block that cannot be read the first few times."""

    def __init__(self, number: int, failures: int) -> None:
        super().__init__(number)
        self._left = failures

    def read_into(self, buffer: torch.Tensor, *, direct: bool = False) -> None:
        super().read_into(buffer, direct=direct)
        if self._left:
            self._left -= 1
            buffer.fill_(99)
            raise ModelError("block 2: cannot be read: Input/output error")


@pytest.mark.parametrize("kind", [0, 1])
def test_what_cannot_be_read_is_read_once_more(kind: int) -> None:
    """A disk that has a bad moment costs a second reading, and no bit."""
    blocks = [*files(2), Unsteady(2, failures=1), File(3)]
    assert numbers(Slots(sources(blocks)[kind], 2, "cpu")) == [(number, number) for number in range(4)]


def test_host_memory_is_filled_anew_where_that_failed() -> None:
    """The error comes to who asked; who asks again has the block."""
    source = HostMemory([*files(2), Unsteady(2, failures=2), *files(5)[3:]], "cpu")
    with pytest.raises(ModelError, match="block 2"):
        numbers(Slots(source, 2, "cpu"))
    assert numbers(Slots(source, 2, "cpu")) == [(number, number) for number in range(5)]


def test_a_reading_that_failed_is_not_kept() -> None:
    """The error comes to who asked; who asks again has the block, and every buffer is still there."""
    source = ReadAhead([*files(2), Unsteady(2, failures=2), *files(5)[3:]], "cpu", depth=1)
    with pytest.raises(ModelError, match="block 2"):
        numbers(Slots(source, 2, "cpu"))
    for _ in range(2):
        assert numbers(Slots(source, 2, "cpu", once=True)) == [(number, number) for number in range(5)]
    assert len(source._free) == 2


@pytest.mark.parametrize(("count", "streamed"), [(60, 58), (60, 30), (60, 1), (5, 3), (5, 0)])
def test_streamed_blocks_are_spread_evenly(count: int, streamed: int) -> None:
    """Between two streamed blocks stand as many resident ones as between any others, give or take one."""
    found = _spread(count, streamed)
    assert len(set(found)) == streamed
    gaps = {after - before for before, after in itertools.pairwise(found)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_host_buffers_are_as_large_as_asked() -> None:
    """Not rounded up to a power of two."""
    assert host_buffer(12345, "cpu").shape == (12345,)


class Driver:
    """Stands for CUDA's runtime: remembers what is pinned, and whether it was still mapped when it was let go of."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.pinned: list[int] = []
        self.mapped_when_let_go: list[bool] = []
        self.filled_when_pinned: list[bool] = []

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802  # CUDA's name
        assert flags == 0
        self.filled_when_pinned.append(ctypes.string_at(address, size) == b"\x07" * size)
        self.pinned.append(address)
        return self.status

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802  # CUDA's name
        self.pinned.remove(address)
        ranges = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
        self.mapped_when_let_go.append(any(int(low, 16) <= address < int(high, 16) for low, high in ranges))
        return 0


def test_memory_is_filled_then_pinned_and_let_go_of_before_it_is_unmapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned when its pages are there; unpinned while they still are, so that nobody else's can be meant."""
    driver = Driver()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    buffer = host_buffer(8 << 20, "cuda", lambda memory: memory.fill_(7))
    assert driver.pinned == [buffer.data_ptr()]
    assert driver.filled_when_pinned == [True]
    del buffer
    gc.collect()
    assert driver.pinned == []
    assert driver.mapped_when_let_go == [True]


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A driver that pins nothing, and a process that has not said so yet."""
    driver = Driver(status=2)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    monkeypatch.setattr(pinned, "_UNPINNED", pinned._Unpinned())
    return driver


def test_memory_that_cannot_be_pinned_is_used_as_it_is(strict: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the limit on locked memory: filled all the same, said once, and not let go of as if it were pinned."""
    assert pinned.unpinned() == ""
    buffers = [host_buffer(8 << 20, "cuda", lambda memory: memory.fill_(7)) for _ in range(3)]
    assert [int(buffer.min()) for buffer in buffers] == [7, 7, 7]
    assert "ulimit -l" in pinned.unpinned()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "8 MiB of host memory cannot be pinned" in caplog.text
    del buffers
    gc.collect()
    assert strict.mapped_when_let_go == []


def test_who_needs_it_pinned_gets_an_error_that_says_what_helps(strict: Driver) -> None:
    """`doctor` wants to know, and to measure: named, with the way out; a worker's pictures hear nothing of it."""
    with pytest.raises(MachineError, match=r"8 MiB of host memory cannot be pinned") as caught:
        pinned_buffer(8 << 20, "cuda")
    assert "ulimit" in caught.value.hint
    assert pinned.unpinned() == ""
    del caught
    gc.collect()
    assert strict.mapped_when_let_go == []
