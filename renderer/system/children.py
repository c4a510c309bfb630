"""A child process from both sides: started so that it does not outlive its owner, ended with all that it starts.

What asks a run to stop is for the run alone, which decides what becomes of its children: a child has a session of its
own, and never hears SIGINT, SIGTERM or SIGHUP, also where they are sent to every process of a service. It goes with
its owner, however that ends: the kernel kills it. Knows nothing of what children do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, BinaryIO

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask to stop: of a terminal, of a service manager, of a terminal that has gone."""

PARENT_OPTION = "--parent"
"""Names, on a child's command line, the process that owns it."""

REAP_S = 10.0
"""A process that was killed is gone within so long, or the kernel does not let it go."""

_LOOK_EVERY_S = 0.01
_PR_SET_PDEATHSIG = 1


class Child:
    """A process of ours. Its number is not given up before everything that it started has been ended."""

    def __init__(
        self, command: Sequence[str], *, stdout: int = subprocess.PIPE, stderr: int | IO[bytes], pass_fds: Sequence[int]
    ) -> None:
        """Start it, with a pipe as its standard input.

        It dies with the *thread* that starts it, for that is how Linux understands a parent: start it from one that
        lives as long as it is needed. Raises `OSError` where it cannot be started.
        """
        self._lock = threading.Lock()
        with _held_back():
            self._process = subprocess.Popen(
                [*command, PARENT_OPTION, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                pass_fds=pass_fds,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdin(self) -> BinaryIO:
        assert self._process.stdin is not None
        return self._process.stdin  # type: ignore[return-value]  # a pipe, opened for bytes

    @property
    def stdout(self) -> BinaryIO:
        assert self._process.stdout is not None
        return self._process.stdout  # type: ignore[return-value]

    def wait(self, timeout_s: float) -> int | None:
        """Its exit status, negative for a signal; None where it lives after so many seconds."""
        until = time.monotonic() + timeout_s
        while not self._has_ended():
            if time.monotonic() > until:
                return None
            time.sleep(_LOOK_EVERY_S)
        return self._process.returncode

    def kill(self) -> None:
        """End it at once, with all that it started."""
        with self._lock:
            if self._process.returncode is None:
                self._kill_group()
        self.wait(REAP_S)

    def _has_ended(self) -> bool:
        """Whether it is no more; if so, its group is ended before its number is anybody else's to have."""
        with self._lock:
            if self._process.returncode is None:
                with contextlib.suppress(ChildProcessError):
                    if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                        return False
                    self._kill_group()
                self._process.wait()
            return True

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a process that has ended wrote, and its exit status, negative for a signal."""

    stdout: bytes
    stderr: bytes
    status: int


def ask(
    command: Sequence[str], environment: Mapping[str, str], timeout_s: float, *, given: bytes | None = None
) -> Reply:
    """Run a process that is asked one thing, and wait for what it writes: seconds, after which it is ended.

    `given` is what it reads; None: from where we do.
    It hears what asks us to stop, for nothing hangs on it. Raises `TimeoutError`.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=timeout_s, check=False, env=environment, input=given
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"no answer within {timeout_s:.0f} s") from None
    return Reply(done.stdout, done.stderr, done.returncode)


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Block what asks to stop. A child that is started meanwhile begins with it blocked, and so never dies of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def belong_to(parent: int | None) -> None:
    """Be a child: never hear what asks to stop, and die when `parent` does. To be called first of all, by the child.

    `parent` is the number that the command line named; None where somebody started this by hand. A parent that is gone
    already ends this process here.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    if parent is None:
        return
    with contextlib.suppress(AttributeError, OSError):  # where there is no prctl, the end of standard input has to do
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
