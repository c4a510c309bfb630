"""What asks a process to stop, turned into a call. Knows nothing of what is stopped."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from renderer.system.children import STOPPING


@contextlib.contextmanager
def heard(ask: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP call `ask`, each time, while this lasts. In the main thread alone.

    One that was ignored when this process began stays so: `nohup` and a shell's `&` mean that.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        ask()

    numbers = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
