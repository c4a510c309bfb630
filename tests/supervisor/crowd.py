"""A night of many fake workers, in real time: `python -m tests.supervisor.crowd --workers 1000 --seconds 60`.

Each worker takes a step a second, twenty a picture, and what it says goes through the pipe's own frames, which the loop
has to read. Says for how long the supervisor's loop was away at most, how many cores it took, and where.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from heapq import heappop, heappush
from pathlib import Path

from renderer import protocol
from renderer.job import Engine, Job, Memory, Timing
from renderer.machine import hardware
from renderer.machine.devices import WorkerDevice
from renderer.protocol import AnyOrder
from renderer.supervisor import dispatcher, events, run
from renderer.supervisor.correspondence import Correspondence
from renderer.supervisor.pool import WorkerPool
from renderer.supervisor.settings import Settings, StopRequests
from renderer.supervisor.worker import Hire
from tests.fakes import SOFTWARE, draw
from tests.making import make_manifest


class Clockwork:
    """One thread that has all workers say what is due."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._changed = threading.Condition()
        self._count = 0
        threading.Thread(target=self._run, daemon=True).start()

    def at(self, when_s: float, say: Callable[[], None]) -> None:
        with self._changed:
            self._count += 1
            heappush(self._due, (when_s, self._count, say))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    wait_s = self._due[0][0] - time.monotonic() if self._due else None
                    self._changed.wait(wait_s)
                _, _, say = heappop(self._due)
            say()


class CrowdWorker(Correspondence):
    """A worker that takes pictures one after the other, a step at a time; orders it has at once."""

    pid = None

    def __init__(self, log: Path, clock: Clockwork, number: int, step_s: float, capacity: int) -> None:
        super().__init__(log)
        self._clock, self._step_s, self._capacity = clock, step_s, capacity
        self._phase_s = (number * 0.6180339887) % 1 * step_s
        self._waiting: list[tuple[str, Job]] = []
        self._over = False

    def _says(self, event: protocol.AnyEvent, payload: bytes = b"") -> None:
        stream = io.BytesIO()
        protocol.write_frame(stream, event, payload)
        stream.seek(0)
        self._inbox.put(protocol.read_event(stream))

    def send(self, order: AnyOrder, payload: bytes = b"") -> None:  # noqa: ARG002  # it draws without looking
        if isinstance(order, protocol.Open):
            self._clock.at(time.monotonic() + self._step_s + self._phase_s, self._open)
        elif isinstance(order, protocol.Render):
            self._waiting.append((order.key, order.job))
            if len(self._waiting) == 1:
                self._begin()
        elif isinstance(order, protocol.Withdraw):
            keys = tuple(key for key, _ in self._waiting[1:])
            del self._waiting[1:]
            self._says(protocol.Withdrawn(keys=keys))

    def _open(self) -> None:
        engine = Engine(name="fake", profile="stream", device="cpu")
        self._says(protocol.Opened(capacity=self._capacity, load_s=1, engine=engine, software=SOFTWARE, gpu=None))

    def _begin(self) -> None:
        key, _ = self._waiting[0]
        self._says(protocol.Started(key=key))
        self._clock.at(time.monotonic() + self._step_s, lambda: self._step(key, 1))

    def _step(self, key: str, step: int) -> None:
        if self._over:
            return
        job = self._waiting[0][1]
        self._says(protocol.Stepped(key=key, step=step, steps=job.num_inference_steps))
        if step < job.num_inference_steps:
            self._clock.at(time.monotonic() + self._step_s, lambda: self._step(key, step + 1))
            return
        now, pixels = datetime.now(UTC), draw(job)
        timing = Timing(began_at=now, ended_at=now, denoise_s=1, encode_s=0, decode_s=0)
        self._says(
            protocol.Rendered(key=key, width=job.width, height=job.height, timing=timing, memory=Memory()), pixels.rgb
        )
        self._waiting.pop(0)
        if self._waiting:
            self._begin()

    def end(self) -> None:
        self._over = True
        self._log.close()

    kill = end


class Crowd:
    """A fleet of so many."""

    brings_models = True

    def __init__(self, workers: int, step_s: float = 1.0, capacity: int = 32) -> None:
        self._workers, self._step_s, self._capacity = workers, step_s, capacity
        self._clock, self._hired = Clockwork(), 0

    @property
    def hire(self) -> Hire:
        return self._hire

    def _hire(self, log: Path) -> CrowdWorker:
        self._hired += 1
        return CrowdWorker(log, self._clock, self._hired, self._step_s, self._capacity)

    def devices(self, *_: object) -> tuple[WorkerDevice, ...]:
        here = hardware.look()
        return tuple(WorkerDevice(here, number, f"worker {number + 1}") for number in range(self._workers))


class Loop:
    """Looks on at the dispatcher's loop: how long it is away each time, in seconds of its own and by the clock."""

    def __init__(self) -> None:
        self.away: list[tuple[float, float]] = []
        self._back_s: float | None = None

    def watch(self) -> contextlib.ExitStack:
        """Have all dispatchers watched until the end."""
        loop, held = self, contextlib.ExitStack()
        hear, listen = WorkerPool.hear, dispatcher.Dispatcher._listen

        def heard(pool: WorkerPool, timeout_s: float) -> object:
            found = hear(pool, timeout_s)
            loop._back_s = time.thread_time()
            return found

        def listening(self: dispatcher.Dispatcher) -> None:
            if self._back_at is not None and loop._back_s is not None:
                loop.away.append((time.thread_time() - loop._back_s, time.monotonic() - self._back_at))
            listen(self)

        WorkerPool.hear, dispatcher.Dispatcher._listen = heard, listening  # type: ignore[method-assign,assignment]
        held.callback(setattr, WorkerPool, "hear", hear)
        held.callback(setattr, dispatcher.Dispatcher, "_listen", listen)
        return held


def measure(workers: int, seconds: float, outputs: Path, *, step_s: float = 1.0) -> dict[str, object]:
    """A night of so many workers, stopped after so many seconds."""
    manifest = make_manifest([f"{number}" for number in range(workers * 40)], steps=20)
    stop, counts, began = StopRequests(), {"events": 0, "rendered": 0}, [0.0, 0.0]

    def watch(what: events.Event) -> None:
        if isinstance(what, events.PictureBegan) and not began[0]:
            began[:] = time.monotonic(), time.process_time()
        counts["events"] += 1
        counts["rendered"] += isinstance(what, events.PictureDone)
        if began[0] and time.monotonic() - began[0] > seconds:
            stop.requests = 2

    loop = Loop()
    with loop.watch():
        run.render([manifest], Settings(outputs, fleet=Crowd(workers, step_s)), watch, stop)
    took_s, cpu_s = time.monotonic() - began[0], time.process_time() - began[1]
    own, wall = (sorted(each[number] for each in loop.away) for number in (0, 1))
    return {
        "workers": workers,
        "seconds": round(took_s, 1),
        **counts,
        "cores": round(cpu_s / took_s, 2),
        "away_most_ms": round(1000 * own[-1], 1),
        "away_most_by_the_clock_ms": round(1000 * wall[-1], 1),
        "away_999_by_the_clock_ms": round(1000 * wall[int(len(wall) * 0.999)], 1),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--folder", help="where outputs go: in memory, the disk takes no part in it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(options.workers, options.seconds, Path(folder))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
