"""What a run needs of a worker, which owns a GPU, takes orders and speaks events, wherever it is; and how it ends."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from renderer.protocol import AnyEvent, AnyOrder
from renderer.system import children, oom


@dataclass(frozen=True, slots=True)
class Gone:
    """The worker is no more. `status` is its exit status, negative for a signal.

    `out_of_memory` says whether the kernel ended a process for want of memory while the worker lived; None where the
    kernel does not count. `vanished` says what became of the machine that it was on, where that is gone, or out of
    reach: then nothing that it held is to blame.
    """

    status: int
    out_of_memory: bool | None = None
    vanished: str = ""

    def __str__(self) -> str:
        if self.vanished:
            return f"the worker is lost: {self.vanished}"
        if self.status >= 0:
            return f"the worker ended with status {self.status}"
        told = f"the worker was ended by {_signal_name(-self.status)}"
        return f"{told}: the machine's memory ran out" if self._for_memory else told

    @property
    def hint(self) -> str:
        """What helps, where there is something to say."""
        if self.status != -signal.SIGKILL or self.out_of_memory is False:
            return ""
        return oom.OOM_HINT if self._for_memory else oom.UNSURE

    @property
    def was_asked_to_stop(self) -> bool:
        """Whether it died of what asks to stop: somebody meant the run, and nothing that it held is to blame."""
        return -self.status in children.STOPPING

    @property
    def _for_memory(self) -> bool:
        return self.status == -signal.SIGKILL and bool(self.out_of_memory)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time signals between the first and the last have no names
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else f"signal {number}"


Heard = tuple[AnyEvent | Gone, bytes]


class Worker(Protocol):
    """What a run needs of a worker, wherever that is. Not for use by several threads, but for `wake`."""

    @property
    def pid(self) -> int | None:
        """Its process on this machine; None when it is elsewhere."""

    def send(self, order: AnyOrder, payload: bytes = b"") -> None:
        """Give an order, and wait for nothing. A worker that is gone says so through `hear`, not here."""

    @property
    def unsent_bytes(self) -> int:
        """Of what goes in with its orders, so much is still to be written to it."""

    def hear(self, timeout_s: float) -> Heard | None:
        """The next event with its payload; None when `timeout_s` seconds pass without one.

        Raises `ClusterLostError` where nothing is to be heard of any worker any more.
        """

    def wake(self) -> None:
        """Let whoever waits in `hear` look up, as if time had passed; may be called by any thread."""

    def ring(self, bell: Callable[[], None]) -> None:
        """Call this, from any thread, whenever there is something to hear: for who listens to several workers."""

    def log_into(self, log: Path) -> None:
        """Let what it prints go to the end of this file from now on. Raises `DiskError`; then it is lost."""

    def end(self) -> None:
        """Let it go: it finishes nothing, and leaves by itself."""

    def kill(self) -> None:
        """End it at once, with all that it started."""

    def excerpt(self) -> str:
        """The end of what it printed."""


Hire = Callable[[Path], Worker]
"""How a run gets a worker: by the file that what it prints goes to.

Raises `DiskError` when that cannot be written, `ClusterLostError` where no worker is to be had any more.
"""
