"""Until something is so, in tests of what other processes and threads do."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so, three minutes at most: a machine may have much else to do."""
    end = time.monotonic() + 180
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
