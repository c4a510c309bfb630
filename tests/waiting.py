"""Until something is so, in tests of what other processes and threads do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so, three minutes at most: a machine may have much else to do."""
    end = time.monotonic() + 180
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def freeze(pid: int) -> None:
    """Stop a process as Ctrl-Z does, and wait until none of its threads runs: a signal is only sent."""
    os.kill(pid, signal.SIGSTOP)

    def is_frozen() -> bool:
        try:
            told = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/stat")]
        except OSError:  # a thread has ended
            return False
        return all(each.rpartition(")")[2].split()[0] in "TtZ" for each in told)

    until(is_frozen)
