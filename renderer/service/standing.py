"""How a picture stands that was asked for, whose it is, and why one is not accepted. Knows no queue, no disk."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from renderer.errors import RendererError
from renderer.outputs.encode import Pixels
from renderer.planning.plan import Planned
from renderer.service.queue_file import Asked, Ended, HowEnded, Wanting

Fate = Literal["waiting", "rendering", "done", "failed", "cancelled"]


class BusyError(RendererError):
    """Too much waits already. `retry_s` is in how many seconds that may be otherwise."""

    def __init__(self, message: str, retry_s: float) -> None:
        super().__init__(message, hint=f"ask again in {retry_s:.0f} s")
        self.retry_s = retry_s


class StoppingError(RendererError):
    """The server is stopping: what it has accepted will be rendered when it runs again."""


@dataclass(frozen=True, slots=True)
class Whose:
    """For whom a picture is asked: what clients are told apart by, and the batch (empty: somebody waits for it)."""

    client: str
    batch: str = ""

    @property
    def wanting(self) -> Wanting:
        """The same, as it is written down."""
        return Wanting(client=self.client, batch=self.batch)


@dataclass(slots=True, eq=False)
class Standing:
    """How one picture stands. `written` is when its line is on the disk, `over` when it is decided what became of it.

    `wanted_by` are all who asked for it and have not taken that back. `refused` says that it
    failed untried: it cannot be rendered here. `preview` is what it will look like, where somebody asked for that.
    """

    item: Planned
    whose: Whose
    state: Fate = "waiting"
    step: int = 0
    message: str = ""
    hint: str = ""
    refused: bool = False
    preview: Pixels | None = None
    number: int = 0
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    wanted_by: set[Whose] = field(default_factory=set)
    written: asyncio.Future[None] | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    asked_s: float = field(default_factory=time.monotonic)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> str:
        return self.item.picture.id

    def is_wanted_by(self, client: str) -> bool:
        """Whether a client has asked for it, by itself or in a batch."""
        return any(each.client == client for each in self.wanted_by)

    def asked(self) -> Asked:
        """What is written down of one that was accepted."""
        others = self.wanted_by - {self.whose}
        wanting = (each.wanting for each in self.wanted_by) if others else ()
        return Asked(
            number=self.number, at=self.at, fingerprint=self.item.fingerprint, picture=self.item.picture,
            client=self.whose.client, patient=bool(self.whose.batch), batch=self.whose.batch, wanted_by=tuple(wanting),
        )  # fmt: skip

    def ended(self, how: HowEnded) -> Ended:
        """What is written down of one that will not come."""
        return Ended(
            number=self.number, key=self.key, how=how, message=self.message, hint=self.hint, refused=self.refused,
            step=self.step, steps=self.steps,
        )  # fmt: skip

    @property
    def steps(self) -> int:
        return self.item.picture.job.num_inference_steps

    @property
    def patient(self) -> bool:
        return all(each.batch for each in self.wanted_by)

    def moved(self) -> None:
        """Let those look who follow it."""
        self._moved.set()
        self._moved = asyncio.Event()

    async def follow(self, every_s: float) -> AsyncIterator[None]:
        """Now, and when it has moved on or so long has passed, until it is decided what became of it."""
        while not self.over.is_set():
            moved = self._moved
            yield
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(moved.wait(), every_s)
