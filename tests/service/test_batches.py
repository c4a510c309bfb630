"""Batches: OpenAI's, by its own client, and a manifest as it is; what is left of them when the server is killed."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from renderer.manifest.manifest import parse
from renderer.manifest.source import ManifestSource
from renderer.outputs.picture_files import read_sidecar
from renderer.planning.plan import make_plan
from tests.service.running import Server, serving
from tests.waiting import until

GENERATIONS: Any = "/v1/images/generations"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("outputs"), fake="--capacity 4") as served:
        yield served


def connected(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with connected(server) as made:
        yield made


def line(custom_id: str, prompt: str, **body: Any) -> dict[str, Any]:
    told = {"prompt": prompt, "size": "64x64", "num_inference_steps": 2, **body}
    return {"custom_id": custom_id, "method": "POST", "url": GENERATIONS, "body": told}


def create(client: openai.OpenAI, lines: list[Any], window: Any = "24h") -> Batch:
    data = "".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in lines)
    file = client.files.create(file=("lines.jsonl", data.encode()), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=GENERATIONS, completion_window=window, metadata={"mine": "yes"}
    )


def ended(client: openai.OpenAI, batch: Batch) -> Batch:
    found = batch

    def is_over() -> bool:
        nonlocal found
        found = client.batches.retrieve(batch.id)
        return found.status in ("completed", "failed", "cancelled", "expired")

    until(is_over)
    return found


def answers(client: openai.OpenAI, file: str | None) -> dict[str, Any]:
    lines = client.files.content(file or "").text.splitlines()
    return {told["custom_id"]: told["response"] for told in map(json.loads, lines)}


class TestClient:
    def test_a_batch_is_made_of_a_files_lines(self, client: openai.OpenAI) -> None:
        """Each line's answer stands under its own id; what failed has a file of its own."""
        lines = [line("one", "a circle"), line("two", "a row", n=2), line("bad", "x", stpes=1), line("lost", "fail")]
        batch = ended(client, create(client, lines))
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (4, 2, 2)
        assert batch.metadata == {"mine": "yes"}
        done, failed = answers(client, batch.output_file_id), answers(client, batch.error_file_id)
        assert {name: len(told["body"]["data"]) for name, told in done.items()} == {"one": 1, "two": 2}
        assert base64.b64decode(done["one"]["body"]["data"][0]["b64_json"]).startswith(b"\x89PNG")
        assert {name: told["status_code"] for name, told in failed.items()} == {"bad": 422, "lost": 500}
        assert failed["bad"]["body"]["error"]["param"] == "stpes"

    def test_a_batch_makes_what_a_manifest_makes(self, client: openai.OpenAI, server: Server, tmp_path: Path) -> None:
        """Line by line the same jobs, so the same fingerprints."""
        batch = ended(client, create(client, [line("a", "like a manifest"), line("b", "another", seed=4)]))
        text = (
            "defaults: {model: demo, precision: bf16, size: 64x64, steps: 2}\n"
            "jobs: [like a manifest, {prompt: another, seed: 4}]"
        )
        plan = make_plan(parse(ManifestSource(text.encode(), "m", "m", tmp_path)), tmp_path)
        keys = [told["body"]["data"][0]["id"] for told in answers(client, batch.output_file_id).values()]
        sidecars = [read_sidecar(server.folder / f"{key}.json") for key in keys]
        assert {each.fingerprint for each in sidecars if each} == {item.fingerprint for item in plan.items}

    def test_an_input_that_is_none_fails_the_batch(self, client: openai.OpenAI) -> None:
        """With the line and what is wrong with it."""
        other = {**line("c", "x"), "url": "/v1/chat/completions"}
        half = line("\ud800", "half of a letter")
        batch = ended(client, create(client, [line("a", "x"), "{", line("a", "y"), other, half]))
        assert batch.status == "failed"
        assert batch.errors is not None
        told = {each.line: each.code for each in batch.errors.data or ()}
        assert told == {
            2: "invalid_json_line", 3: "duplicate_custom_id", 4: "mismatched_endpoint", 5: "invalid_json_line"
        }  # fmt: skip

    def test_a_lines_wishes_are_kept(self, client: openai.OpenAI, server: Server) -> None:
        """Its format, an address in the place of the picture, and what was taken for what it named."""
        batch = create(
            client,
            [
                line("webp", "a webp", output_format="webp"),
                line("url", "an address", output_format="webp", response_format="url", model="gpt-image-1"),
            ],
        )
        done = {name: told["body"] for name, told in answers(client, ended(client, batch).output_file_id).items()}
        assert base64.b64decode(done["webp"]["data"][0]["b64_json"])[8:12] == b"WEBP"
        assert [each["output_format"] for each in done.values()] == ["webp"] * 2
        answer = server.client.get(done["url"]["data"][0]["url"])
        assert (answer.headers["Content-Type"], answer.content[8:12]) == ("image/webp", b"WEBP")
        assert done["url"]["warnings"] == ['there is no model "gpt-image-1" here: demo is taken']
        assert "warnings" not in done["webp"]

    def test_a_batch_can_be_cancelled(self, client: openai.OpenAI) -> None:
        """What is there stays; what waits is not rendered."""
        batch = create(client, [line(str(number), "slow", seed=number) for number in range(60)])
        until(lambda: (client.batches.retrieve(batch.id).request_counts or batch.request_counts).completed > 0)  # type: ignore[union-attr]
        assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
        batch = ended(client, batch)
        assert batch.status == "cancelled"
        assert batch.request_counts is not None
        assert 0 < batch.request_counts.completed < 60
        assert len(answers(client, batch.output_file_id)) == batch.request_counts.completed

    def test_whoever_waits_comes_before_a_batch(self, client: openai.OpenAI, server: Server) -> None:
        batch = create(client, [line(str(number), "slow", seed=1000 + number) for number in range(40)])
        until(lambda: (client.batches.retrieve(batch.id).request_counts or batch.request_counts).completed > 0)  # type: ignore[union-attr]
        assert server.generate("in between").status_code == 200
        counts = client.batches.retrieve(batch.id).request_counts
        assert counts is not None
        assert counts.completed < 40
        client.batches.cancel(batch.id)
        ended(client, batch)

    def test_files_and_batches_are_listed_and_removed(self, client: openai.OpenAI) -> None:
        batch = ended(client, create(client, [line("a", "listed")]))
        assert batch.id in [each.id for each in client.batches.list()]
        file = client.files.retrieve(batch.input_file_id)
        assert (file.filename, file.purpose) == ("lines.jsonl", "batch")
        assert file.id in [each.id for each in client.files.list()]
        assert client.files.retrieve(batch.output_file_id or "").purpose == "batch_output"
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)

    def test_uploads_fill_no_disk(self, client: openai.OpenAI, server: Server) -> None:
        """One that is too much beside those that are kept is refused; when one goes, there is room again."""
        large = {"id": f"file-{1:024x}", "bytes": 8 * 2**30, "created_at": 1, "filename": "a", "purpose": "batch"}
        (server.folder / f".batches/{large['id']}.file.json").write_text(json.dumps(large))
        with pytest.raises(openai.APIStatusError, match="are kept already") as refused:
            client.files.create(file=("lines.jsonl", b"x"), purpose="batch")
        assert refused.value.status_code == 413
        client.files.delete(str(large["id"]))
        assert client.files.create(file=("lines.jsonl", b"x"), purpose="batch").bytes == 1

    def test_what_cannot_be_is_refused(self, client: openai.OpenAI, server: Server) -> None:
        with pytest.raises(openai.BadRequestError):
            client.files.create(file=io.BytesIO(b"x"), purpose="fine-tune")
        with pytest.raises(openai.NotFoundError):
            client.batches.create(input_file_id="file-0", endpoint=GENERATIONS, completion_window="24h")
        for name in ("../x", "batch-0", "queue"):
            with pytest.raises(openai.NotFoundError):
                client.batches.retrieve(name)
        with pytest.raises(openai.BadRequestError):
            create(client, [line("a", "x")], window="soon")
        body = '{"input_file_id": "x", "endpoint": "/v1/images/generations", "metadata": {"a": "\\ud800"}}'
        answer = server.client.post("/v1/batches", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert server.client.get("/v1/batches").status_code == 200


class TestManifest:
    def test_a_manifest_is_taken_as_it_is(self, server: Server) -> None:
        jobs = "jobs:\n  - {prompt: 'a {shape}', matrix: {shape: [cube, ball]}}\n"
        text = f"name: sent\ndefaults: {{size: 64x64, steps: 2}}\n{jobs}"
        answer = server.client.post("/api/v1/batches", content=text)
        assert answer.status_code == 200
        path = answer.headers["Location"]
        until(lambda: server.client.get(path).json()["status"] == "completed")
        told = [json.loads(each) for each in server.client.get(f"{path}/results").text.splitlines()]
        assert {each["id"] for each in told} == {"001-cube", "001-ball"}
        assert all(server.client.get(url).content.startswith(b"\x89PNG") for each in told for url in each["pictures"])

    def test_nothing_is_kept_of_one_that_is_refused(self, server: Server) -> None:
        before = len(list((server.folder / ".batches").glob("*.data")))
        answer = server.client.post("/api/v1/batches?completion_window=x", content="jobs: [a boat]\n")
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "completion_window")
        assert len(list((server.folder / ".batches").glob("*.data"))) == before

    def test_its_problems_are_told_with_their_lines(self, server: Server) -> None:
        answer = server.client.post(
            "/api/v1/batches", content="jobs:\n  - prompt: x\n    stpes: 3\n  - {model: /etc}\n"
        )
        assert answer.status_code == 422
        told = [(each["line"], each["field"]) for each in answer.json()["error"]["problems"]]
        assert (3, "jobs[0].stpes") in told
        assert any(field.startswith("jobs[1]") for _, field in told)


def test_a_batch_survives_its_server(tmp_path: Path) -> None:
    """Killed in the middle of it, twice: it is completed, each line once, and no picture is rendered again."""
    before: dict[str, int] = {}
    batch: Batch | None = None
    for _ in range(2):
        with serving(tmp_path, fake="--capacity 4") as server, connected(server) as client:
            batch = batch or create(client, [line(str(number), "slow", seed=number) for number in range(12)])
            count = len(list(server.folder.glob("????????*.png")))
            until(lambda count=count: len(list(server.folder.glob("????????*.png"))) > count + 1)  # type: ignore[misc]
            server.process.kill()
            server.process.wait()
        now = {path.name: path.stat().st_mtime_ns for path in server.folder.glob("????????*.json")}
        assert before.items() <= now.items()
        before = now
    assert batch is not None
    with serving(tmp_path, fake="--capacity 4") as server, connected(server) as client:
        batch = ended(client, batch)
        assert (batch.status, batch.request_counts and batch.request_counts.completed) == ("completed", 12)
        assert sorted(answers(client, batch.output_file_id), key=int) == [str(number) for number in range(12)]
        now = {path.name: path.stat().st_mtime_ns for path in server.folder.glob("????????*.json")}
        assert before.items() <= now.items()
