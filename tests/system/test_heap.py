from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from tests.driving import ROOT

SCRIPT = """
import gc, sys
import psutil
from renderer.system import heap
if "settled" in sys.argv:
    heap.give_back_large()
here = psutil.Process()
large = bytearray(24_000_000)
del large
before, kept, freed = here.memory_info().rss, [], []
for number in range(20):
    freed.append(bytearray(8_000_000))
    kept.append([bytearray(2_000) for _ in range(200)])
del freed
gc.collect()
print((here.memory_info().rss - before) // 1_000_000)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's heap")
def test_what_was_freed_goes_back() -> None:
    """Pieces of 8 MB, between small ones that stay: without it, the process keeps them all."""

    def grown_mb(*arguments: str) -> int:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SCRIPT, *arguments]
        return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    assert grown_mb("settled") < grown_mb() / 3
