"""How a batch stands at this moment, and the file where the run that renders it says so for others to read.

The file is written whole at most once a second, and goes when the batch ends. One that a dead run left behind is known
by the folder's lock, which nobody holds. Knows nothing of plans, workers or screens.
"""

from __future__ import annotations

import contextlib
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from renderer.errors import DiskError, LeaseLostError
from renderer.job import Bytes, Seconds, Value
from renderer.outputs.folder import OutputFolder

if TYPE_CHECKING:
    from renderer.machine.gpus import LocalGpu

_MAX_BYTES = 2**20
_EVERY_S = 1.0

Phase = Literal["preparing", "waiting", "opening", "rendering", "paused", "stopping"]
"""`waiting`: others of the same run are rendered; `paused`: nothing is begun until somebody says so."""


class InFlight(Value):
    """A picture that is being rendered: `step` of `steps` denoising steps are done since `since` (UTC).

    `where` is which of several workers has it; empty where there is one.
    """

    id: str
    step: int
    steps: int
    attempt: int
    since: datetime
    where: str = ""


WorkerState = Literal["none", "opening", "open", "left out"]


class WorkerStatus(Value):
    """One of several workers: where it is, its device's name for CUDA, what it has open, and how many pictures it has.

    `none` is where nobody sits, `left out` a device that lost one worker after the other, or on which what is rendered
    does not open: `trouble` says why. `card` is the card's name with the first part of its UUID, once it was opened;
    `rendered` are pictures of this run.
    """

    where: str
    state: WorkerState
    pid: int | None = None
    gpu: str | None = None
    card: str = ""
    model: str | None = None
    pictures: int = 0
    rendered: int = 0
    trouble: str = ""


class NightStatus(Value):
    """How a run stands that renders several manifests as one: the counts of all, what is left, and the rate."""

    manifests: int
    to_render: int
    done: int
    failed: int
    pictures_per_hour: float | None = None
    left_s: Seconds | None = None


class RunStatus(Value):
    """How a batch stands at `at` (UTC). Counts are pictures of this run: `failed` are those that are not there now.

    `queued` are handed to a worker and not begun; `workers` are there where there are several, and `worker_pid` is the
    first one's process. `left_s` is how many seconds the rest will take and
    `pictures_per_hour` the rate, both by the steps that were done since the first picture began; null before that.
    Where a run renders several manifests, both are said of them all, in `night`.
    """

    standing_version: Literal[1] = 1
    name: str
    phase: Phase
    began_at: datetime
    at: datetime
    pid: int
    worker_pid: int | None = None
    to_render: int
    done: int
    failed: int
    queued: int = 0
    in_flight: tuple[InFlight, ...] = ()
    pictures_per_hour: float | None = None
    left_s: Seconds | None = None
    workers: tuple[WorkerStatus, ...] = ()
    night: NightStatus | None = None

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """The processes of all its workers."""
        pids = (self.worker_pid, *(worker.pid for worker in self.workers))
        return tuple(dict.fromkeys(pid for pid in pids if pid is not None))

    @property
    def furthest(self) -> InFlight | None:
        """The picture in flight that is nearest to its last step; the one that began first of several."""
        return max(self.in_flight, key=lambda one: one.step / one.steps, default=None)


class MemoryNow(Value):
    """Bytes at this moment: in use on the GPU by anybody, its size, and what the worker's process holds.

    `workers` has the same of each, in the run's order, where there are several.
    """

    device_bytes: Bytes | None = None
    device_total_bytes: Bytes | None = None
    worker_rss_bytes: Bytes | None = None
    workers: tuple[MemoryNow, ...] = ()


class StatusFile:
    """Keeps a folder's `running.json` up to date."""

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder
        self._written_at = float("-inf")

    def post(self, status: RunStatus) -> bool:
        """Write how the batch stands, unless that was done less than a second ago: whether it was.

        A full disk is not its business, nor a folder that is another run's by now.
        """
        now = time.monotonic()
        if now - self._written_at < _EVERY_S:
            return False
        self._written_at = now
        with contextlib.suppress(DiskError, LeaseLostError):  # and not synced: after a power cut nobody runs
            self._folder.write(self._folder.status, status.model_dump_json().encode() + b"\n", lasting=False)
        return True

    def take_down(self) -> None:
        """The batch is over: nothing is running. Where another run goes on with it, that says so there."""
        with contextlib.suppress(DiskError, LeaseLostError):
            self._folder.remove(self._folder.status)


def read(folder: OutputFolder) -> RunStatus | None:
    """How the batch stands that is being rendered into `folder`; None when none is."""
    status = _read(folder.status)
    return status if status is not None and folder.hold() == "held" else None


def left_behind(folder: OutputFolder) -> RunStatus | None:
    """What a run that is no more wrote last of itself; None where it ended well. To be asked with the lock held."""
    return _read(folder.status)


def memory_now(status: RunStatus) -> MemoryNow:
    """What is in use at this moment: by each worker's process, and on its GPU; of one, on the first that is visible."""
    from renderer.machine import hardware  # noqa: PLC0415  # most who ask for the status ask when no run is on

    gpus = hardware.look().gpus
    first = _memory(status.worker_pid, gpus[0] if gpus else None)
    by_uuid = {gpu.uuid: gpu for gpu in gpus}
    each = (_memory(worker.pid, by_uuid.get(worker.gpu or "")) for worker in status.workers)
    return first.model_copy(update={"workers": tuple(each)})


def _memory(pid: int | None, gpu: LocalGpu | None) -> MemoryNow:
    import psutil  # noqa: PLC0415  # as above

    rss: int | None = None
    if pid is not None:
        with contextlib.suppress(psutil.Error):
            rss = psutil.Process(pid).memory_info().rss
    return MemoryNow(
        device_bytes=gpu.total_bytes - gpu.free_bytes if gpu else None,
        device_total_bytes=gpu.total_bytes if gpu else None,
        worker_rss_bytes=rss,
    )


def _read(path: Path) -> RunStatus | None:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        return RunStatus.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ValueError):
        return None
