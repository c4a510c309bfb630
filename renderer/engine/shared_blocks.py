"""One copy of a network's blocks in host memory for all workers of a machine; each pins it for its own GPU.

A block is read, and held against its checksum, by one of them; the others map it. What cannot be shared is said in the
log, and the worker has blocks of its own. Knows nothing of slots and sweeps.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from renderer.engine.block_source import ReadableBlock
from renderer.engine.device import Device
from renderer.engine.pinned import host_buffer
from renderer.estimate import host
from renderer.machine import hardware
from renderer.protocol import HostCopy
from renderer.system.shared_memory import OtherContentsError, Pieces

LOG = logging.getLogger(__name__)


class CheckedBlock(ReadableBlock, Protocol):
    """A block whose data is known by its file's checksum."""

    @property
    def checksum(self) -> str: ...


class SharedBlocks:
    """Blocks that lie in host memory once, for several processes."""

    def __init__(self, pieces: Pieces, files: Sequence[ReadableBlock]) -> None:
        self._pieces = pieces
        self._sizes = [file.bytes for file in files]
        weakref.finalize(self, pieces.close)

    def block(self, number: int, device: Device, fill: Callable[[torch.Tensor], None]) -> torch.Tensor | None:
        """A block, which `fill` reads if nobody has; None where another process is at it and does not get on.

        Raises what `fill` raises.
        """
        there = True

        def filled(buffer: torch.Tensor) -> None:
            nonlocal there
            there = self._pieces.have(number, lambda: fill(buffer))

        place = self._pieces.descriptor, self._pieces.place(number)
        memory = host_buffer(self._sizes[number], device, filled, place)
        if there:
            return memory
        LOG.warning("block %d is being filled by a worker that does not get on: this one has it for itself", number)
        return None


def open_for(files: Sequence[CheckedBlock], shared: HostCopy) -> SharedBlocks | None:
    """The shared copy of these blocks, where it can be opened and there is room for all; None and a word in the log.

    Where others have begun it, their word counts that there is room: what it still lacks has to be free.
    """
    count = sum(file.bytes for file in files)
    pieces = None
    try:
        pieces = Pieces(shared.at, shared.name)
        missing, free = count - pieces.taken_bytes, hardware.look().ram_free_bytes
        fits = missing <= free if pieces.is_begun else host.has_room(count, min(free, shared.ram_bytes))
        if fits:
            return SharedBlocks(pieces.lay_out(_contents(files), [file.bytes for file in files]), files)
        LOG.info("%.1f GiB are more than host memory has room for, once for all workers", count / 2**30)
    except OtherContentsError:
        LOG.warning("the workers of this machine have opened other files: this one has its own copy of the blocks")
    except OSError as error:
        LOG.warning("no copy of the blocks can be shared (%s): this worker has its own", error)
    if pieces is not None:
        pieces.close()
    return None


def _contents(files: Sequence[CheckedBlock]) -> bytes:
    """What tells these blocks from others: what each is to hold."""
    return repr([file.checksum for file in files]).encode()
