"""The two ways between a run's loop and one worker: orders that wait for a thread to pass them on, and what was said.

Knows nothing of where the worker is; whoever does is a `Worker` by this and what it adds.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path

from renderer.protocol import AnyOrder
from renderer.supervisor.inbox import Inbox
from renderer.supervisor.logs import Log
from renderer.supervisor.worker import Heard


class Correspondence:
    """Orders, words and a log. The loop's side is public; `_inbox`, `_log` and `_each_order` are for threads."""

    def __init__(self, log: Path) -> None:
        """What the worker prints goes to the end of `log`; raises `DiskError` when that cannot be written."""
        self._log = Log(log)
        self._inbox = Inbox()
        self._orders: queue.SimpleQueue[tuple[AnyOrder, bytes] | None] = queue.SimpleQueue()
        self._sent_bytes = self._taken_bytes = 0  # by the loop, and by the thread that passes orders on

    def send(self, order: AnyOrder, payload: bytes = b"") -> None:
        self._sent_bytes += len(payload)
        self._orders.put((order, payload))

    @property
    def unsent_bytes(self) -> int:
        return self._sent_bytes - self._taken_bytes

    def hear(self, timeout_s: float) -> Heard | None:
        return self._inbox.hear(timeout_s)

    def wake(self) -> None:
        self._inbox.put(None)

    def ring(self, bell: Callable[[], None]) -> None:
        self._inbox.ring(bell)

    def log_into(self, log: Path) -> None:
        self._log.into(log)

    def excerpt(self) -> str:
        return self._log.excerpt()

    def _no_more_orders(self) -> None:
        """Let the thread that passes them on end behind those that wait."""
        self._orders.put(None)

    def _each_order(self) -> Iterator[tuple[AnyOrder, bytes]]:
        """Orders until there are no more. Each counts as taken when the next is asked for, whatever became of it.

        Whoever takes one lets go of it before that: it is not to be held while the next is waited for.
        """
        while (order := self._orders.get()) is not None:
            size = len(order[1])
            yield order
            del order
            self._taken_bytes += size
