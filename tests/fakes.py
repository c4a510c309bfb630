"""The one file of fakes: a worker that draws at once, and does on request what real ones do at night.

The job's prompt says how it behaves: `fail` fails always, `fail-once` the first time, `crash` kills the worker, `hang`
says nothing more, `slow` takes a tenth of a second a step, `flat-out` answers with too few bytes, `gil` hangs in a
call that lets no other thread run, `terminated` dies as if it were asked to stop, and with `unreadable` a file of the
model's turns out to be damaged. Runs as a child process
(`python -m tests.fakes --events FD`) or, for speed, inside the process that asks.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from renderer import protocol
from renderer.job import Box, Engine, Job, Memory, ReadLine, Software, Timing, canonical
from renderer.lettering.asking import Answer
from renderer.outputs.encode import Pixels
from renderer.outputs.picture_files import read_sidecar
from renderer.protocol import AnyEvent, AnyOrder
from renderer.supervisor.worker import Gone, Heard
from renderer.system import children

SOFTWARE = Software(renderer="0", python="3", diffsynth="0", torch="0", transformers="0")


def draw(job: Job) -> Pixels:
    """The picture of a job: bytes that nothing but this job gives."""
    seed = hashlib.sha256(canonical(job).encode()).digest()
    count = job.width * job.height * 3
    return Pixels(job.width, job.height, (seed * (count // len(seed) + 1))[:count])


def draw_layers(job: Job) -> list[bytes]:
    """The layers of a job, as no other gives them: RGBA, of which the upper half is opaque."""
    each = draw(job)
    alpha = bytes(255 if 2 * place < job.width * job.height else 0 for place in range(job.width * job.height))
    found = []
    for number in range(job.layers):
        pixels = bytearray(4 * job.width * job.height)
        for channel in range(3):
            pixels[channel::4] = bytes((value + number) % 256 for value in each.rgb[channel::3])
        pixels[3::4] = alpha
        found.append(bytes(pixels))
    return found


@dataclass(slots=True)
class Behaviour:
    """What a worker does with its orders, one after the other."""

    opened_in_s: float = 0.0
    capacity: int = 1
    refuses: str = ""
    stops: bool = False
    failed_once: set[str] = field(default_factory=set)

    def answer(self, order: AnyOrder) -> Iterator[tuple[AnyEvent, bytes]]:
        """The events that follow an order, as they come."""
        match order:
            case protocol.Open():
                yield from self._open(order)
            case protocol.Render():
                yield from self._render(order)
            case protocol.Withdraw():
                raise AssertionError("whoever holds the orders answers this")

    def _open(self, order: protocol.Open) -> Iterator[tuple[AnyEvent, bytes]]:
        yield protocol.Opening(what="transformer"), b""
        if self.refuses:
            yield protocol.OpenFailed(message=self.refuses), b""
            return
        engine = Engine(name="fake", profile=order.setup.profile, device="cpu")
        opened = protocol.Opened(
            capacity=self.capacity, load_s=self.opened_in_s, engine=engine, software=SOFTWARE, gpu=None
        )
        yield opened, b""
        if self.stops:  # as a frozen control group does, or a call into a driver that never returns
            os.kill(os.getpid(), signal.SIGSTOP)

    def _render(self, order: protocol.Render) -> Iterator[tuple[AnyEvent, bytes]]:
        key, job, began = order.key, order.job, datetime.now(UTC)
        yield protocol.Started(key=key), b""
        words = job.prompt.split()
        if "crash" in words:
            os._exit(66)
        if "unreadable" in words:
            yield protocol.OpenFailed(message="block-003.safetensors: ends too early", hint="pack the model again"), b""
            return
        if "hang" in words:
            time.sleep(3600)
        if "says" in words:
            sys.stderr.write(f"drawing {job.prompt}\n")
        if "gil" in words:
            ctypes.PyDLL(None).sleep(3600)
        if "terminated" in words:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        for step in range(job.num_inference_steps):
            time.sleep(0.1 if "slow" in words else 0.0)
            yield protocol.Stepped(key=key, step=step + 1, steps=job.num_inference_steps), b""
        if "fail" in words or ("fail-once" in words and key not in self.failed_once):
            self.failed_once.add(key)
            yield _failed(key, words), b""
            return
        pixels = draw(job)
        timing = Timing(encode_s=0.0, denoise_s=0.01, decode_s=0.0, began_at=began, ended_at=datetime.now(UTC))
        size = {"width": job.width, "height": job.height, "layers": job.layers}
        rendered = protocol.Rendered(key=key, **size, timing=timing, memory=Memory(peak_rss_bytes=1000))
        payload = b"".join((pixels.rgb, *draw_layers(job)))
        yield rendered, payload[:100] if "flat-out" in words else payload


def _failed(key: str, words: list[str]) -> protocol.Failed:
    hint = "look at the prompt" if "helped" in words else ""
    detail = "Traceback: in decode"
    return protocol.Failed(key=key, kind="BadPictureError", message="one flat colour", hint=hint, detail=detail)


class InlineReader:
    """A reader inside this process: in a picture whose seed is in `right` it reads all of a text, else less."""

    def __init__(self, text: str, right: frozenset[int]) -> None:
        self._text = text
        self._right = right
        self.seeds: list[int] = []

    def read(self, path: Path) -> Answer:
        """By the sidecar beside a picture."""
        sidecar = read_sidecar(path.with_suffix(".json"))
        assert sidecar is not None
        self.seeds.append(sidecar.job.seed)
        read = self._text if sidecar.job.seed in self._right else self._text[1:]
        line = ReadLine(text=read, confidence=1.0, box=Box(left=1, top=2, right=30, bottom=40))
        return Answer(lines=(line,), reader="fake")

    def close(self) -> None:
        """Nothing is open."""


def withdrawn(orders: deque[AnyOrder]) -> protocol.Withdrawn:
    """Take back the jobs among `orders`, none of which has been begun."""
    keys = tuple(order.key for order in orders if isinstance(order, protocol.Render))
    orders.clear()
    return protocol.Withdrawn(keys=keys)


class InlineWorker:
    """A worker inside this process: it lives and dies with it, which is what the torture test wants."""

    def __init__(self, _log: Path, behaviour: Behaviour | None = None) -> None:
        self._behaviour = behaviour or Behaviour()
        self._heard: deque[Heard] = deque()
        self._orders: deque[AnyOrder] = deque()
        self._coming: Iterator[tuple[AnyEvent, bytes]] = iter(())

    @property
    def pid(self) -> int:
        return os.getpid()

    def send(self, order: AnyOrder, payload: bytes = b"") -> None:  # noqa: ARG002  # it draws without looking
        if isinstance(order, protocol.Withdraw):
            self._heard.append((withdrawn(self._orders), b""))
        else:
            self._orders.append(order)

    @property
    def unsent_bytes(self) -> int:
        return 0

    def hear(self, _timeout_s: float) -> Heard | None:
        if self._heard:
            return self._heard.popleft()
        while True:
            for heard in self._coming:
                return heard
            if not self._orders:
                return None
            self._coming = self._behaviour.answer(self._orders.popleft())

    def wake(self) -> None:
        """It is never waited for."""

    def ring(self, bell: Callable[[], None]) -> None:
        """It has something to say only when it is asked."""

    def log_into(self, log: Path) -> None:
        """It prints nothing."""

    def end(self) -> None:
        self.kill()

    def kill(self) -> None:
        self._orders.clear()
        self._coming = iter(())

    def excerpt(self) -> str:
        return ""


class DyingWorker(InlineWorker):
    """A worker that dies before it opens."""

    def hear(self, _timeout_s: float) -> Heard | None:
        return Gone(-9), b""

    def excerpt(self) -> str:
        return "libcuda.so: not found"


class DiesWithAll(InlineWorker):
    """A worker that opens, takes eight jobs, and dies before it begins one."""

    def __init__(self, log: Path) -> None:
        super().__init__(log, Behaviour(capacity=8))

    def hear(self, timeout_s: float) -> Heard | None:
        if sum(isinstance(order, protocol.Render) for order in self._orders) == 8:
            return Gone(-9), b""
        return super().hear(timeout_s)


def main() -> None:
    """Be a worker in a child process. Orders are read as they come, so that jobs that wait can be given back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int)
    parser.add_argument(children.PARENT_OPTION, type=int)
    parser.add_argument("--opened-in", type=float, default=0.0)
    parser.add_argument("--capacity", type=int, default=1)
    parser.add_argument("--refuses", default="", help="to open, with this message")
    parser.add_argument("--stops", action="store_true", help="once it is open")
    options = parser.parse_args()
    children.belong_to(options.parent)
    behaviour = Behaviour(options.opened_in, options.capacity, options.refuses, options.stops)
    read: queue.SimpleQueue[AnyOrder] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(read,), daemon=True).start()
    waiting: deque[AnyOrder] = deque()
    sys.stderr.write("a fake begins\n")
    with os.fdopen(options.events, "wb") as out:
        while True:
            while not waiting or not read.empty():
                order = read.get()
                if isinstance(order, protocol.Withdraw):
                    protocol.write_frame(out, withdrawn(waiting))
                else:
                    waiting.append(order)
            for event, payload in behaviour.answer(waiting.popleft()):
                protocol.write_frame(out, event, payload)


def _listen(read: queue.SimpleQueue[AnyOrder]) -> None:
    try:
        while True:
            read.put(protocol.read_order(sys.stdin.buffer)[0])
    except EOFError:
        os._exit(0)


if __name__ == "__main__":
    main()
