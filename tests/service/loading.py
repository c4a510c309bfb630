"""Many clients at once for a while: what they were answered, how long it took, and what the server took of memory.

    python -m tests.service.loading --clients 200 --minutes 5

Clients ask for small pictures, each of another seed, one after the other; 429 is waited out as it says, for a second at
most. Memory is the server's own process, without its worker, once a second.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

from tests.service.running import SMALL, Server, serving


async def ask(url: str, until: float, seeds: itertools.count[int], found: Counter[int], took: list[float]) -> None:
    """One client."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        while time.monotonic() < until:
            began = time.monotonic()
            answer = await client.post("/api/v1/images/generate", json={"prompt": "load", "seed": next(seeds), **SMALL})
            found[answer.status_code] += 1
            if answer.status_code == 429:
                await asyncio.sleep(min(1.0, float(answer.headers["Retry-After"])))
            else:
                took.append(time.monotonic() - began)


async def load(server: Server, clients: int, seconds: float) -> tuple[Counter[int], list[float], list[int]]:
    """All clients; what they were answered, how long it took each, and the memory second by second."""
    found: Counter[int] = Counter()
    took: list[float] = []
    memory: list[int] = []
    until = time.monotonic() + seconds
    process = psutil.Process(server.process.pid)

    async def watch() -> None:
        while time.monotonic() < until:
            memory.append(process.memory_info().rss)
            await asyncio.sleep(1)

    seeds = itertools.count()
    await asyncio.gather(watch(), *(ask(server.url, until, seeds, found, took) for _ in range(clients)))
    return found, took, memory


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--fake", action="store_true", help="a worker that only seems to render: the door's own limit")
    parser.add_argument("--most-waiting", default="256")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fake = "--capacity 8" if options.fake else None
        with serving(Path(folder), "--most-waiting", options.most_waiting, fake=fake) as server:
            server.generate("awake")
            found, took, memory = asyncio.run(load(server, options.clients, options.minutes * 60))
    settled = memory[len(memory) // 5 :]
    lines = (
        f"answers: {dict(sorted(found.items()))}",
        f"pictures a second: {found[200] / options.minutes / 60:.1f}",
        f"seconds: median {statistics.median(took):.2f}, longest {max(took):.2f}",
        f"server's memory, MB: {settled[0] / 1e6:.0f} after a fifth, {settled[-1] / 1e6:.0f} at the end",
    )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
