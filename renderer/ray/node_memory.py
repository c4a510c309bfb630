"""The actor that owns, on one machine of the cluster, what its workers share: one copy of a model's blocks.

On the supervisor's machine that is the pool's (`supervisor.host_copies`). It is the run's own, and goes with it, while
workers come and go.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from renderer.machine import hardware
from renderer.machine.hardware import Machine
from renderer.protocol import Setup
from renderer.ray import connecting
from renderer.supervisor.host_copies import HostCopies

LOG = logging.getLogger(__name__)

_PATIENCE_S = 30.0

_THRESHOLD = "RAY_memory_usage_threshold"
_USUAL_THRESHOLD = 0.95
"""Where a machine's memory is fuller than that, Ray ends what it has begun there."""


def free_bytes(machine: Machine) -> int:
    """What of a machine's free memory may be filled before Ray takes offence."""
    try:
        threshold = float(os.environ.get(_THRESHOLD, _USUAL_THRESHOLD))
    except ValueError:
        threshold = _USUAL_THRESHOLD
    return max(0, machine.ram_free_bytes - int((1 - min(1.0, threshold)) * machine.ram_bytes))


class NodeMemory:
    """What is free on this machine, and is shared out to its workers, by names that they have."""

    def __init__(self, workers: int) -> None:
        """For so many workers, of which none is there yet."""
        connecting.end_with_node()
        self._part_bytes = free_bytes(hardware.look()) // workers
        self._copies = HostCopies(workers)
        self._opened: dict[str, Setup] = {}

    def shared(self, worker: str, setup: Setup) -> Setup:
        """What a worker opens, with its part of the memory and the copy that it shares."""
        self._opened[worker] = mine = setup.model_copy(update={"ram_bytes": self._part_bytes})
        self._copies.keep(self._opened.values())
        return self._copies.shared(mine)

    def left(self, worker: str) -> None:
        """It is gone: what it had alone is free."""
        self._opened.pop(worker, None)
        self._copies.keep(self._opened.values())


def ask(memory: Any, worker: str, setup: Setup) -> Setup:
    """What a worker opens, as the actor `memory` says; by itself where there is none, or it does not answer."""
    if memory is None:
        return setup
    ray = connecting.library()
    try:
        told: Setup = ray.get(memory.shared.remote(worker, setup), timeout=_PATIENCE_S)
    except ray.exceptions.RayError:
        LOG.warning("this worker shares no memory with others", exc_info=True)
        return setup
    return told
