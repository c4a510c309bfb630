"""What the door itself takes of a core for a request: beside the same pictures in a batch, and where they are there.

    python -m tests.service.costs

A worker only seems to render, so that nothing of it is a model's. Counted is the processor's time of the server's own
process, which other work on the machine does not change much, and by the clock what one client waits that asks alone.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests import driving
from tests.service.running import SMALL, Server, serving

COUNT = 300
WARM = 50


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        batch = (_batch(Path(folder), WARM + COUNT) - _batch(Path(folder), WARM)) / COUNT
        with serving(Path(folder), fake="--capacity 8") as server:
            fresh, fresh_wait = _asked(server, lambda number: server.generate("fresh", seed=number))
            found, found_wait = _asked(server, lambda _number: server.generate("fresh", seed=1))
            health, health_wait = _asked(server, lambda _number: server.client.get("/health"))
    lines = (
        f"a picture in a batch: {1000 * batch:.2f} ms of a core",
        f"a request for a new picture: {1000 * fresh:.2f} ms of a core, {1000 * fresh_wait:.2f} ms by the clock",
        f"so the door's own part is {1000 * (fresh - batch):.2f} ms",
        f"a request for one that is there: {1000 * found:.2f} ms of a core, {1000 * found_wait:.2f} ms by the clock",
        f"/health: {1000 * health:.2f} ms of a core, {1000 * health_wait:.2f} ms by the clock",
    )
    sys.stdout.write("\n".join(lines) + "\n")


def _asked(server: Server, ask: Callable[[int], object]) -> tuple[float, float]:
    """Seconds of a core that a request takes the server, and the median by the clock."""
    process, took = psutil.Process(server.process.pid), []
    for number in range(-WARM, 0):
        ask(1000 - number)
    began_s = _core_s(process)
    for number in range(COUNT):
        began = time.perf_counter()
        ask(number)
        took.append(time.perf_counter() - began)
    return (_core_s(process) - began_s) / COUNT, statistics.median(took)


def _batch(folder: Path, count: int) -> float:
    """Seconds of a core that a batch of so many small pictures takes its supervisor, start and all."""
    size = f"{SMALL['width']}x{SMALL['height']}"
    manifest = folder / f"batch-{count}.yaml"
    manifest.write_text(f"jobs: [{{prompt: fresh, model: demo, size: {size}, steps: 2, seed: 7, count: {count}}}]\n")
    nowhere = subprocess.DEVNULL
    run = driving.start("render", str(manifest), cwd=folder, fake="--capacity 8", stdout=nowhere, stderr=nowhere)
    process, taken = psutil.Process(run.pid), 0.0
    with contextlib.suppress(psutil.Error):
        while run.poll() is None:
            taken = _core_s(process)
            time.sleep(0.01)
    return taken


def _core_s(process: psutil.Process) -> float:
    told = process.cpu_times()
    return float(told.user + told.system)


if __name__ == "__main__":
    main()
