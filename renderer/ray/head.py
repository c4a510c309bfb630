"""Whether the head of a cluster answers: what asks Ray may wait for a head for ever, so it is asked on threads.

Ray itself would end this process, in the middle of whatever it does, when its head has been gone for a minute
(`connecting.library` tells it not to). Here a run hears of it, and ends as it ends otherwise.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from renderer.errors import ClusterLostError, MachineError
from renderer.text import duration

Replied = TypeVar("Replied")

HEAD_ANSWERS_S = 60.0
"""So long Ray is waited for at each place, where its head may be gone."""

LOST_HINT = "begin Ray there again (docs/cluster.md); the same command goes on from what is on the disk"

_LOOK_S = 0.5
_ASK_EVERY_S = 5.0
_COUNT_S = 1.0


def nothing() -> None:
    """Nobody is to be asked whether to go on."""


def within(
    call: Callable[[], Replied], seconds: float = HEAD_ANSWERS_S, check: Callable[[], None] = nothing
) -> Replied:
    """What a call answers; `check` is called meanwhile, and what it raises ends the waiting.

    Raises what the call does, and `MachineError` where it has not answered within so many seconds.
    """
    answers: list[Replied] = []
    errors: list[BaseException] = []
    over = threading.Event()

    def ask() -> None:
        try:
            answers.append(call())
        except BaseException as error:  # noqa: BLE001  # raised where it is waited for
            errors.append(error)
        over.set()

    threading.Thread(target=ask, name="asked", daemon=True).start()
    waited_s = 0.0
    while not over.wait(_LOOK_S):
        check()
        if (waited_s := waited_s + _LOOK_S) >= seconds:
            raise MachineError(_told(seconds), hint=LOST_HINT)
    if errors:
        raise errors[0]
    return answers[0]


def _told(seconds: float) -> str:
    return f"the cluster's head has not answered for {duration(seconds)}"


class HeadWatch:
    """Asks the head every few seconds. For any thread.

    `patience_s` is how long it may be silent, in seconds in which this process was awake; then it is lost for good.
    """

    def __init__(self, ask: Callable[[], object], patience_s: float) -> None:
        self._ask, self._patience_s = ask, patience_s
        self._answers = 0
        self._over = threading.Event()
        self._is_lost = False

    def begin(self) -> None:
        for each in (self._ask_on, self._count):
            threading.Thread(target=each, name="head", daemon=True).start()

    def end(self) -> None:
        self._over.set()

    def check(self) -> None:
        """Raise `ClusterLostError` where it is lost."""
        if self._is_lost:
            raise ClusterLostError(_told(self._patience_s), hint=LOST_HINT)

    def _ask_on(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(Exception):  # no answer, whatever it is
                self._ask()
                self._answers += 1
            self._over.wait(_ASK_EVERY_S)

    def _count(self) -> None:
        heard, silent_s = 0, 0.0
        while not self._over.wait(_COUNT_S):
            if self._answers != heard:
                heard, silent_s = self._answers, 0.0
            elif (silent_s := silent_s + _COUNT_S) >= self._patience_s:
                self._is_lost = True
                return
