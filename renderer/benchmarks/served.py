"""Clients of mixed sizes at `renderer serve`, beside the same pictures as a batch: pictures an hour, and waits.

Imports no torch. The clients ask one after the other for their own pictures, all at once. An hour's pictures are
counted from the first request to the last answer, and of the batch from its first picture's beginning to its last one's
end. The server is asked twice: as it is, and with one picture in flight, as servers are that render one by one.
"""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from renderer.benchmarks import running
from renderer.benchmarks.running import Figures
from renderer.errors import MachineError

SERVED = "served"
_OPENS_S = 120.0
_ANSWERS_S = 300.0


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many clients, each with so many pictures of one of the sizes, in so many steps."""

    sizes: tuple[str, ...] = ("512x512", "768x512", "1024x1024", "1328x1328")
    clients: int = 16
    pictures: int = 4
    steps: int = 4
    model: str = "Qwen/Qwen-Image"

    def size(self, client: int) -> str:
        """What a client asks for."""
        return self.sizes[client % len(self.sizes)]

    def fields(self, client: int, picture: int) -> dict[str, Any]:
        """One picture of a client's; negative ones are for warming up."""
        return {
            "prompt": f"a harbour at dusk, seen by client {client}", "model": self.model, "precision": "fp8",
            "num_inference_steps": self.steps, "cfg_scale": 1, "size": self.size(client), "seed": 100 + picture,
        }  # fmt: skip


def measure(folder: Path, env: Mapping[str, str], crowd: Crowd = Crowd()) -> Iterator[Figures]:
    """The row of a crowd. Raises `MachineError`."""
    batch = _batch(folder, env, crowd)
    together_s, together = _served(folder, env, crowd, ())
    alone_s, alone = _served(folder, env, crowd, ("--in-flight", "1"))
    count = crowd.clients * crowd.pictures
    yield {
        "case": SERVED,
        "sizes": list(crowd.sizes),
        "clients": crowd.clients,
        "pictures": count,
        "steps": crowd.steps,
        "batch_per_hour": batch,
        "served_per_hour": 3600 * count / together_s,
        "of_the_batch": 3600 * count / together_s / batch,
        "one_by_one_per_hour": 3600 * count / alone_s,
        "median_wait_s": statistics.median(together),
        "longest_wait_s": max(together),
        "one_by_one_median_wait_s": statistics.median(alone),
        "one_by_one_longest_wait_s": max(alone),
    }


def lines(rows: Sequence[Figures]) -> Iterator[str]:
    """The rows as a table of Markdown."""
    if not rows:
        return
    yield "Clients of mixed sizes at `renderer serve`, each with one request at a time; their pictures as a batch:"
    yield ""
    yield "| clients | steps | batch, an hour | served, an hour | of the batch | median wait, s | one by one, s |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row['clients']} | {row['steps']} | {row['batch_per_hour']:.0f} | {row['served_per_hour']:.0f} "
            f"| {row['of_the_batch']:.2f} | {row['median_wait_s']:.2f} | {row['one_by_one_median_wait_s']:.2f} |"
        )
    yield ""


def _batch(folder: Path, env: Mapping[str, str], crowd: Crowd) -> float:
    """Pictures an hour of a batch; a first one of the same sizes compiles the kernels."""
    manifest, outputs = folder / "crowd.yaml", folder / "outputs-served"
    found: list[Any] = []
    for pictures in (range(-1, 0), range(crowd.pictures)):
        shutil.rmtree(outputs, ignore_errors=True)
        jobs = [crowd.fields(client, picture) for picture in pictures for client in range(crowd.clients)]
        manifest.write_text(json.dumps({"jobs": jobs}), encoding="utf-8")
        where = ("render", str(manifest), "--outputs", str(outputs), "--offline", "--log-format", "plain")
        running.command(*where, env=dict(env))
        found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((outputs / "crowd").glob("*.json"))]
    timings = [each["timing"] for each in found if "timing" in each]
    began, ended = ([datetime.fromisoformat(each[moment]) for each in timings] for moment in ("began_at", "ended_at"))
    shutil.rmtree(outputs)
    return 3600 * len(timings) / (max(ended) - min(began)).total_seconds()


def _served(folder: Path, env: Mapping[str, str], crowd: Crowd, options: Sequence[str]) -> tuple[float, list[float]]:
    """Seconds from the first request to the last answer, and each answer's."""
    outputs = folder / "outputs-served"
    shutil.rmtree(outputs, ignore_errors=True)
    arguments = ("serve", "--model", crowd.model, "--port", "0", "--outputs", str(outputs), "--offline", *options)
    process = subprocess.Popen(
        [sys.executable, "-m", "renderer", *arguments, "--log-format", "json"],
        env={**env, "RENDERER_API_KEY": ""}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        url = _url(process)
        with ThreadPoolExecutor(crowd.clients) as clients:
            list(clients.map(lambda client: _ask(url, crowd.fields(client, -1)), range(crowd.clients)))
            began = time.perf_counter()
            waits = list(clients.map(lambda client: _client(url, crowd, client), range(crowd.clients)))
            took_s = time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(outputs, ignore_errors=True)
    return took_s, [each for client in waits for each in client]


def _url(process: subprocess.Popen[str]) -> str:
    """Where the server is; what else it says is read and passed over. Raises `MachineError` where it does not begin."""
    assert process.stderr is not None
    stream, until = process.stderr, time.monotonic() + _OPENS_S
    for line in stream:
        if line.startswith("{") and (told := json.loads(line))["event"] == "serving":
            threading.Thread(target=lambda: list(stream), daemon=True).start()
            return str(told["url"])
        sys.stderr.write(line)
        if time.monotonic() > until:
            break
    raise MachineError("bench: renderer serve did not begin; see above")


def _client(url: str, crowd: Crowd, client: int) -> list[float]:
    return [_ask(url, crowd.fields(client, picture)) for picture in range(crowd.pictures)]


def _ask(url: str, fields: Mapping[str, Any]) -> float:
    """Ask for a picture; the seconds until its last byte is here. Raises `MachineError` where none comes."""
    body = json.dumps(fields).encode()
    asked = urllib.request.Request(  # noqa: S310  (our own server's)
        f"{url}/api/v1/images/generate", body, {"Content-Type": "application/json"}
    )
    began = time.perf_counter()
    try:
        with urllib.request.urlopen(asked, timeout=_ANSWERS_S) as answer:  # noqa: S310
            answer.read()
    except OSError as error:
        raise MachineError(f"bench: renderer serve gave no picture: {error}") from error
    return time.perf_counter() - began
