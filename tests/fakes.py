"""The one file of fakes: a worker that draws at once, and does on request what real ones do at night.

The job's prompt says how it behaves: `fail` fails always, `fail-once` the first time, `crash` kills the worker, `hang`
says nothing more, `slow` takes a tenth of a second a step, `flat-out` answers with too few bytes. Runs as a child
process (`python -m tests.fakes --events FD`) or, for speed, inside the process that asks.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from renderer import events
from renderer.artifacts import Pixels
from renderer.events import AnyEvent, AnyOrder
from renderer.job import Engine, Job, Memory, Software, Timing, canonical
from renderer.workers import Gone, Heard

SOFTWARE = Software(renderer="0", python="3", diffsynth="0", torch="0", transformers="0")


def draw(job: Job) -> Pixels:
    """The picture of a job: bytes that nothing but this job gives."""
    seed = hashlib.sha256(canonical(job).encode()).digest()
    count = job.width * job.height * 3
    return Pixels(job.width, job.height, (seed * (count // len(seed) + 1))[:count])


@dataclass(slots=True)
class Behaviour:
    """What a worker does with its orders, one after the other."""

    opened_in_s: float = 0.0
    capacity: int = 1
    refuses: str = ""
    failed_once: set[str] = field(default_factory=set)

    def answer(self, order: AnyOrder) -> Iterator[tuple[AnyEvent, bytes]]:
        """The events that follow an order, as they come."""
        if isinstance(order, events.Open):
            yield from self._open(order)
        else:
            yield from self._render(order)

    def _open(self, order: events.Open) -> Iterator[tuple[AnyEvent, bytes]]:
        yield events.Opening(what="transformer"), b""
        if self.refuses:
            yield events.OpenFailed(message=self.refuses), b""
            return
        engine = Engine(name="fake", profile=order.setup.profile, device="cpu")
        opened = events.Opened(
            capacity=self.capacity, load_s=self.opened_in_s, engine=engine, software=SOFTWARE, gpu=None
        )
        yield opened, b""

    def _render(self, order: events.Render) -> Iterator[tuple[AnyEvent, bytes]]:
        key, job, began = order.key, order.job, datetime.now(UTC)
        yield events.Started(key=key), b""
        words = job.prompt.split()
        if "crash" in words:
            os._exit(66)
        if "hang" in words:
            time.sleep(3600)
        for step in range(job.num_inference_steps):
            time.sleep(0.1 if "slow" in words else 0.0)
            yield events.Stepped(key=key, step=step + 1, steps=job.num_inference_steps), b""
        if "fail" in words or ("fail-once" in words and key not in self.failed_once):
            self.failed_once.add(key)
            yield events.Failed(key=key, kind="BadPictureError", message="one flat colour"), b""
            return
        pixels = draw(job)
        timing = Timing(encode_s=0.0, denoise_s=0.01, decode_s=0.0, began_at=began, ended_at=datetime.now(UTC))
        rendered = events.Rendered(
            key=key, width=job.width, height=job.height, timing=timing, memory=Memory(peak_rss_bytes=1000)
        )
        yield rendered, pixels.rgb[:100] if "flat-out" in words else pixels.rgb


class InlineWorker:
    """A worker inside this process: it lives and dies with it, which is what the torture test wants."""

    def __init__(self, _log: Path, behaviour: Behaviour | None = None) -> None:
        self._behaviour = behaviour or Behaviour()
        self._heard: deque[Heard] = deque()
        self._coming: deque[Iterator[tuple[AnyEvent, bytes]]] = deque()

    def send(self, order: AnyOrder) -> None:
        self._coming.append(self._behaviour.answer(order))

    def hear(self, _timeout_s: float) -> Heard | None:
        while self._coming:
            for heard in self._coming[0]:
                return heard
            self._coming.popleft()
        return None

    def end(self) -> None:
        self._coming.clear()

    def kill(self) -> None:
        self._coming.clear()

    def excerpt(self) -> str:
        return ""


class DyingWorker(InlineWorker):
    """A worker that dies before it opens."""

    def hear(self, _timeout_s: float) -> Heard | None:
        return Gone(-9), b""

    def excerpt(self) -> str:
        return "libcuda.so: not found"


def main() -> None:
    """Be a worker in a child process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int)
    parser.add_argument("--opened-in", type=float, default=0.0)
    options = parser.parse_args()
    behaviour = Behaviour(opened_in_s=options.opened_in)
    with os.fdopen(options.events, "wb") as out:
        while True:
            try:
                order = events.read_order(sys.stdin.buffer)
            except EOFError:
                return
            for event, payload in behaviour.answer(order):
                events.write_frame(out, event, payload)


if __name__ == "__main__":
    main()
