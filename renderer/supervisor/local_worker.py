"""A worker that is a child process on this machine.

The child may be killed, hang or die of CUDA at any moment; all that reaches the caller is `Gone`. Nothing that the
child does, or does not do, makes the caller wait. Imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import psutil
from pydantic import ValidationError

from renderer import protocol
from renderer.machine import devices, hardware, in_use
from renderer.machine.devices import WorkerDevice
from renderer.outputs.status import RunStatus
from renderer.supervisor.correspondence import Correspondence
from renderer.supervisor.fleet import Say
from renderer.supervisor.worker import Gone, Hire
from renderer.system import children, oom
from renderer.system.children import Child

WORKER_COMMAND: tuple[str, ...] = (sys.executable, "-m", "renderer.engine.worker")
_PATIENCE_S = 5.0
_LAST_WORDS_S = 1.0


class LocalWorker(Correspondence):
    """A worker that is a child process of this one. To be started from the main thread: it dies with its thread."""

    def __init__(self, log: Path, command: Sequence[str] | None = None) -> None:
        """Start it. What it prints goes to the end of `log`; raises `DiskError` when that cannot be written."""
        super().__init__(log)
        self._kills = oom.kills()
        ours, theirs = os.pipe()
        try:
            command = [*(command or WORKER_COMMAND), "--events", str(theirs)]
            self._child = Child(command, stderr=subprocess.STDOUT, pass_fds=(theirs,))
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self._log.follow(self._child.stdout)
        threading.Thread(target=self._speak, args=(self._child.stdin,), name="orders", daemon=True).start()
        threading.Thread(target=self._listen, args=(os.fdopen(ours, "rb"),), name="events", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def end(self) -> None:
        self._no_more_orders()
        if self._child.wait(_PATIENCE_S) is None:
            self._child.kill()
        self._log.wait(_LAST_WORDS_S)

    def kill(self) -> None:
        self._no_more_orders()
        self._child.kill()
        self._log.wait(_LAST_WORDS_S)

    def _speak(self, stream: BinaryIO) -> None:
        """Write down what is ordered. A worker that does not read holds up this thread alone, until it is ended."""
        with contextlib.suppress(OSError), stream:
            for order, payload in self._each_order():
                protocol.write_frame(stream, order, payload)
                del order, payload

    def _listen(self, stream: BinaryIO) -> None:
        with stream, contextlib.suppress(EOFError, OSError, ValidationError):
            while True:
                self._inbox.put(protocol.read_event(stream))
        status = self._child.wait(children.REAP_S)
        if status is None:  # it closed its events and lives: of no more use
            self._child.kill()
            status = -signal.SIGKILL
            self._inbox.put((Gone(status, out_of_memory=False), b""))
            return
        self._log.wait(_LAST_WORDS_S)
        now = oom.kills()
        grew = None if now is None or self._kills is None else now > self._kills
        self._inbox.put((Gone(status, grew), b""))


class ThisMachine:
    """The fleet of one machine: its workers are child processes here. `close` lets other runs have its GPUs."""

    brings_models = False

    def __init__(self, gpus: str | None, hire: Hire | None) -> None:
        """On the devices that `gpus` names (`machine.devices`)."""
        self._gpus = gpus
        self.hire: Hire = hire or LocalWorker
        self._marks = in_use.GpuMarks()
        self._said: set[str] = set()
        self.close = self._marks.close

    def devices(self, say: Say, check: Callable[[], None]) -> Sequence[WorkerDevice]:  # noqa: ARG002  # all is here
        """Those that are named; else one on which no other run renders, if there is one."""
        here = hardware.look()
        if here.gpu is None:
            return devices.choose(self._gpus, here)
        with self._marks.choosing() as users:
            chosen = devices.choose(self._gpus, here if self._gpus else in_use.free_first(here, users))
            self._marks.mark(device.machine.gpu for device in chosen if device.machine.gpu is not None)
        for text in in_use.remarks(here, chosen, users):
            if text not in self._said:
                self._said.add(text)
                say(text)
        return chosen


def end_orphans(left: RunStatus) -> list[int]:
    """End the workers of a run that is no more, so that their memory is free; the processes that do not go.

    `left` is what that run wrote of itself last. They should go by themselves; that may take a moment, and meanwhile
    they hold their GPUs. Nobody else's process is touched: it has to name the dead run as its owner.
    """
    return [pid for pid in left.worker_pids if not _end_orphan(pid, left.pid)]


def _end_orphan(worker_pid: int, owner_pid: int) -> bool:
    owner = [children.PARENT_OPTION, str(owner_pid)]
    try:
        process = psutil.Process(worker_pid)
        command = process.cmdline()
        if owner not in [command[at : at + 2] for at in range(len(command))] or process.ppid() == owner_pid:
            return True
        process.kill()
        process.wait(children.REAP_S)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
    return True
