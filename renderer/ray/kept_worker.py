"""A worker that outlives the run that hired it: the next one over the same weights finds it open.

Each batch of rows is a run of its own, and opening a model takes longer than a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from renderer.protocol import AnyOrder, Demand, Open, Opened, Setup
from renderer.supervisor.local_worker import LocalWorker
from renderer.supervisor.worker import Gone, Heard


class KeptWorker:
    """One at most, on this machine. Hired by one run after the other, never by two at once."""

    def __init__(self, command: Sequence[str] | None = None) -> None:
        """`command` starts it."""
        self._command = command
        self._starter = ThreadPoolExecutor(1)  # a worker dies with the thread that has started it
        self._worker: LocalWorker | None = None
        self._setup: Setup | None = None
        self._opened: Opened | None = None
        self._told: list[Heard] = []

    def hire(self, log: Path) -> KeptWorker:
        """It, as a run gets a worker: started where it is not there. Raises `DiskError`."""
        if self._worker is None:
            self._worker = self._starter.submit(LocalWorker, log, self._command).result()
            self._setup = self._opened = None
        else:
            self._worker.log_into(log)
        return self

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker is not None else None

    def send(self, order: AnyOrder, payload: bytes = b"") -> None:
        if self._worker is None:
            return
        if isinstance(order, Open):
            if self._opened is not None and self._setup is not None and _serves(self._setup, order.setup):
                self._told.append((self._opened, b""))
                return
            self._setup, self._opened = order.setup, None
        self._worker.send(order, payload)

    @property
    def unsent_bytes(self) -> int:
        return self._worker.unsent_bytes if self._worker is not None else 0

    def hear(self, timeout_s: float) -> Heard | None:
        if self._told:
            return self._told.pop()
        heard = self._worker.hear(timeout_s) if self._worker is not None else None
        if heard is not None and isinstance(heard[0], Opened):
            self._opened = heard[0]
        if heard is not None and isinstance(heard[0], Gone):
            self._setup = self._opened = None
        return heard

    def wake(self) -> None:
        if self._worker is not None:
            self._worker.wake()

    def ring(self, bell: Callable[[], None]) -> None:
        if self._worker is not None:
            self._worker.ring(bell)

    def log_into(self, log: Path) -> None:
        if self._worker is not None:
            self._worker.log_into(log)

    def end(self) -> None:
        """The run is over: it stays, unless it holds nothing."""
        if self._opened is None:
            self.kill()

    def kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()
        self._worker = self._setup = self._opened = None
        self._told.clear()

    def excerpt(self) -> str:
        return self._worker.excerpt() if self._worker is not None else ""


def _serves(there: Setup, wanted: Setup) -> bool:
    """Whether what is open is what is wanted: the same, shared out for pictures of these kinds among others."""
    bare: dict[str, object] = {"demands": (), "extra_bytes": 0, "ram_bytes": None}
    if there.model_copy(update=bare) != wanted.model_copy(update=bare) or there.extra_bytes < wanted.extra_bytes:
        return False
    return all(any(_holds(each, demand) for each in there.demands) for demand in wanted.demands)


def _holds(there: Demand, wanted: Demand) -> bool:
    """Whether a kind of picture that was foreseen takes as much as another at the least."""
    bare: dict[str, object] = {"prompt_tokens": 0, "negative_tokens": 0, "pictures": None, "steps": 1}
    return (
        there.model_copy(update=bare) == wanted.model_copy(update=bare)
        and there.prompt_tokens >= wanted.prompt_tokens
        and there.negative_tokens >= wanted.negative_tokens
    )
