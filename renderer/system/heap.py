"""Memory that was freed goes back to the system. Knows nothing of what it held."""

from __future__ import annotations

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3
"""glibc's name of what `mallopt` sets."""

_LARGE_BYTES = 2**20


def give_back_large() -> None:
    """From now on a piece of a MiB or more goes back when it is freed.

    glibc asks for such pieces one by one at first. Once some were freed it takes others of their size from its heap,
    which goes back only where nothing stands behind them. Where there is no glibc, nothing is done.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
