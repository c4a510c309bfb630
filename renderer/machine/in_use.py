"""Which GPUs of this machine other runs render on: a mark for each, with a lock that ends with its process.

Two runs that begin side by side would both take the fastest GPU, for neither has anything on it yet. Marks lie in the
user's cache folder: of other users, and of containers with a cache of their own, nothing is known. Where that folder
cannot be written, there are no marks. Knows no workers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import psutil

from renderer.errors import DiskError, LockedError
from renderer.machine.devices import WorkerDevice
from renderer.machine.gpus import BF16_CAPABILITY, LocalGpu
from renderer.machine.hardware import Machine
from renderer.system import folders, lock

_PATIENCE_S = 5.0
_SLASH = "_"
"""In the names of marks: the names of a card's parts have slashes with older drivers."""


class GpuMarks:
    """One run's marks, and what those of others say."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or folders.cache_folder() / "gpus"
        self._mine = contextlib.ExitStack()

    @contextlib.contextmanager
    def choosing(self) -> Iterator[Mapping[str, int]]:
        """The processes of other runs by the UUIDs of their GPUs; meanwhile no other run chooses. Forgets own marks."""
        self.close()
        with contextlib.ExitStack() as alone:
            with contextlib.suppress(DiskError, LockedError):
                alone.enter_context(lock.waited(self._folder / ".lock", _PATIENCE_S))
            yield self._users()

    def mark(self, gpus: Iterable[LocalGpu]) -> None:
        """Tell others that this run renders on these."""
        for gpu in (each for each in gpus if each.uuid):
            path = self._folder / f"{gpu.uuid.replace('/', _SLASH)}.{os.getpid()}-{uuid4().hex[:8]}"
            with contextlib.suppress(DiskError, LockedError):
                self._mine.enter_context(lock.held(path))
                self._mine.callback(_remove, path)

    def close(self) -> None:
        """This run renders on none any more."""
        self._mine.close()

    def _users(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for path in sorted(self._folder.glob("*.*-*")) if self._folder.is_dir() else ():
            uuid, _, who = path.name.rpartition(".")
            pid = who.partition("-")[0]
            if not pid.isdecimal():
                continue
            if lock.look(path) == "held":
                found[uuid.replace(_SLASH, "/")] = int(pid)
            elif not psutil.pid_exists(int(pid)):  # one that is there may be about to lock it
                _remove(path)
        return found


def free_first(here: Machine, users: Mapping[str, int]) -> Machine:
    """The machine with a GPU first that nobody else's run renders on, if one is as able as the one that would be."""

    def is_worse(gpu: LocalGpu) -> tuple[bool, bool]:
        return gpu.compute_capability < BF16_CAPABILITY, not gpu.uuid or gpu.uuid in users

    return replace(here, gpus=tuple(sorted(here.gpus, key=is_worse)))


def remarks(here: Machine, chosen: Sequence[WorkerDevice], users: Mapping[str, int]) -> Iterator[str]:
    """What is said of GPUs that others render on: of one that was passed over for it, and of one that is shared."""
    mine = [device.machine.gpu for device in chosen if device.machine.gpu is not None]
    for gpu in mine:
        if gpu.uuid in users:
            told = f"{_told(gpu)} is rendered on by another run too, process {users[gpu.uuid]}"
            yield f"{told}: each plans with the memory that is free when it begins; --gpus names another"
    first = here.gpu
    if first is not None and first.uuid in users and mine and first.uuid not in {gpu.uuid for gpu in mine}:
        yield f"{_told(first)} is another run's, process {users[first.uuid]}: this one renders on {_told(mine[0])}"


def _told(gpu: LocalGpu) -> str:
    return f"GPU {gpu.index} ({gpu.name})"


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
