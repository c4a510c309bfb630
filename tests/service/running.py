"""A server that really runs, in a process of its own, and clients that ask it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
REAL = (sys.executable, "-m", "renderer")
FAKED = (sys.executable, "-m", "tests.driving")
SMALL = {"width": 64, "height": 64, "num_inference_steps": 2}


class Server:
    """One server's process. `log` are the lines that it has printed so far."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: list[dict[str, Any]], outputs: Path) -> None:
        self.process = process
        self.url = url
        self.log = log
        self.folder = outputs / "served"
        self.client = httpx.Client(base_url=url, timeout=120)

    def generate(self, prompt: str, headers: Mapping[str, str] | None = None, **fields: Any) -> httpx.Response:
        """Ask for a small picture."""
        body = {"prompt": prompt, **SMALL, **fields}
        return self.client.post("/api/v1/images/generate", json=body, headers=dict(headers or {}))

    def accept(self, prompt: str, **fields: Any) -> httpx.Response:
        """Ask for a small picture and do not wait for it."""
        return self.generate(prompt, {"Prefer": "respond-async"}, **fields)

    def sidecar(self, key: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.folder / f"{key}.json").read_text())
        return told

    def until_done(self, key: str) -> dict[str, Any]:
        """Wait for a picture that was accepted."""
        told: dict[str, Any] = {}

        def is_over() -> bool:
            told.update(self.client.get(f"/api/v1/images/{key}").json())
            return told["state"] not in ("waiting", "rendering")

        until(is_over)
        return told

    def workers(self, state: str) -> list[dict[str, Any]]:
        """What the log says of workers that have opened, or were lost."""
        return [told for told in list(self.log) if told["event"] == "worker" and told["state"] == state]

    def metric(self, name: str) -> float:
        (line,) = (line for line in self.client.get("/metrics").text.splitlines() if line.startswith(f"{name} "))
        return float(line.split()[1])


@contextlib.contextmanager
def serving(
    outputs: Path, *options: str, fake: str | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A server on a free port, until the end of this; `fake` are the options of a worker that only seems to render."""
    arguments = ["serve", "--port", "0", "--outputs", str(outputs), "--log-format", "json", *options]
    process = subprocess.Popen(
        [*(REAL if fake is None else FAKED), *arguments],
        cwd=outputs,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FAKE": fake or "", **(environment or {})},
        stderr=subprocess.PIPE,
        text=True,
    )
    log: list[dict[str, Any]] = []
    urls: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            try:
                told = json.loads(line)
            except ValueError:
                told = {"event": "text", "text": line}
            log.append(told)
            if told["event"] == "serving":
                urls.put(told["url"])
        urls.put("")

    threading.Thread(target=listen, daemon=True).start()
    url = urls.get(timeout=60)
    assert url, log
    server = Server(process, url, log, outputs)
    try:
        yield server
    finally:
        server.client.close()
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
