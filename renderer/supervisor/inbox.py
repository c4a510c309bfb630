"""What one worker says, as it comes on threads, for one loop that listens. Knows nothing of who speaks."""

from __future__ import annotations

import queue
from collections.abc import Callable

from renderer.supervisor.worker import Heard


class Inbox:
    """Words that came and were not heard yet."""

    def __init__(self) -> None:
        self._heard: queue.SimpleQueue[Heard | None] = queue.SimpleQueue()
        self._bell: Callable[[], None] | None = None

    def put(self, heard: Heard | None) -> None:
        """Something was said; None lets whoever waits look up. For any thread."""
        self._heard.put(heard)
        if (bell := self._bell) is not None:
            bell()

    def hear(self, timeout_s: float) -> Heard | None:
        """What came first; None where nothing comes within so many seconds."""
        try:
            return self._heard.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def ring(self, bell: Callable[[], None]) -> None:
        """Call this whenever something comes."""
        self._bell = bell
        bell()  # something may have come already
