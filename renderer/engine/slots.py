"""Blocks come past in sweeps: some stay in their slots, the others take turns in two that are filled ahead.

A slot is one flat buffer on the device, as large as a block. Copies run on a stream of their own, from pinned host
memory, in one piece a block; events order them against the computation, nothing waits for the host, and nothing is
ever copied back. Knows blocks as bytes: nothing of tensors, riders or pictures.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch

from renderer import machine
from renderer.engine.placement import Device
from renderer.errors import MachineError

LOG = logging.getLogger(__name__)

TURNING = 2
"""Slots that the streamed blocks take turns in: one is computed with while the other is filled."""

HOST_MARGIN_BYTES = 4 * 2**30
"""Host memory left to the rest of the worker, to the page cache and to everybody else."""

READERS = 16
"""Threads that fill host memory from the packed store: most of that is the kernel's handing out of fresh pages."""


class BlockFile(Protocol):
    """A block on the disk: how many bytes it has, and how they are read."""

    @property
    def bytes(self) -> int: ...

    def read_into(self, buffer: torch.Tensor) -> None: ...


class Source(Protocol):
    """Where a network's blocks come from: flat bytes in host memory, in the order of a sweep, over and over."""

    @property
    def count(self) -> int: ...

    @property
    def block_bytes(self) -> int: ...

    def ahead(self, number: int) -> None:
        """Block `number` will be wanted soon."""

    def block(self, number: int) -> torch.Tensor:
        """Block `number` in host memory, uint8; it stays there until `done`."""

    def done(self, number: int, event: Any | None) -> None:
        """Block `number` has been copied once `event` has passed; None: now."""


class HostMemory:
    """All blocks of a network in host memory, pinned where there is a GPU: the one copy there is."""

    def __init__(self, files: Sequence[BlockFile], device: Device) -> None:
        self._files = files
        with ThreadPoolExecutor(READERS) as pool:
            self._blocks = list(pool.map(lambda file: host_buffer(file.bytes, device, file.read_into), files))

    @property
    def count(self) -> int:
        return len(self._files)

    @property
    def block_bytes(self) -> int:
        return self._files[0].bytes

    def ahead(self, number: int) -> None:
        pass

    def block(self, number: int) -> torch.Tensor:
        return self._blocks[number]

    def done(self, number: int, event: Any | None) -> None:
        pass


class ReadAhead:
    """Blocks read from the disk as they are wanted, a few ahead, into a few buffers: for short host memory."""

    def __init__(self, files: Sequence[BlockFile], device: Device, depth: int = 3) -> None:
        self._files = files
        self._free: list[tuple[torch.Tensor, Any | None]] = [
            (host_buffer(files[0].bytes, device), None) for _ in range(min(depth, len(files)))
        ]
        self._coming: dict[int, tuple[torch.Tensor, Future[None]]] = {}
        self._pool = ThreadPoolExecutor(1)

    @property
    def count(self) -> int:
        return len(self._files)

    @property
    def block_bytes(self) -> int:
        return self._files[0].bytes

    def ahead(self, number: int) -> None:
        if number in self._coming or not self._free:
            return
        buffer, event = self._free.pop(0)

        def read() -> None:
            if event is not None:
                event.synchronize()
            self._files[number].read_into(buffer)

        self._coming[number] = buffer, self._pool.submit(read)

    def block(self, number: int) -> torch.Tensor:
        self.ahead(number)
        buffer, read = self._coming[number]
        read.result()
        return buffer

    def done(self, number: int, event: Any | None) -> None:
        buffer, _ = self._coming.pop(number)
        self._free.append((buffer, event))


def source_for(files: Sequence[BlockFile], device: Device) -> Source:
    """Host memory for all blocks where there is room for them; otherwise they are read as they are wanted."""
    needed = sum(file.bytes for file in files) + HOST_MARGIN_BYTES
    free = machine.look().ram_free_bytes
    if needed <= free:
        return HostMemory(files, device)
    LOG.info(
        "%.1f GiB of host memory are free and %.1f are wanted: blocks come from the disk", free / 2**30, needed / 2**30
    )
    return ReadAhead(files, device)


class Slots:
    """A network's blocks on the device: `resident` of them for good, the others through the turning slots."""

    def __init__(self, source: Source, slots: int, device: Device, *, once: bool = False) -> None:
        """`slots` from 2 to all blocks; with as many as blocks, nothing moves once they are there.

        `once` says that there will be one sweep: nothing is fetched for another.
        """
        self._once = once
        self._source = source
        self._device = device
        count = source.count
        resident = count if slots >= count else max(0, slots - TURNING)
        self._streamed = _spread(count, count - resident)
        self._turning = [self._buffer() for _ in range(min(TURNING, len(self._streamed)))]
        self._kept: dict[int, torch.Tensor] = {}
        self._stream = torch.cuda.Stream() if device == "cuda" else None
        self._ready: list[Any] = [self._event() for _ in self._turning]
        self._free: list[Any] = [self._event() for _ in self._turning]
        self._fetched = self._used = 0
        self.moved_bytes = 0
        streamed = set(self._streamed)
        for number in range(count):
            if number not in streamed:
                self._kept[number] = self._buffer()
                self._copy(number, self._kept[number])
        if device == "cuda":
            torch.cuda.synchronize()
        began_s = time.perf_counter()
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
        """How many slots there are."""
        return len(self._kept) + len(self._turning)

    def sweep(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Every block once, in order, as flat bytes on the device, valid until the next is asked for.

        What is launched on the current stream while a block is held is done with it before its slot is filled again.
        """
        for number in range(self._source.count):
            if number in self._kept:
                yield number, self._kept[number]
                continue
            place = self._used % len(self._turning)
            if self._device == "cuda":
                torch.cuda.current_stream().wait_event(self._ready[place])
            yield number, self._turning[place]
            self._used += 1
            if self._device == "cuda":
                self._free[place].record()
            self._fetch()

    def close(self) -> None:
        """Let the buffers go. What is still being copied is waited for."""
        if self._stream is not None:
            self._stream.synchronize()
        self._turning.clear()
        self._kept.clear()

    def _fetch(self) -> None:
        """Fill the next turning slot with the next streamed block, as soon as the computation has let go of it."""
        if self._once and self._fetched == len(self._streamed):
            return
        place = self._fetched % len(self._turning)
        number = self._streamed[self._fetched % len(self._streamed)]
        following = self._streamed[(self._fetched + 1) % len(self._streamed)]
        if self._stream is None:
            self._copy(number, self._turning[place])
        else:
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(self._free[place])
                self._copy(number, self._turning[place])
                self._ready[place].record(self._stream)
        if not self._once or following > number:
            self._source.ahead(following)
        self._fetched += 1
        self.moved_bytes += self._source.block_bytes

    def _copy(self, number: int, slot: torch.Tensor) -> None:
        slot.copy_(self._source.block(number), non_blocking=True)
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
    """Flat host memory of `size` bytes, pinned where there is a GPU. Raises `MachineError` when it cannot be pinned.

    torch's own pinned memory is rounded up to a power of two, up to twice what a block has; this is not. `fill` is
    called before the memory is pinned: pages that a read has touched are pinned several times as fast as fresh ones,
    which the driver asks for one by one.
    """
    memory = mmap.mmap(-1, max(size, 1))
    with contextlib.suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    buffer = torch.frombuffer(memory, dtype=torch.uint8, count=size)
    if fill is not None:
        fill(buffer)
    if device == "cuda":
        runtime, address = torch.cuda.cudart(), buffer.data_ptr()
        status = runtime.cudaHostRegister(address, size, 0)
        weakref.finalize(memory, runtime.cudaHostUnregister, address).atexit = False
        if int(status) != 0:
            message = f"{size / 2**20:.0f} MiB of host memory cannot be pinned (CUDA error {int(status)})"
            raise MachineError(message, hint="raise the limit on locked memory (ulimit -l), or free host memory")
    return buffer


def _spread(count: int, streamed: int) -> list[int]:
    """`streamed` of `count` block numbers, evenly apart, so that computing on the kept ones hides their copies."""
    return [place * count // streamed for place in range(streamed)] if streamed else []
