"""What is left when a server is killed: RENDERER_KILLS says how often (2 in CI)."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from renderer.outputs.picture_files import read_sidecar
from tests.service.running import Server, serving
from tests.waiting import until

KILLS = int(os.environ.get("RENDERER_KILLS", "2"))


class TestKills:
    """`kill -9` of a server under load: what was accepted is rendered, once."""

    def load(self, server: Server, accepted: set[str], seeds: Iterator[int]) -> threading.Event:
        """Have pictures asked for until the server is gone; those that it said it accepted are noted."""
        stop = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=server.url, timeout=10) as client:
                while not stop.is_set():
                    body = {"prompt": "killed", "width": 64, "height": 64, "steps": 2, "seed": next(seeds)}
                    try:
                        answer = client.post("/api/v1/images/generate", json=body, headers={"Prefer": "respond-async"})
                    except httpx.TransportError:
                        return
                    if answer.status_code == 202:
                        accepted.add(answer.json()["id"])

        for _ in range(3):
            threading.Thread(target=ask, daemon=True).start()
        return stop

    def marks(self, folder: Path) -> dict[str, tuple[int, int]]:
        """Each sidecar that is there, and what tells it from one that was written later."""
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("????????*.json")}

    def test_nothing_accepted_is_lost_or_rendered_twice(self, tmp_path: Path) -> None:
        chance = random.Random(20261126)  # noqa: S311
        accepted: set[str] = set()
        seeds = iter(range(10**9))
        before: dict[str, tuple[int, int]] = {}
        for _ in range(KILLS):
            with serving(tmp_path, "--most-waiting", "100000", fake="--capacity 4") as server:
                known = len(accepted)
                stop = self.load(server, accepted, seeds)
                until(lambda known=known: len(accepted) > known)  # type: ignore[misc]  # a busy machine takes its time
                time.sleep(chance.uniform(0.0, 0.8))
                server.process.kill()
                server.process.wait()
                stop.set()
            now = self.marks(server.folder)
            assert before.items() <= now.items()
            before = now
        with serving(tmp_path, fake="--capacity 4") as server:
            assert {server.until_done(key)["state"] for key in accepted} <= {"done"}
        assert len(accepted) >= KILLS
        assert before.items() <= self.marks(server.folder).items()
        for key in accepted:
            sidecar = read_sidecar(server.folder / f"{key}.json")
            assert sidecar is not None
            assert (server.folder / f"{key}.png").stat().st_size == sidecar.file.bytes
        finished = [line["fingerprint"] for line in self.journal(server) if line["what"] == "done"]
        assert len(finished) == len(set(finished))

    def journal(self, server: Server) -> Iterator[dict[str, str]]:
        for line in (server.folder / "journal.jsonl").read_bytes().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue
