"""`renderer smoke`: what it asks a server for, what it says of the answer, and what it ends with."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from renderer.cli import command
from tests.service.running import serving

PNG = io.BytesIO()
Image.new("RGB", (8, 8), "teal").save(PNG, "PNG")
MADE = {
    "image_url": "data:image/png;base64," + base64.b64encode(PNG.getvalue()).decode(), "width": 8, "height": 8,
    "num_inference_steps": 4, "seed": 0, "model": "demo",
}  # fmt: skip


class Answering(ThreadingHTTPServer):
    """Answers as it is told, one answer after the other, and knows what it was asked."""

    def __init__(self, answers: list[tuple[int, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers = answers
        self.asked: list[tuple[str, str | None, dict[str, Any]]] = []


class Answer(BaseHTTPRequestHandler):
    server: Answering

    def do_POST(self) -> None:
        fields = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], fields))
        status, body = self.server.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering([]) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def smoke(url: str, out: Path, *options: str) -> int:
    return command.main(["smoke", "--url", url, "--out", str(out), *options])


def test_a_server_that_runs_gives_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is written, and said what it is; without the server's token it is refused, with the reason."""
    with serving(tmp_path, fake="--capacity 2", environment={"RENDERER_API_KEY": ""}) as found:
        assert smoke(found.url, tmp_path / "out", "--size", "64x64") == 0
        assert smoke(found.url, tmp_path / "out", "--size", "63x64") == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("quick: 64x64, 4 steps, seed 0, ")
    assert told[0].endswith(str(tmp_path / "out/quick.png"))
    with Image.open(tmp_path / "out/quick.png") as image:
        assert image.size == (64, 64)
    assert told[1].startswith("quick: 4")
    assert "multiple of 16" in told[1]


def test_what_is_asked(
    server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three pictures with the model's own steps, by the first of the tokens; one that fails is no reason to stop."""
    monkeypatch.setenv("RENDERER_API_KEY", "first , second")
    server.answers = [
        (200, json.dumps(MADE).encode()),
        (503, json.dumps({"error": {"message": "full", "hint": "later"}}).encode()),
        (200, json.dumps(MADE).encode()),
    ]
    assert smoke(f"http://127.0.0.1:{server.server_port}/behind/", tmp_path, "--full") == 1
    assert {(path, token) for path, token, _ in server.asked} == {("/behind/api/v1/images/generate", "Bearer first")}
    assert all(not fields.keys() & {"num_inference_steps", "size"} for _, _, fields in server.asked)
    assert [fields["seed"] for _, _, fields in server.asked] == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["portrait.png", "scene.png"]
    assert "chinese: 503, full (later)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>a page</html>", "no picture"),
        (200, b"[]", "no picture: the answer is no renderer's"),
        (200, b'{"image_url": "data:image/png;base64,!!!"}', "no picture"),
        (200, b"{}", "no picture: the answer is no renderer's"),
        (500, b"<html>a proxy's</html>", "the server answered 500"),
    ],
)
def test_what_is_no_answer(
    server: Answering, tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int, body: bytes, said: str
) -> None:
    """Said in a line, and nothing is written."""
    server.answers = [(status, body)]
    assert smoke(f"http://127.0.0.1:{server.server_port}", tmp_path) == 1
    assert f"quick: {said}" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_nobody_there_and_no_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1 where no picture comes, 2 for what cannot be asked."""
    assert smoke("http://127.0.0.1:1", tmp_path) == 1
    assert "quick: no picture: " in capsys.readouterr().out
    assert smoke("127.0.0.1:8000", tmp_path) == 2
    assert "is not an address" in capsys.readouterr().err
