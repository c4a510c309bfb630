"""Our own requests, answered by a server that really runs and renders with the demo model."""

from __future__ import annotations

import base64
import io
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from PIL import Image
from starlette.datastructures import Headers

from renderer.manifest.shelf import FILE_REFUSED
from renderer.outputs.picture_files import read_sidecar
from renderer.service.answers import RequestError
from renderer.service.configuration import Limits
from renderer.service.guard import Guard
from tests.service.running import SMALL, Server, serving
from tests.waiting import until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("outputs"), "--in-flight", "4", "--most-waiting", "24") as served:
        yield served


def opened(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


class TestGenerate:
    def test_a_picture_comes_with_what_it_was_made_of(self, server: Server) -> None:
        """The answer has the picture as a data URL, and every field that a client sent or left to us."""
        answer = server.generate("a red circle", {"X-Request-ID": "mine-1"}, seed=7)
        told = answer.json()
        assert answer.status_code == 200
        assert opened(told["image_url"]).size == (64, 64)
        sent = {"width": 64, "height": 64, "num_inference_steps": 2, "seed": 7}
        assert {name: told[name] for name in sent} == sent
        assert (told["model"], told["negative_prompt"], told["cfg_scale"]) == ("demo", "", 4.0)
        assert answer.headers["X-Request-ID"] == told["request_id"] == "mine-1"

    def test_a_picture_has_a_sidecar_like_any_other(self, server: Server) -> None:
        """Whole, of the same schema, with the request's id and its number in the queue."""
        told = server.generate("a sidecar", {"X-Request-ID": "mine-2"}).json()
        sidecar = read_sidecar(server.folder / f"{told['id']}.json")
        assert sidecar is not None
        assert (sidecar.place.manifest, sidecar.place.job_id) == ("queue.jsonl", "mine-2")
        assert sidecar.place.line > 0
        assert sidecar.job.prompt == "a sidecar"

    def test_the_same_request_again_is_answered_from_what_is_done(self, server: Server) -> None:
        first = server.generate("the same", seed=3).json()
        rendered = server.metric("renderer_rendered_total")
        again = server.generate("the same", seed=3).json()
        assert (first["found"], again["found"]) == (False, True)
        assert again["image_url"] == first["image_url"]
        assert server.metric("renderer_rendered_total") == rendered

    def test_who_asks_at_once_shares_one_picture(self, server: Server) -> None:
        """Eight clients that ask for the same at the same time have it rendered once."""
        rendered = server.metric("renderer_rendered_total")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: server.generate("shared by all", seed=9).json()["id"], range(8)))
        assert len(set(answers)) == 1
        assert server.metric("renderer_rendered_total") == rendered + 1

    def test_different_sizes_ride_together(self, server: Server) -> None:
        """Requests of other sizes and steps that come at once are in flight at once: one sweep is for all."""
        sizes = [(64, 64), (128, 64), (64, 128), (96, 96)]

        def ask(size: tuple[int, int]) -> str:
            width, height = size
            seed = width * height
            told = server.generate("riders", width=width, height=height, num_inference_steps=6, seed=seed).json()
            assert (told["width"], told["height"]) == size
            return str(told["id"])

        with ThreadPoolExecutor(4) as pool:
            keys = list(pool.map(ask, sizes))
        assert max(server.sidecar(key)["sharing"]["mean_in_flight"] for key in keys) > 1.5

    def test_several_seeds_make_several_pictures(self, server: Server) -> None:
        told = server.generate("a row", seeds=[1, 2, 3]).json()
        assert [image["seed"] for image in told["images"]] == [1, 2, 3]
        assert told["image_url"] == told["images"][0]["image_url"]

    def test_a_picture_comes_in_the_format_that_was_asked_for(self, server: Server) -> None:
        """It is rendered once, and sent as it is wanted; without labels where none are."""
        told = server.generate("a webp", format="webp", embed="none").json()
        head, _, data = told["image_url"].partition(",")
        assert head == "data:image/webp;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert picture.size == (64, 64)
        assert "exif" not in picture.info
        assert server.generate("a webp").json()["found"]
        path = f"/api/v1/images/{told['id']}/file"
        assert Image.open(io.BytesIO(server.client.get(f"{path}?format=jpeg").content)).format == "JPEG"
        refused = server.client.get(f"{path}?format=svg")
        assert (refused.status_code, refused.json()["error"]["field"]) == (422, "format")


class TestLater:
    def test_who_does_not_wait_is_told_when_it_is_accepted(self, server: Server) -> None:
        answer = server.accept("later")
        assert answer.status_code == 202
        told = server.until_done(answer.json()["id"])
        assert told["state"] == "done"
        assert opened(told["image_url"]).size == (64, 64)
        data = server.client.get(f"{answer.headers['Location']}/file").content
        assert Image.open(io.BytesIO(data)).size == (64, 64)

    def test_nobody_has_asked_for_it(self, server: Server) -> None:
        for key in ("0" * 32, "..%2f..%2fetc%2fpasswd", "queue", "summary"):
            assert server.client.get(f"/api/v1/images/{key}").status_code == 404


class TestRefusals:
    def refused(self, server: Server, **fields: object) -> dict[str, str]:
        answer = server.client.post("/api/v1/images/generate", json={"prompt": "x", **SMALL, **fields})
        assert answer.status_code == 422
        told: dict[str, str] = answer.json()["error"]
        return told

    def test_a_field_that_cannot_be_is_named_with_a_hint(self, server: Server) -> None:
        """As a manifest's problems are: all of them, each with its field."""
        told = self.refused(server, width=65, stpes=4)
        assert (told["field"], told["message"], told["hint"]) == ("stpes", "unknown key", 'did you mean "steps"?')
        assert self.refused(server, width=65)["hint"] == "nearest: 64x64 and 80x64"
        assert self.refused(server, prompt=" ")["field"] == "prompt"
        assert self.refused(server, seed="x")["field"] == "seed"

    def test_no_path_that_a_client_names_is_looked_at(self, server: Server, tmp_path: Path) -> None:
        """Models are the server's, LoRAs the catalogue's; a file that is there is refused like one that is not."""
        there, not_there = tmp_path / "there.safetensors", tmp_path / "not-there"
        there.write_bytes(b"x")
        for path in (tmp_path, not_there, "/etc", f"transformer={there}"):
            assert self.refused(server, model=str(path))["hint"] == "known: demo"
        files = {"transformer": str(there)}
        assert self.refused(server, model=files)["hint"] == "known: demo"
        told = [self.refused(server, loras=[str(path)])["message"] for path in (there, not_there)]
        assert all("is no LoRA of the catalogue" in each for each in told)
        for field, value in {"image": str(there), "images": ["https://a.org/b.png"], "rows": "t.csv"}.items():
            refused = self.refused(server, **{field: value})
            hint = None if field == "rows" else "send the picture itself, as data:image/png;base64,…"
            assert (refused["message"], refused["hint"]) == (FILE_REFUSED, hint)

    def test_too_many_pictures_and_pixels_are_refused(self, server: Server) -> None:
        assert self.refused(server, count=17)["field"] == "count"

    @pytest.mark.parametrize(
        "body",
        [
            *(b"", b"{", b"[]", b'"x"', b'{"prompt": NaN}', b'{"a": 1, "a": 2}', b"[" * 100_000, b"\xff\xfe"),
            *(b'{"a": 1e999}', b'{"a": [-1e999]}', b'{"a": ["\\ud800"]}', b'{"\\udc00": 1}', b'{"a": "\xed\xa0\x80"}'),
        ],
    )
    def test_what_is_no_object_is_refused(self, server: Server, body: bytes) -> None:
        answer = server.client.post(
            "/api/v1/images/generate", content=body, headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_json")

    def test_what_is_wrong_with_json_is_said_in_its_words(self, server: Server) -> None:
        """Not in those of the language that the server is written in."""
        long = f'{{"prompt": "x", "seed": {"9" * 5000}}}'
        for body, said in ((long, "a number is too large"), ('{"b": 1, "a": 2, "a": 3}', 'the key "a" is there twice')):
            headers = {"Content-Type": "application/json"}
            answer = server.client.post("/api/v1/images/generate", content=body, headers=headers)
            assert answer.json()["error"]["message"] == f"the body is no JSON: {said}"

    def test_what_a_library_thinks_of_a_request_is_no_line_of_the_log(self, server: Server) -> None:
        headers = {"Content-Type": "multipart/form-data; boundary=x", "X-Request-ID": "torn-1"}
        answer = server.client.post("/v1/images/edits", content=b"abc", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_a_form")
        until(lambda: any(told.get("request_id") == "torn-1" for told in list(server.log)))
        assert [told for told in server.log if told["event"] == "text"] == []

    def test_a_path_or_a_method_that_there_is_not(self, server: Server) -> None:
        assert server.client.get("/api/v1/nothing").json()["error"]["code"] == "unknown"
        assert server.client.get("/api/v1/images/generate").status_code == 404
        assert server.client.put("/health").status_code == 405

    def test_what_is_done_cannot_be_cancelled(self, server: Server) -> None:
        told = server.client.delete(f"/api/v1/images/{server.generate('done').json()['id']}").json()["error"]
        assert (told["code"], told["message"]) == ("too_late", "the picture cannot be cancelled: it is done")


class TestGuard:
    def status(self, server: Server, **headers: str) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return server.client.post(
            "/api/v1/images/generate", json={"prompt": "the guard", **SMALL}, headers=sent
        ).status_code

    def test_another_name_is_refused(self, server: Server) -> None:
        """A page of another site that has its name lead here (DNS rebinding) reaches nothing."""
        assert self.status(server, Host="evil.example") == 421
        assert self.status(server, Host="localhost:1") == 200

    def test_another_origin_is_refused(self, server: Server) -> None:
        assert self.status(server, Origin="https://evil.example") == 403
        assert self.status(server, Origin="null") == 403
        assert self.status(server, Origin="http://[") == 403
        assert self.status(server, Sec_Fetch_Site="cross-site") == 403
        assert self.status(server, Origin=server.url) == 200

    def test_no_other_site_is_told_that_it_may(self, server: Server) -> None:
        answer = server.client.options("/api/v1/images/generate", headers={"Origin": server.url})
        assert not [name for name in answer.headers if name.startswith("access-control")]

    def test_a_form_is_refused(self, server: Server) -> None:
        assert server.client.post("/api/v1/images/generate", data={"prompt": "x"}).status_code == 415

    def test_a_long_body_is_refused_before_it_is_read(self, server: Server) -> None:
        """By what it announces; and one that announces nothing, as soon as it is too long."""
        with socket.create_connection(("127.0.0.1", server.client.base_url.port or 0)) as raw:
            raw.sendall(
                b"POST /api/v1/images/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 1000000000\r\n\r\n"
            )
            assert b" 413 " in raw.recv(100)
        chunks = (b"x" * 2**16 for _ in range(100))
        answer = server.client.post("/v1/batches", content=chunks, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413

    def test_the_log_has_no_prompt(self, server: Server) -> None:
        """Nor a query, nor a token; but each request's id and how it went."""
        headers = {"X-Request-ID": "logged-1", "Authorization": "Bearer a-secret-token"}
        server.client.post(
            "/api/v1/images/generate?q=a-secret-query", json={"prompt": "a secret prompt", **SMALL}, headers=headers
        )
        server.generate("")

        def logged() -> list[dict[str, Any]]:
            return [told for told in server.log if (told.get("request_id"), told["event"]) == ("logged-1", "request")]

        until(lambda: bool(logged()))  # it is written when the answer has gone
        (line,) = logged()
        assert (line["route"], line["status"]) == ("generate", 200)
        assert "secret" not in str(server.log)


def test_how_it_is_can_be_asked(server: Server) -> None:
    """A word for load balancers, numbers for Prometheus."""
    server.generate("healthy")
    told = server.client.get("/health").json()
    assert (told["status"], told["worker"]) == ("ready", "open")
    lines = server.client.get("/metrics").text.splitlines()
    values = [line for line in lines if not line.startswith("#")]
    assert all(len(line.rsplit(" ", 1)) == 2 and float(line.rsplit(" ", 1)[1]) >= 0 for line in values)
    assert server.metric("renderer_steps_total") > 0


def test_a_load_balancer_may_ask_without_a_name() -> None:
    """As HAProxy does, over HTTP/1.0: no browser can. A page's request is refused all the same."""
    guard = Guard(cast("Any", None), (), Limits(), lambda *_: None)
    assert guard._admit({"path": "/health", "client": ("127.0.0.1", 1)}, Headers({})) == "127.0.0.1"
    for headers in ({"host": ""}, {"host": "evil.example"}, {"origin": "null"}, {"origin": "http://evil.example"}):
        with pytest.raises(RequestError):
            guard._admit({"path": "/health", "client": None}, Headers(headers))


def test_a_token_opens_what_is_open_to_others(tmp_path: Path) -> None:
    """With RENDERER_API_KEY every name and every user is let in that has a token, and nobody else; also by `.env`."""
    (tmp_path / ".env").write_text("# keys\nRENDERER_API_KEY='first-token,second-token'\nexport OTHER=1\n")
    with serving(tmp_path, "--host", "0.0.0.0", fake="") as server:  # noqa: S104
        url = server.url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        body = {"prompt": "x", **SMALL}

        def status(**headers: str) -> int:
            return httpx.post(f"{url}/api/v1/images/generate", json=body, headers=headers).status_code

        assert status() == 401
        assert status(Authorization="Bearer wrong") == 401
        assert status(Authorization="Bearer first-token") == 200
        assert status(Authorization="Bearer second-token", Host="pictures.example") == 200
        basic = base64.b64encode(b"anybody:first-token").decode()
        assert status(Authorization=f"Basic {basic}") == 200
        assert status(Authorization="Basic !!") == 401
        assert httpx.get(f"{url}/metrics", headers={b"Authorization": "Basic é".encode("latin-1")}).status_code == 401
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/metrics").status_code == 401


def test_a_client_that_says_nothing_holds_nobody_up(server: Server) -> None:
    """Half a request waits alone."""
    with socket.create_connection(("127.0.0.1", server.client.base_url.port or 0)) as raw:
        raw.sendall(b"POST /api/v1/images/generate HTTP/1.1\r\nHost: localhost\r\n")
        assert server.generate("beside it").status_code == 200
        assert threading.active_count() < 100
