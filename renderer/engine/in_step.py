"""A second network of blocks, brought past in step with the first: each arrives as the other's of its place does.

It comes to the device through slots of its own, two at the least; with room all of it stays there. Knows nothing of
what the blocks are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch

from renderer.engine import failures
from renderer.engine.block_source import ReadableBlock
from renderer.engine.device import Device
from renderer.engine.slots import HostMemory, Slots
from renderer.estimate.memory import TURNING_SLOTS


class InStep:
    """Blocks that come past in step with a network's."""

    def __init__(self, blocks: Sequence[ReadableBlock], device: Device) -> None:
        self._files, self._device = blocks, device
        self._slots: Slots | None = None
        self._sweep: Iterator[tuple[int, torch.Tensor]] | None = None
        self._there: tuple[int, torch.Tensor] | None = None
        self.does_not_fit = False
        """Whether there was no room on the device for all of it."""

    @cached_property
    def host(self) -> HostMemory:
        """All its blocks in host memory, each of them read: damage is of who wanted it, and of no sweep."""
        found = HostMemory(self._files, self._device)
        found.wait()
        return found

    @property
    def whole_bytes(self) -> int:
        """What all of it takes on the device."""
        return len(self._files) * max(block.bytes for block in self._files)

    @property
    def least_bytes(self) -> int:
        """What two blocks of it take there."""
        return min(TURNING_SLOTS, len(self._files)) * max(block.bytes for block in self._files)

    @property
    def device_bytes(self) -> int:
        """What it takes there now."""
        return self._slots.count * self.host.block_bytes if self._slots else 0

    def begin(self, *, stays: bool) -> None:
        """A sweep begins, with all of it on the device, or two blocks. Raises what torch raises for want of memory."""
        count = len(self._files) if stays else min(TURNING_SLOTS, len(self._files))
        if self._slots is None or self._slots.count != count:
            self.close()
            self._slots = self._made(count) or Slots(self.host, TURNING_SLOTS, self._device)
        self._sweep = self._slots.sweep()

    def _made(self, count: int) -> Slots | None:
        """So many slots; None where there was no room for all to stay, which is noted."""
        try:
            return Slots(self.host, count, self._device)
        except Exception as error:
            if count <= TURNING_SLOTS or not failures.is_out_of_memory(error):
                raise
        self.does_not_fit = True
        return None

    def arrive(self) -> None:
        """The next block is there, until the one after it arrives."""
        self.forget_block()
        if self._sweep is not None:
            self._there = next(self._sweep)

    def end(self) -> None:
        """The sweep is over."""
        self.forget_block()
        self._there = None
        if self._sweep is not None:
            next(self._sweep, None)
            self._sweep = None

    def close(self) -> None:
        """Take it off the device. What is still being copied is waited for."""
        self.forget_block()
        self._there, self._sweep = None, None
        if self._slots is not None:
            self._slots.close()
            self._slots = None

    def forget_block(self) -> None:
        """Let go of what was made of the block that is there."""
