"""Blocks come past in sweeps: some stay in their slots, the others take turns in two that are filled ahead.

A slot is one flat buffer on the device, as large as a block. Copies run on a stream of their own, from pinned host
memory, in one piece a block; events order them against the computation, nothing waits for the host, and nothing is
ever copied back. Memory that cannot be pinned is copied from as well: the driver takes it through buffers of its own,
and the host waits meanwhile. Knows blocks as bytes: nothing of tensors, riders or pictures.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import mmap
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch

from renderer.engine.block_source import BlockSource, ReadableBlock
from renderer.engine.device import Device
from renderer.engine.meter import Span, Spans
from renderer.errors import MachineError, ModelError
from renderer.estimate import host
from renderer.estimate.memory import TURNING_SLOTS
from renderer.machine import hardware

LOG = logging.getLogger(__name__)

FILLING_THREADS = 16
"""Threads that fill host memory from the packed store: most of that is the kernel's handing out of fresh pages."""

AHEAD = 4
"""Blocks that a source is told of before they are wanted; it takes up as many as it has room for."""

PINNING_HINT = "raise the limit on locked memory (ulimit -l unlimited), or free host memory"
SLOWER = f"copies to the GPU take several times as long (7 times beside an H200); {PINNING_HINT}"

_PIN_FLAGS = 0  # cudaHostRegisterDefault


class HostMemory:
    """All blocks of a network in host memory, pinned where there is a GPU and it can be: the one copy there is."""

    from_disk = False

    def __init__(self, files: Sequence[ReadableBlock], device: Device) -> None:
        """Raises `ModelError` for a file that cannot be read."""
        self._files = files
        with ThreadPoolExecutor(FILLING_THREADS) as pool:
            filled = pool.map(lambda file: host_buffer(file.bytes, device, functools.partial(_read, file)), files)
            self._blocks = list(filled)

    @property
    def count(self) -> int:
        return len(self._files)

    @property
    def block_bytes(self) -> int:
        return max(file.bytes for file in self._files)

    def ahead(self, number: int) -> None:
        pass

    def block(self, number: int) -> torch.Tensor:
        return self._blocks[number]

    def done(self, number: int, event: Any | None) -> None:
        pass


class ReadAhead:
    """Blocks read from the disk as they are wanted, a few at once, into a few buffers: for short host memory."""

    from_disk = True

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
        self._files = files
        self._direct = not _fits(files) if direct is None else direct
        self._free: list[tuple[torch.Tensor, Any | None]] = [
            (host_buffer(self.block_bytes, device), None) for _ in range(min(depth + 1, len(files)))
        ]
        self._coming: dict[int, tuple[torch.Tensor, Future[None]]] = {}
        self._pool = ThreadPoolExecutor(depth)

    @property
    def count(self) -> int:
        return len(self._files)

    @property
    def block_bytes(self) -> int:
        return max(file.bytes for file in self._files)

    def ahead(self, number: int) -> None:
        if number in self._coming or not self._free:
            return
        buffer, event = self._free.pop(0)

        def read() -> None:
            if event is not None:
                event.synchronize()
            _read(self._files[number], buffer, direct=self._direct)

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
        size = self._files[number].bytes
        return buffer if len(buffer) == size else buffer[:size]

    def done(self, number: int, event: Any | None) -> None:
        buffer, _ = self._coming.pop(number)
        self._free.append((buffer, event))


def _read(file: ReadableBlock, buffer: torch.Tensor, *, direct: bool = False) -> None:
    """Read a block, and once more where that fails: a disk, or the network before it, may have had a bad moment."""
    try:
        file.read_into(buffer, direct=direct)
    except (ModelError, OSError) as error:
        LOG.warning("%s: it is read once more", str(error))  # its words: a record of it would hold the buffer
        file.read_into(buffer, direct=direct)


def source_for(files: Sequence[ReadableBlock], device: Device) -> BlockSource:
    """Host memory for all blocks where there is room for them; otherwise they are read as they are wanted."""
    if _fits(files):
        return HostMemory(files, device)
    LOG.info("%.1f GiB are more than host memory has free: blocks come from the disk", _bytes(files) / 2**30)
    return ReadAhead(files, device, direct=True)


def _fits(files: Sequence[ReadableBlock]) -> bool:
    """Whether host memory has room for all of a sweep."""
    return host.has_room(_bytes(files), hardware.look().ram_free_bytes)


def _bytes(files: Sequence[ReadableBlock]) -> int:
    return sum(file.bytes for file in files)


class Slots:
    """A network's blocks on the device: `resident` of them for good, the others through the turning slots."""

    def __init__(self, source: BlockSource, slots: int, device: Device, *, once: bool = False) -> None:
        """`slots` from 2 to all blocks; with as many as blocks, nothing moves once they are there.

        `once` says that there will be one sweep: nothing is fetched for another. Raises what torch raises where there
        is no room for them, and what the source raises; nothing is held then.
        """
        self._once = once
        self._source = source
        self._device = device
        count = source.count
        resident = count if slots >= count else max(0, slots - TURNING_SLOTS)
        self._streamed = _spread(count, count - resident)
        self._turning = [self._buffer() for _ in range(min(TURNING_SLOTS, len(self._streamed)))]
        self._kept: dict[int, torch.Tensor] = {}
        self._stream = torch.cuda.Stream() if device == "cuda" else None
        self._ready: list[Any] = [self._event() for _ in self._turning]
        self._free: list[Any] = [self._event() for _ in self._turning]
        self._fetched = self._used = 0
        self._measures = bool(self._streamed) and not once
        self._measure_anew()
        self.moved_bytes = 0
        try:
            self._fill(sorted(set(range(count)) - set(self._streamed)))
        except BaseException:
            self.close()  # copies under way end before anybody takes their memory away
            raise

    def _fill(self, staying: Sequence[int]) -> None:
        """Bring what stays, and the first of what takes turns; that tells how fast copies are."""
        for place, number in enumerate(staying):
            for following in staying[place : place + AHEAD]:
                self._source.ahead(following)
            self._kept[number] = self._buffer()
            self._copy(number, self._kept[number])
        if self._device == "cuda":
            torch.cuda.synchronize()
        began_s, self.moved_bytes = time.perf_counter(), 0
        for _ in self._turning:
            self._fetch()
        if self._stream is not None:
            self._stream.synchronize()
        self.bus_bytes_per_s = self.moved_bytes / (time.perf_counter() - began_s)
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
        When it has ended, `copying` tells how long its copies were under way, and, where blocks move, `computed` and
        `copied` how long each went on without waiting for the other. One that breaks off leaves the slots out of step:
        others have to be made. Raises what the source raises.
        """
        self.copying = Span(self._device, self._stream)
        self._measure_anew()
        for number in range(self._source.count):
            if number in self._kept:
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
        self.copying.stop()

    def _measure_anew(self) -> None:
        self.computed = Spans(self._device, counting=self._measures)
        self.copied = Spans(self._device, self._stream, counting=self._measures)

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
        if self._stream is None:
            with self.copied.one():
                self._copy(number, self._turning[place])
        else:
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(self._free[place])
                with self.copied.one():
                    self._copy(number, self._turning[place])
                self._ready[place].record(self._stream)
        self._fetched += 1

    def _copy(self, number: int, slot: torch.Tensor) -> None:
        block = self._source.block(number)
        place = slot if len(slot) == len(block) else slot[: len(block)]  # sections have blocks of their own sizes
        place.copy_(block, non_blocking=True)
        self.moved_bytes += len(block)
        event = None
        if self._stream is not None:
            event = self._event()
            event.record()
        self._source.done(number, event)

    def _buffer(self) -> torch.Tensor:
        return torch.empty(self._source.block_bytes, dtype=torch.uint8, device=self._device)

    def _event(self) -> Any:
        return torch.cuda.Event() if self._device == "cuda" else None


def host_buffer(size: int, device: Device, fill: Callable[[torch.Tensor], None] | None = None) -> torch.Tensor:
    """Flat host memory of `size` bytes, pinned where there is a GPU and the system allows it; `unpinned` tells.

    torch's own pinned memory is rounded up to a power of two, up to twice what a block has; this is not. `fill` is
    called before the memory is pinned: pages that a read has touched are pinned several times as fast as fresh ones,
    which the driver asks for one by one.

    What could not be pinned is as good to copy from, and to: when such a copy's call returns, the driver has taken the
    bytes over or brought them. It is slower, and the call does not return before that.
    """
    buffer, status = _host_memory(size, device, fill)
    if status != 0:
        _UNPINNED.add(size, status)
    return buffer


def pinned_buffer(size: int, device: Device, fill: Callable[[torch.Tensor], None] | None = None) -> torch.Tensor:
    """The same for who wants it pinned or not at all. Raises `MachineError` when it cannot be pinned."""
    buffer, status = _host_memory(size, device, fill)
    if status != 0:
        message = f"{size / 2**20:.0f} MiB of host memory cannot be pinned (CUDA error {status})"
        raise MachineError(message, hint=PINNING_HINT)
    return buffer


def unpinned() -> str:
    """What a picture of this process should say of host memory that could not be pinned; empty where all could."""
    return _UNPINNED.words


def _host_memory(size: int, device: Device, fill: Callable[[torch.Tensor], None] | None) -> tuple[torch.Tensor, int]:
    """The memory, and CUDA's status: 0 where it is pinned, or need not be."""
    memory = _Memory(-1, max(size, 1))
    with contextlib.suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    buffer = torch.frombuffer(memory, dtype=torch.uint8, count=size)
    if fill is not None:
        fill(buffer)
    return buffer, memory.pin(buffer.data_ptr(), size) if device == "cuda" else 0


class _Unpinned:
    """What this process could not pin: said in the log the first time, and kept for the sidecars."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.words = ""

    def add(self, size: int, status: int) -> None:
        with self._lock:
            if not self.words:
                LOG.warning(
                    "%.0f MiB of host memory cannot be pinned (CUDA error %d): %s", size / 2**20, status, SLOWER
                )
            self.words = f"host memory could not all be pinned: {SLOWER}"


_UNPINNED = _Unpinned()


class _Memory(mmap.mmap):
    """Memory that may be pinned, and then is let go of by the driver before it is unmapped.

    The other way round, another thread may be given the same addresses in between, and the driver takes its memory for
    what it still knows as pinned.
    """

    _pinned_at: int | None = None

    def pin(self, address: int, size: int) -> int:
        """Pin it; CUDA's status, 0 when it is."""
        status = int(torch.cuda.cudart().cudaHostRegister(address, size, _PIN_FLAGS))
        if status == 0:
            self._pinned_at = address
        elif torch.cuda.is_available():
            with contextlib.suppress(RuntimeError):  # the next launch in this thread is told of the failed call: this
                torch.ones(1, device="cuda")
        return status

    def __del__(self) -> None:
        if self._pinned_at is not None and not sys.is_finalizing():
            torch.cuda.cudart().cudaHostUnregister(self._pinned_at)


def _spread(count: int, streamed: int) -> list[int]:
    """`streamed` of `count` block numbers, evenly apart, so that computing on the kept ones hides their copies."""
    return [place * count // streamed for place in range(streamed)] if streamed else []
