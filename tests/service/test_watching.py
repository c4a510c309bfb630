"""The page while a run is on: what is served, and to whom."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from renderer.errors import UsageError
from renderer.manifest.manifest import Manifest
from renderer.outputs import picks
from renderer.report.gallery import Gallery
from renderer.service import http_server, watching
from renderer.service.watching import WatchServer
from tests import driving
from tests.making import make_manifest
from tests.nights import make_night
from tests.report.live import Night, ask
from tests.waiting import until


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def night(tmp_path: Path, held: ExitStack) -> Night:
    return Night(tmp_path, held)


@pytest.fixture
def server(night: Night, held: ExitStack) -> WatchServer:
    return held.enter_context(WatchServer([Gallery(night.manifest, night.outputs)]))


class TestServing:
    def test_what_the_page_needs_is_there(self, night: Night, server: WatchServer) -> None:
        """The page, its script and looks, pictures and their thumbnails, made when they are asked for."""
        night.begin()
        night.finish("p000")
        until(lambda: b'"state": "done"' in ask(server, "/test/")[2])
        assert ask(server, "/")[1]["location"] == "/test/"
        assert ask(server, "/test")[1]["location"] == "/test/"
        status, headers, body = ask(server, "/test/")
        assert status == 200
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        data = json.loads(body.decode().split('id="data">')[1].split("</script>")[0])
        thumb = data["pictures"][0]["thumb"]
        for name, kind in [("report/page.js", "text/javascript; charset=utf-8"), ("p000.png", "image/png"),
                           (thumb, "image/webp")]:  # fmt: skip
            status, headers, body = ask(server, f"/test/{name}")
            assert (status, headers["content-type"], len(body) > 100) == (200, kind, True)
            assert ask(server, f"/test/{name}", method="HEAD")[::2] == (200, b"")

    def test_pictures_are_marked(self, night: Night, server: WatchServer) -> None:
        """By their ids; what is no mark, or no picture, is refused, and so are pages of other sites."""
        night.begin()
        night.finish("p000")
        until(lambda: b'"state": "done"' in ask(server, "/test/")[2])

        def post(body: object, kind: str = "application/json", **headers: str) -> int:
            told = {"Content-Type": kind, **headers}
            asked = urllib.request.Request(f"{server.urls[0]}marks", json.dumps(body).encode(), told)  # noqa: S310
            try:
                with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code

        assert post({"marks": {"p000": 4}}) == 204
        assert list(picks.read(night.folder).values()) == [4]
        assert b'"mark": 4' in ask(server, "/test/")[2]
        assert post({"marks": {"p000": 6}}) == post({"marks": {}}) == post(["p000"]) == 400
        assert post({"marks": {"nobody": 1}}) == post({"marks": {"p001": 1}}) == 404
        assert post({"marks": {"p000": 1}}, "text/plain") == 415
        assert post({"marks": {"p000": 1}}, Origin="http://elsewhere.example") == 403
        assert post({"marks": {"p000": None}}) == 204
        assert picks.read(night.folder) == {}

    def test_who_goes_in_the_middle_of_a_request_is_no_fault_of_the_server(self, server: WatchServer) -> None:
        """It is counted as what it is."""
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            head = "POST /test/marks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: 100\r\n\r\nhalf".encode())
            until(lambda: server._guard.is_busy(0.0))
        until(lambda: ("marks", 400) in server._guard.answered)
        assert ("marks", 500) not in server._guard.answered

    def test_nothing_else_is(self, night: Night, held: ExitStack) -> None:
        """No listing, no log, no sidecar, no file above, no name in another spelling."""
        night.begin()
        night.finish("p000")
        (night.folder.path / "worker.log").write_text("secret")
        server = held.enter_context(WatchServer([Gallery(night.manifest, night.outputs)]))
        assert ask(server, "/test/p000.png")[0] == 200
        wrong = [
            "/test/../../etc/passwd", "/test/%2e%2e/%2e%2e/etc/passwd", "/../etc/passwd", "//etc/passwd", "/etc/passwd",
            "/test/journal.jsonl", "/test/worker.log", "/test/.lock", "/test/p000.json", "/test/running.json",
            "/test/p000.png/", "/test/p000", "/test/thumbs/", "/test/thumbs", "/test/report/", "/test/./p000.png",
            "/test/report/../p000.png", "/test/p000.png%00", "/test/%ff", "/test//p000.png", "/test/p001.png",
            "/other/p000.png", "http://127.0.0.1/test/p000.json", "*", "http://[", "/test/contact-sheet.png",
        ]  # fmt: skip
        answers = {path: ask(server, path)[0] for path in wrong}
        assert {path: status for path, status in answers.items() if status not in {400, 404}} == {}

    @pytest.mark.parametrize("way", ["file", "folder"])
    def test_links_lead_nowhere(self, tmp_path: Path, held: ExitStack, way: str) -> None:
        """A picture that is a link, or lies behind one, is not served, though its sidecar is whole."""
        outputs = tmp_path / "outputs"
        manifest = make_manifest()
        pictures = tuple(one.model_copy(update={"output": f"sub/{one.output}"}) for one in manifest.pictures)
        manifest = Manifest(manifest.file, manifest.name, pictures)
        make_night(manifest, outputs)
        server = held.enter_context(WatchServer([Gallery(manifest, outputs)]))
        assert ask(server, "/test/sub/p000.png")[0] == 200
        inside = outputs / "test/sub" / ("p000.png" if way == "file" else "")
        outside = tmp_path / "outside"
        inside.rename(outside)
        inside.symlink_to(outside)
        assert ask(server, "/test/sub/p000.png")[0] == 404

    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:80", "localhost.evil", "localhost:80.evil", "127.0.0.1.evil", "x@localhost"],
    )
    def test_other_names_are_turned_away(self, server: WatchServer, host: str) -> None:
        """A site whose name is pointed at 127.0.0.1 gets nothing, not even the page (DNS rebinding)."""
        status, _, body = ask(server, "/test/", host)
        assert status == 421
        assert json.loads(body)["error"]["code"] == "host"

    @pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1:1", "localhost", "LOCALHOST:9000", "[::1]:9000"])
    def test_a_tunnel_has_a_port_of_its_own(self, server: WatchServer, host: str) -> None:
        """`ssh -L 9000:127.0.0.1:PORT`: the browser asks for localhost:9000, and is shown the page."""
        assert ask(server, "/test/", host)[0] == 200

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
    def test_other_users_of_this_machine_are_turned_away(self, server: WatchServer) -> None:
        """Whoever else has a login here is told that the page is not theirs; by IPv4 and by IPv6's way of it."""
        for family, address in (("AF_INET", "127.0.0.1"), ("AF_INET6", "::ffff:127.0.0.1")):
            program = (
                "import os, socket, sys; os.setuid(int(sys.argv[1]))\n"  # first the imports: root's Python is root's
                f"asking = socket.socket(socket.{family}); asking.connect(({address!r}, {server.port}))\n"
                "asking.sendall(b'GET /test/ HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n')\n"
                "os.write(1, asking.makefile('rb').read())"
            )
            for user, status in ((65534, "403"), (0, "200")):
                command = [sys.executable, "-c", program, str(user)]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                assert said.split()[1] == status
                assert ("picture 3" in said) == (status == "200")

    def test_only_this_machine_is_served(self, server: WatchServer) -> None:
        """It is bound to 127.0.0.1, and other methods than reading are unknown."""
        assert server.urls == [f"http://127.0.0.1:{server.port}/test/"]
        assert ask(server, "/test/", method="POST")[0] == 405

    def test_a_port_that_is_taken_is_said(self, night: Night, server: WatchServer) -> None:
        """The number is named, and what helps."""
        port = server.port
        with pytest.raises(UsageError, match=f"cannot serve on 127.0.0.1, port {port}"):
            WatchServer([Gallery(night.manifest, night.outputs)], port)

    def test_clients_that_vanish_do_no_harm(self, night: Night, server: WatchServer) -> None:
        """Forty who connect and leave, in the middle of a request or of the events; the page is still served."""
        night.begin()
        address = ("127.0.0.1", server.port)
        host = f"Host: {address[0]}:{address[1]}\r\n\r\n".encode()
        for number in range(40):
            with socket.create_connection(address) as client:
                if number % 2:
                    client.sendall(b"GET /test/events HTTP/1.1\r\n" + host)
                    client.recv(10)
                else:
                    client.sendall(b"GET /te")
        assert ask(server, "/test/")[0] == 200
        steps = itertools.count()

        def nobody_is_served() -> bool:
            night.stand(("p000", next(steps)))  # news: whoever is not there any more is found by it
            return not server._guard.is_busy(0.0)

        until(nobody_is_served)

    def test_who_holds_all_places_keeps_out_nobody_for_good(self, server: WatchServer) -> None:
        """Who comes when all places are taken is told so; when the others have gone, the page is served."""
        address = ("127.0.0.1", server.port)
        with ExitStack() as clients:
            for _ in range(watching._LIMITS.connections):
                clients.enter_context(socket.create_connection(address))
            with socket.create_connection(address, timeout=10) as late, suppress(ConnectionError):
                assert late.recv(12) in (b"HTTP/1.1 503", b"")

        def is_served() -> bool:
            with suppress(OSError, http.client.HTTPException):
                return ask(server, "/test/")[0] == 200
            return False

        until(is_served)

    def test_what_is_no_http_is_no_news_on_a_terminal(
        self, server: WatchServer, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Whoever sends anything else is told so, and the run's terminal stays its own."""
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 400"
        assert ask(server, "/test/")[0] == 200
        assert capfd.readouterr() == ("", "")

    def test_who_takes_nothing_is_let_go(
        self, night: Night, server: WatchServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A client that asks for more than fits into a socket and reads none of it keeps neither place nor file."""
        monkeypatch.setattr(http_server, "_STALLED_S", 0.2)
        night.begin()
        night.finish("p000")
        until(lambda: b'"state": "done"' in ask(server, "/test/")[2])
        (night.folder.path / "p000.png").write_bytes(b"x" * 2**25)
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET /test/p000.png HTTP/1.1\r\nHost: localhost\r\n\r\n")
            until(lambda: server._guard.is_busy(0.0))
            until(lambda: not server._guard.is_busy(0.0))
            with suppress(ConnectionError):
                while client.recv(2**20):
                    pass

    def test_who_is_slow_has_the_whole_of_a_long_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An answer that takes longer than a client may take nothing comes all the same, while it takes any of it."""
        monkeypatch.setattr(http_server, "_STALLED_S", 1.0)
        size = 2**24

        async def answers(scope: Any, receive: Any, send: Any) -> None:
            await Response(b"x" * size)(scope, receive, send)

        served = http_server.HttpServer(
            answers, http_server.listen("127.0.0.1", 0), only_this_user=False, others_hint="", connections=4,
            begin=lambda _: None, complain=lambda _: None,
        )  # fmt: skip
        with served, socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            client.connect(("127.0.0.1", served.port))
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            taken, began_s = 0, time.monotonic()
            while piece := client.recv(2**18):
                taken += len(piece)
                time.sleep(max(0.0, began_s + 2.5 * taken / size - time.monotonic()))  # a slow line
        assert taken > size

    def test_whatever_goes_wrong_in_it_the_server_goes_on(
        self, night: Night, server: WatchServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A look that fails in a way that nobody foresaw is tried again, and not a word of it is on the terminal."""
        failed = threading.Event()

        def fail(_gallery: Gallery) -> None:
            failed.set()
            raise RuntimeError("unforeseen")

        with monkeypatch.context() as patch:
            patch.setattr(Gallery, "follow", fail)
            assert failed.wait(20)
        night.begin()
        night.finish("p000")
        until(lambda: b'"state": "done"' in ask(server, "/test/")[2])
        assert capfd.readouterr() == ("", "")

    def test_it_ends_though_somebody_listens(self, night: Night) -> None:
        """A browser that is open does not keep the run from ending, and hears of the end."""
        with WatchServer([Gallery(night.manifest, night.outputs)]) as server:
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            client.request("GET", "/test/events?since=x")
            answer = client.getresponse()
            assert b"stale" in answer.readline() + answer.readline()
            began = time.monotonic()
        assert time.monotonic() - began < 6
        assert b'"closed": true' in answer.read()


def test_a_port_that_is_taken_is_a_warning(tmp_path: Path) -> None:
    """`render --live --port N` beside somebody who has N: that is said, the page is elsewhere, the night goes on."""
    manifest = driving.write_manifest(tmp_path, "a")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = driving.start("render", manifest, "--live", "--port", str(port), cwd=tmp_path, stderr=subprocess.PIPE)
        said = run.communicate(timeout=60)[1].decode()
    assert run.returncode == 0, said
    assert f"cannot serve on 127.0.0.1, port {port}: Address already in use; the page is served on another one" in said
    assert "http://127.0.0.1:" in said
    assert driving.pictures(tmp_path) == ["001.png"]


def test_report_watch_ends_with_ctrl_c(tmp_path: Path) -> None:
    """`report --watch` needs no run: it says where the page is, serves it, and leaves when asked to."""
    (tmp_path / "test.yaml").write_text("jobs: [{prompt: a, model: demo, size: 64x64}]\n")
    command = [sys.executable, "-m", "renderer", "report", "test.yaml", "--watch"]
    environment = {**os.environ, "PYTHONPATH": str(driving.ROOT)}
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert run.stdout is not None
        port = int(run.stdout.readline().split(":")[2].split("/")[0])
        connection = http.client.HTTPConnection("localhost", port, timeout=10)
        connection.request("GET", "/test/")
        assert connection.getresponse().status == 200
        run.send_signal(signal.SIGINT)
        assert run.wait(10) == 0
    finally:
        run.kill()
        run.wait(10)
