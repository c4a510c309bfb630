"""Blocks come past in sweeps: some stay in their slots, the others take turns in two that are filled ahead.

A slot is one flat buffer on the device, as large as a block. Copies run on a stream of their own, from pinned host
memory, in one piece a block; events order them against the computation, nothing waits for the host, and nothing is
ever copied back. Memory that cannot be pinned is copied from as well: the driver takes it through buffers of its own,
and the host waits meanwhile. Knows blocks as bytes: nothing of tensors, riders or pictures.
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch

from renderer.engine.block_source import BlockSource, ReadableBlock
from renderer.engine.device import Device
from renderer.engine.meter import Spans
from renderer.engine.pinned import host_buffer
from renderer.engine.shared_blocks import SharedBlocks
from renderer.errors import ModelError
from renderer.estimate import host
from renderer.estimate.memory import TURNING_SLOTS
from renderer.machine import hardware
from renderer.weights import crc32s

LOG = logging.getLogger(__name__)

FILLING_THREADS, FEWER_THREADS = 16, 6
"""Threads that fill host memory from the packed store, a block each: most of that is the kernel's handing out of fresh
pages. Fewer where the interpreter is busy: while libraries were imported beside it, 16 took 2.0 s to 2.9 for 13.6 GB,
and had the imports take 2.9 to 3.8; six took 3.5 s, and the imports 2.2, of 1.5 alone (one H100's host)."""

AHEAD = 4
"""Blocks that a source is told of before they are wanted; it takes up as many as it has room for."""


class HostMemory:
    """All blocks of a network in host memory, pinned where there is a GPU and it can be: the one copy there is.

    They come in order, read by threads from the moment that this is made; who wants one waits for that one alone.
    """

    from_disk = False

    def __init__(
        self,
        files: Sequence[ReadableBlock],
        device: Device,
        threads: int = FILLING_THREADS,
        shared: SharedBlocks | None = None,
    ) -> None:
        """Where they are `shared`, each is read by one of the processes that share them."""
        self.files = tuple(files)
        self._shared = shared
        self._device: Device = device
        self._pool = ThreadPoolExecutor(threads)
        self._began_s = time.perf_counter()
        self._blocks = [self._coming(number) for number in range(len(self.files))]
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def _coming(self, number: int) -> Future[_Filled]:
        file, device, shared = self.files[number], self._device, self._shared
        return self._pool.submit(lambda: _filled(file, device, number, shared))

    @property
    def count(self) -> int:
        return len(self.files)

    @property
    def block_bytes(self) -> int:
        return max(file.bytes for file in self.files)

    @property
    def took_s(self) -> float | None:
        """Seconds in which all have come; None while some have not."""
        if not all(self.is_there(number) for number in range(self.count)):
            return None
        return max(each.result().at_s for each in self._blocks) - self._began_s

    def is_there(self, number: int) -> bool:
        coming = self._blocks[number]
        return coming.done() and coming.exception() is None

    def wait(self) -> None:
        """Wait until all have come. Raises `ModelError` for a file that cannot be read."""
        for number in range(self.count):
            self.block(number)

    def ahead(self, number: int) -> None:
        pass

    def block(self, number: int) -> torch.Tensor:
        try:
            return self._blocks[number].result().memory
        except Exception:
            self._blocks[number] = self._coming(number)  # what failed once need not fail for good
            raise

    def done(self, number: int, event: Any | None) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Filled:
    """A block in host memory, and when it was there."""

    memory: torch.Tensor
    at_s: float


def _filled(file: ReadableBlock, device: Device, number: int, shared: SharedBlocks | None) -> _Filled:
    fill = functools.partial(_read, file)
    with crc32s.alone():
        memory = None if shared is None else shared.block(number, device, fill)
        if memory is None:
            memory = host_buffer(file.bytes, device, fill)
    return _Filled(memory, time.perf_counter())


class ReadAhead:
    """Blocks read from the disk as they are wanted, a few at once, into a few buffers: for short host memory."""

    from_disk = True
    took_s = None

    def __init__(
        self,
        files: Sequence[ReadableBlock],
        device: Device,
        depth: int = host.READS_AT_ONCE,
        *,
        direct: bool | None = None,
    ) -> None:
        """`depth` is how many reads are under way at once; one buffer more is there to be copied from.

        With `direct` they go past the page cache; without it being said, where a sweep does not fit into it: it would
        drive out what is wanted again, and at the next sweep its own beginning would be gone.
        """
        self.files = tuple(files)
        self._direct = not _fits(files) if direct is None else direct
        self._free: list[tuple[_Buffer, Any | None]] = [
            (_Buffer(self.block_bytes, device), None) for _ in range(min(depth + 1, len(files)))
        ]
        self._coming: dict[int, tuple[_Buffer, Future[None]]] = {}
        self._pool = ThreadPoolExecutor(depth)

    @property
    def count(self) -> int:
        return len(self.files)

    @property
    def block_bytes(self) -> int:
        return max(file.bytes for file in self.files)

    def is_there(self, number: int) -> bool:
        return number in self._coming and self._coming[number][1].done()

    def ahead(self, number: int) -> None:
        if number in self._coming or not self._free:
            return
        buffer, event = self._free.pop(0)

        def read() -> None:
            if event is not None:
                event.synchronize()
            buffer.fill(functools.partial(_read, self.files[number], direct=self._direct))

        self._coming[number] = buffer, self._pool.submit(read)

    def block(self, number: int) -> torch.Tensor:
        if number not in self._coming and not self._free:  # all hold what another sweep had asked for
            stale, read = self._coming.pop(next(iter(self._coming)))
            wait([read])
            self._free.append((stale, None))
        self.ahead(number)
        buffer, read = self._coming[number]
        if read.exception() is not None:  # what failed once need not fail for good
            del self._coming[number]
            self._free.append((buffer, None))
        read.result()
        size = self.files[number].bytes
        assert buffer.memory is not None
        return buffer.memory if len(buffer.memory) == size else buffer.memory[:size]

    def done(self, number: int, event: Any | None) -> None:
        buffer, _ = self._coming.pop(number)
        self._free.append((buffer, event))


class _Buffer:
    """Host memory for any block of a source: made when it is filled for the first time, which pins it faster."""

    def __init__(self, size: int, device: Device) -> None:
        self._size = size
        self._device: Device = device
        self.memory: torch.Tensor | None = None

    def fill(self, fill: Callable[[torch.Tensor], None]) -> None:
        if self.memory is None:
            self.memory = host_buffer(self._size, self._device, fill)
        else:
            fill(self.memory)


def _read(file: ReadableBlock, buffer: torch.Tensor, *, direct: bool = False) -> None:
    """Read a block, and once more where that fails: a disk, or the network before it, may have had a bad moment."""
    try:
        file.read_into(buffer, direct=direct)
    except (ModelError, OSError) as error:
        LOG.warning("%s: it is read once more", str(error))  # its words: a record of it would hold the buffer
        file.read_into(buffer, direct=direct)


def source_for(
    files: Sequence[ReadableBlock],
    device: Device,
    threads: int = FILLING_THREADS,
    ram_bytes: int | None = None,
    shared: SharedBlocks | None = None,
) -> BlockSource:
    """Host memory for all blocks where there is room for them; otherwise they are read as they are wanted.

    `ram_bytes` is what they may take of the memory that is free (None: all of it). For those that are `shared` with
    other workers there is room.
    """
    if shared is not None or _fits(files, ram_bytes):
        return HostMemory(files, device, threads, shared)
    LOG.info("%.1f GiB are more than host memory has free: blocks come from the disk", _bytes(files) / 2**30)
    return ReadAhead(files, device, direct=True)


def _fits(files: Sequence[ReadableBlock], ram_bytes: int | None = None) -> bool:
    """Whether host memory has room for all of a sweep."""
    free = hardware.look().ram_free_bytes
    return host.has_room(_bytes(files), free if ram_bytes is None else min(free, ram_bytes))


def _bytes(files: Sequence[ReadableBlock]) -> int:
    return sum(file.bytes for file in files)


class Slots:
    """A network's blocks on the device: `resident` of them for good, the others through the turning slots."""

    def __init__(self, source: BlockSource, slots: int, device: Device, *, once: bool = False) -> None:
        """`slots` from 2 to all blocks; with as many as blocks, nothing moves once they are there.

        What stays is brought by the first sweep that comes to it, or before: as soon as it is in host memory. `once`
        says that there will be one sweep: nothing is fetched for another. Raises what torch raises where there is no
        room for them, and what the source raises; nothing is held then.
        """
        self._once = once
        self._source = source
        self._device = device
        count = source.count
        resident = count if slots >= count else max(0, slots - TURNING_SLOTS)
        self._streamed = _spread(count, count - resident)
        self._turning = [self._buffer() for _ in range(min(TURNING_SLOTS, len(self._streamed)))]
        staying = sorted(set(range(count)) - set(self._streamed))
        self._kept = {number: self._buffer() for number in staying}
        self._lacking, self._arrived = deque(staying), dict[int, Any]()
        self._stream = torch.cuda.Stream() if device == "cuda" else None
        self._ready: list[Any] = [self._event() for _ in self._turning]
        self._free: list[Any] = [self._event() for _ in self._turning]
        self._fetched = self._used = 0
        self._measures = bool(self._streamed) and not once
        self._measure_anew()
        self.moved_bytes = 0
        if self._stream is not None:  # what the memory was used for before may still be under way
            given = self._event()
            given.record()
            self._stream.wait_event(given)
        try:
            self._fill()
        except BaseException:
            self.close()  # copies under way end before anybody takes their memory away
            raise

    def _fill(self) -> None:
        """Bring the first of what takes turns; that tells how fast copies are. From the disk, also all that stays."""
        if self._source.from_disk:  # where reads are under way in the order in which they are asked for
            self._bring(self._source.count)
        for _ in self._turning:
            self._fetch()
        self.bus_bytes_per_s = self.moved_bytes / self.copied.seconds() if self._measures else 0.0
        self.moved_bytes = 0

    @property
    def resident(self) -> int:
        return len(self._kept)

    @property
    def count(self) -> int:
        """How many slots there are; none once they are closed."""
        return len(self._kept) + len(self._turning)

    def sweep(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Every block once, in order, as flat bytes on the device, valid until the next is asked for.

        What is launched on the current stream while a block is held is done with it before its slot is filled again.
        When it has ended, and where blocks move, `computed` and `copied` tell how long each went on without waiting for
        the other, or for host memory to be filled. One that breaks off leaves the slots out of step: others have to be
        made. Raises what the source raises.
        """
        self._measure_anew()
        for number in range(self._source.count):
            self._bring(number)
            if number in self._kept:
                if (arrived := self._arrived.pop(number, None)) is not None:
                    torch.cuda.current_stream().wait_event(arrived)
                with self.computed.one():
                    yield number, self._kept[number]
                continue
            place = self._used % len(self._turning)
            if self._device == "cuda":
                torch.cuda.current_stream().wait_event(self._ready[place])
            with self.computed.one():
                yield number, self._turning[place]
            self._used += 1
            if self._device == "cuda":
                self._free[place].record()
            self._fetch()

    def _measure_anew(self) -> None:
        self.computed = Spans(self._device, counting=self._measures)
        self.copied = Spans(self._device, self._stream, counting=self._measures)

    def _bring(self, number: int) -> None:
        """Have what stays on its way up to block `number`, and of what follows as much as nobody has to wait for."""
        while self._lacking and (self._lacking[0] <= number or self._source.is_there(self._lacking[0])):
            for following in itertools.islice(self._lacking, AHEAD):
                self._source.ahead(following)
            block = self._source.block(self._lacking[0])
            staying = self._lacking.popleft()
            with torch.cuda.stream(self._stream):
                self._arrived[staying] = self._copy(staying, block, self._kept[staying])

    def close(self) -> None:
        """Let the buffers go. What is still being copied is waited for."""
        if self._stream is not None:
            torch.cuda.synchronize()
        self._turning.clear()
        self._kept.clear()

    def _fetch(self) -> None:
        """Fill the next turning slot with the next streamed block, as soon as the computation has let go of it."""
        if self._once and self._fetched == len(self._streamed):
            return
        place = self._fetched % len(self._turning)
        number = self._streamed[self._fetched % len(self._streamed)]
        last = self._fetched + AHEAD
        for following in range(self._fetched, min(last, len(self._streamed)) if self._once else last):
            self._source.ahead(self._streamed[following % len(self._streamed)])
        block = self._source.block(number)
        with torch.cuda.stream(self._stream):
            if self._stream is not None:
                self._stream.wait_event(self._free[place])
            with self.copied.one():
                self._ready[place] = self._copy(number, block, self._turning[place])
        self.moved_bytes += len(block)
        self._fetched += 1

    def _copy(self, number: int, block: torch.Tensor, slot: torch.Tensor) -> Any:
        """Have a block copied on the current stream; the event that this is done, on the CPU None."""
        place = slot if len(slot) == len(block) else slot[: len(block)]  # sections have blocks of their own sizes
        place.copy_(block, non_blocking=True)
        event = self._event()
        if event is not None:
            event.record()
        self._source.done(number, event)
        return event

    def _buffer(self) -> torch.Tensor:
        return torch.empty(self._source.block_bytes, dtype=torch.uint8, device=self._device)

    def _event(self) -> Any:
        return torch.cuda.Event() if self._device == "cuda" else None


def _spread(count: int, streamed: int) -> list[int]:
    """`streamed` of `count` block numbers, evenly apart, so that computing on the kept ones hides their copies."""
    return [place * count // streamed for place in range(streamed)] if streamed else []
