"""What asks a process to stop, turned into a call. Knows nothing of what is stopped."""

from __future__ import annotations

import contextlib
import os
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


def end_with(code: int) -> None:
    """From now on whoever asks to stop ends this process at once, with this exit code: all is done, but for the rest.

    An interpreter takes a moment to end. A second signal in it would be what a process ended by that had to say.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        os._exit(code)

    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)
