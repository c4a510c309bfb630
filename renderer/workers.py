"""A worker owns a GPU, takes orders and speaks events. Here: a child process on this machine.

The child may be killed, hang or die of CUDA at any moment; all that reaches the caller is `Gone`. Imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from pydantic import ValidationError

from renderer import events
from renderer.events import AnyEvent, AnyOrder
from renderer.files import disk_error

COMMAND = (sys.executable, "-m", "renderer.engine.worker")
_MAX_LOG_BYTES = 16 * 2**20
_EXCERPT_BYTES = 4000
_PATIENCE_S = 5.0
_REAP_S = 10.0


@dataclass(frozen=True, slots=True)
class Gone:
    """The worker is no more. `status` is its exit status, negative for a signal."""

    status: int

    def __str__(self) -> str:
        if self.status < 0:
            return f"the worker was ended by {signal.Signals(-self.status).name}"
        return f"the worker ended with status {self.status}"


Heard = tuple[AnyEvent | Gone, bytes]


class Worker(Protocol):
    """What a run needs of a worker, wherever that is. Not for use by several threads."""

    @property
    def pid(self) -> int | None:
        """Its process on this machine; None when it is elsewhere."""

    def send(self, order: AnyOrder) -> None:
        """Give an order. A worker that is gone says so through `hear`, not here."""

    def hear(self, timeout_s: float) -> Heard | None:
        """The next event with its payload; None when `timeout_s` seconds pass without one."""

    def end(self) -> None:
        """Let it go: it finishes nothing, and leaves by itself."""

    def kill(self) -> None:
        """End it at once, with all that it started."""

    def excerpt(self) -> str:
        """The end of what it printed."""


Hire = Callable[[Path], Worker]
"""How a run gets a worker: by the file that what it prints goes to."""


class LocalWorker:
    """A worker that is a child process of this one."""

    def __init__(self, log: Path, command: Sequence[str] = COMMAND) -> None:
        """Start it. What it prints goes to the end of `log`; raises `DiskError` when that cannot be written."""
        self._log = log
        self._heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        ours, theirs = os.pipe()
        try:
            with _open_log(log) as stream:
                # A session of its own: Ctrl-C reaches the supervisor alone, which decides what becomes of the worker.
                self._process = subprocess.Popen(
                    [*command, "--events", str(theirs)],
                    stdin=subprocess.PIPE,
                    stdout=stream,
                    stderr=stream,
                    pass_fds=(theirs,),
                    start_new_session=True,
                )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        threading.Thread(target=self._listen, args=(os.fdopen(ours, "rb"),), daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, order: AnyOrder) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            events.write_frame(self._process.stdin, order)

    def hear(self, timeout_s: float) -> Heard | None:
        try:
            return self._heard.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_S)

    def excerpt(self) -> str:
        try:
            with self._log.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - _EXCERPT_BYTES))
                return stream.read().decode(errors="replace").strip()
        except OSError:
            return ""

    def _listen(self, stream: BinaryIO) -> None:
        with stream, contextlib.suppress(EOFError, OSError, ValidationError):
            while True:
                self._heard.put(events.read_event(stream))
        try:
            status = self._process.wait(_REAP_S)
        except subprocess.TimeoutExpired:  # it closed its events and lives: of no more use
            self.kill()
            status = self._process.returncode or -signal.SIGKILL
        self._heard.put((Gone(status), b""))


def _open_log(path: Path) -> BinaryIO:
    """Open a log at its end; one that has grown large begins anew, and the old one stays beside it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _MAX_LOG_BYTES:
            path.replace(path.with_suffix(".old.log"))
        return path.open("ab")
    except OSError as error:
        raise disk_error(path, error) from error
