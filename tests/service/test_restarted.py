"""What a server says of a picture or a batch, the next one says too: however it ended, and however it was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.service.running import SMALL, Server, serving
from tests.waiting import until

READER = {"READER": "WORD 12"}
SIZE = {"width": 64, "height": 64}
WRONG: dict[str, Any] = {"lettering": ["WORD"], "expect": {"lettering": 0.9}, "seed": 90}


def asked_of(server: Server, paths: list[str]) -> dict[str, tuple[int, Any]]:
    """What a server answers, as far as it is no clock's; `POST` paths have their body behind them."""
    answers = {}
    for path in paths:
        method, _, told = path.partition(" ")
        where, _, body = told.partition(" ")
        answer = server.client.request(method, where, json=json.loads(body) if body else None)
        kind = answer.headers["content-type"]
        answers[path] = (answer.status_code, answer.json() if kind == "application/json" else answer.text)
    return answers


def batch_of(server: Server, *prompts: str) -> str:
    """Begin a batch of a manifest; its id."""
    text = f"defaults: {{size: 64x64, steps: 2}}\njobs: {json.dumps(prompts)}\n"
    answer = server.client.post("/api/v1/batches", content=text, headers={"Content-Type": "application/yaml"})
    return str(answer.json()["id"])


def until_ended(server: Server, batch: str) -> None:
    ended = ("completed", "cancelled", "failed")
    until(lambda: server.client.get(f"/api/v1/batches/{batch}").json()["status"] in ended)


def test_how_a_picture_stands_is_the_same_after_a_restart(tmp_path: Path) -> None:
    """Done, failed, refused, cancelled, and there with less lettering than it was to have; of batches likewise.

    After one that was asked to stop and one that was killed: the next writes the queue anew.
    """
    with serving(tmp_path, fake="--refuses no", environment=READER) as server:
        refused = server.accept("nothing opens").json()["id"]
        assert server.until_done(refused)["state"] == "failed"
        before = asked_of(server, [f"GET /api/v1/images/{refused}"])
    with serving(tmp_path, fake="", environment=READER) as server:
        done, failed = server.accept("a sign", seed=10).json()["id"], server.accept("fail helped").json()["id"]
        wrong = server.accept("a sign", **WRONG).json()["id"]
        drawn = server.client.post("/sdapi/v1/txt2img", json={"prompt": "fail", "steps": 2, **SIZE})
        assert drawn.status_code == 500
        assert [server.until_done(key)["state"] for key in (done, failed, wrong)] == ["done", "failed", "failed"]
        through = batch_of(server, "a boat", "fail")
        until_ended(server, through)
        for seed in range(13):  # what a worker has, and what waits in its hands
            server.accept("hang", seed=seed)
        accepted = server.metric("renderer_accepted_total")
        stopped = batch_of(server, "a house", "a tree")
        until(lambda: server.metric("renderer_accepted_total") == accepted + 2)
        cancelled = server.accept("never begun").json()["id"]
        assert server.client.delete(f"/api/v1/images/{cancelled}").json()["state"] == "cancelled"
        assert server.client.delete(f"/api/v1/batches/{stopped}").json()["status"] == "cancelling"
        keys = (done, failed, wrong, cancelled)
        paths = [f"GET /api/v1/images/{key}{what}" for key in keys for what in ("", "/file", "/events")]
        paths += [f"DELETE /api/v1/images/{key}" for key in keys]
        paths += [f"GET /api/v1/batches/{through}{what}" for what in ("", "/results")]
        paths += [f"GET /v1/files/{through}-{what}/content" for what in ("output", "errors")]
        paths += [f"POST /v1/images/generations {json.dumps({'prompt': 'a sign', **SMALL, **WRONG})}"]
        until_ended(server, stopped)
        paths += [f"GET /api/v1/batches/{stopped}"]
        before |= asked_of(server, paths)
        server.process.kill()
    queue = server.folder / "queue.jsonl"
    lines = queue.read_text().splitlines(keepends=True)
    queue.write_text("".join(line for line in lines if wrong not in line))  # as when thousands have failed since
    with serving(tmp_path, fake="--stops", environment=READER) as server:
        after = asked_of(server, list(before))
        health = server.client.get("/health").json()
        server.process.kill()
    for path, answer in before.items():
        assert after[path] == answer, path
    assert health["waiting"] + health["rendering"] == 13, "nothing that was cancelled waits"
