"""The shared memories in which workers of this machine have one copy of a model's blocks between them.

One for all that open the same weights; it lives as long as any of them has them open. This process owns it and maps
nothing of it, and the kernel frees it with its last user, however those end. What lies in it is the workers' business.
"""

from __future__ import annotations

from collections.abc import Iterable

from renderer import catalog
from renderer.errors import RendererError
from renderer.estimate import host, shape_of
from renderer.estimate.weights import weight_bytes
from renderer.protocol import HostCopy, Setup
from renderer.system import shared_memory
from renderer.system.shared_memory import SharedMemory

_Weights = tuple[str, str, str, str]


class HostCopies:
    """A shared memory for each of the weights that workers have open."""

    def __init__(self, workers: int) -> None:
        """For so many `workers`, each of which knows its part of the host's free memory (`Setup.ram_bytes`)."""
        self._workers = workers if shared_memory.is_possible() else 0
        self._owned: dict[_Weights, tuple[SharedMemory, int]] = {}

    def shared(self, setup: Setup) -> Setup:
        """What a worker opens, with the copy that it shares; as it is where nothing is to be shared."""
        if self._workers <= 1 or setup.profile != "stream" or setup.ram_bytes is None:
            return setup
        key = _weights(setup)
        try:
            if key not in self._owned:
                self._owned[key] = SharedMemory("renderer-blocks"), _block_bytes(setup)
            others = sum(count for other, (_, count) in self._owned.items() if other != key)
        except (OSError, RendererError):  # the worker says what is wrong with a model
            return setup
        room = self._workers * setup.ram_bytes - (self._workers - 1) * host.MARGIN_BYTES - others
        owner, _ = self._owned[key]
        return setup.model_copy(update={"host_copy": HostCopy(at=owner.path, name=owner.name, ram_bytes=max(0, room))})

    def keep(self, opened: Iterable[Setup]) -> None:
        """Let go of what belongs to none of these, which are all that workers have open."""
        left = set(self._owned)
        for setup in opened if left else ():
            left.discard(_weights(setup))
            if not left:
                return
        for key in left:
            owner, _ = self._owned.pop(key)
            owner.close()


def _weights(setup: Setup) -> _Weights:
    return setup.model, repr(setup.identity), setup.stored, setup.store or ""


def _block_bytes(setup: Setup) -> int:
    """What all blocks take that wait in host memory, by arithmetic. Raises `ModelError`."""
    shape = shape_of(catalog.find(setup.model))
    return shape.layers * weight_bytes(shape, setup.stored).block
