"""A dead man's switch: real requests to a local server, to one that refuses, and to one that does not answer."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from renderer.cli import attended, ping
from renderer.cli.manifests import Loaded
from renderer.errors import UsageError
from renderer.supervisor import run
from renderer.supervisor.settings import Settings
from tests.fakes import InlineWorker
from tests.making import make_manifest

SECRET = "s3cret-uuid"  # noqa: S105


class Switch:
    """A server that remembers what it was asked, and answers with a status; `only_get` refuses what is posted.

    With `leads_to` it sends whoever asks to another address; the first `failing` are told that it is not ready.
    """

    def __init__(self, status: int = 200, *, only_get: bool = False, leads_to: str = "", failing: int = 0) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.credentials: list[str] = []
        asked, credentials = self.asked, self.credentials

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer("")

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

            def _answer(self, body: str) -> None:
                asked.append((self.command, self.path, body))
                credentials.append(self.headers["Authorization"] or "")
                refused = only_get and self.command == "POST"
                self.send_response(503 if len(asked) <= failing else 405 if refused else 302 if leads_to else status)
                if leads_to:
                    self.send_header("Location", leads_to)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/{SECRET}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.asked]


@pytest.fixture
def switch() -> Iterator[Switch]:
    found = Switch()
    yield found
    found.http.shutdown()
    found.http.server_close()


def render(outputs: Path, *urls: str, prompts: tuple[str, ...] = ("a",)) -> None:
    settings = Settings(outputs=outputs, hire=InlineWorker, retries=0)
    attended.render(Loaded((make_manifest(prompts),)), settings, log_format="plain", ping=urls)


def test_it_hears_of_the_beginning_and_the_end(tmp_path: Path, switch: Switch) -> None:
    """The address with /start, then the address itself with the counts."""
    render(tmp_path, switch.url)
    assert switch.paths() == [f"/{SECRET}/start", f"/{SECRET}"]
    assert "1 rendered" in switch.asked[-1][2]


def test_it_hears_of_a_failure(tmp_path: Path, switch: Switch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that failed, and a night that an error ended, are /fail; what stands behind ? stays behind it."""
    render(tmp_path, f"{switch.url}/?rid=1", prompts=("a", "fail"))
    assert switch.paths() == [f"/{SECRET}/start?rid=1", f"/{SECRET}/fail?rid=1"]
    monkeypatch.setattr(run, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        render(tmp_path, switch.url)
    assert switch.asked[-1] == ("POST", f"/{SECRET}/fail", "ended by an error: ZeroDivisionError")


def test_a_user_and_a_password_in_the_address_are_sent_as_such(
    tmp_path: Path, switch: Switch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As basic authentication; what stands for a letter in an address is that letter."""
    render(tmp_path, switch.url.replace("//", f"//me:{SECRET}%40home@"))
    assert switch.paths() == [f"/{SECRET}/start", f"/{SECRET}"]
    assert switch.credentials == [f"Basic {base64.b64encode(f'me:{SECRET}@home'.encode()).decode()}"] * 2
    assert SECRET not in capsys.readouterr().err


def test_one_that_is_busy_is_asked_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or somebody would be woken because a server was begun anew."""
    monkeypatch.setattr(ping, "_AGAIN_S", 0.0)
    switch = Switch(failing=1)
    render(tmp_path, switch.url)
    assert switch.paths() == [f"/{SECRET}/start", f"/{SECRET}/start", f"/{SECRET}"]
    assert "warning" not in capsys.readouterr().err
    switch.http.shutdown()
    switch.http.server_close()


def test_a_password_goes_to_no_other_address(tmp_path: Path, switch: Switch) -> None:
    """A server that leads elsewhere, as one that was sold does: whoever is there is asked, and told nothing."""
    first = Switch(leads_to=switch.url)
    render(tmp_path, first.url.replace("//", "//ann:s3cret@"))
    assert all(first.credentials)
    assert switch.asked
    assert set(switch.credentials) == {""}
    first.http.shutdown()
    first.http.server_close()


def test_one_that_takes_no_posts_is_asked_plainly(tmp_path: Path) -> None:
    """Some take GET alone."""
    switch = Switch(only_get=True)
    render(tmp_path, switch.url)
    assert [(method, path) for method, path, _ in switch.asked][-1] == ("GET", f"/{SECRET}")
    switch.http.shutdown()
    switch.http.server_close()


def test_a_dead_one_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody there, one that says 404, one that never answers: a warning each, without the address, and no delay."""
    monkeypatch.setattr(ping, "_AGAIN_S", 0.0)
    monkeypatch.setattr(ping, "_PATIENCE_S", 1.0)
    monkeypatch.setattr(ping.Pinger.__init__, "__defaults__", (1.0,))
    gone = Switch(404)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        render(
            tmp_path, f"http://127.0.0.1:1/{SECRET}", gone.url, f"http://127.0.0.1:{silent.getsockname()[1]}/{SECRET}"
        )
        assert time.monotonic() - began < 20
    said = capsys.readouterr().err
    assert "warning: address 1 of --ping could not be reached: ConnectionRefusedError" in said
    assert "warning: address 2 of --ping could not be reached: HTTP 404" in said
    assert "warning: address 3 of --ping does not answer, and is not waited for" in said
    assert "1 rendered" in said
    assert SECRET not in said
    gone.http.shutdown()
    gone.http.server_close()


@pytest.mark.parametrize(
    "url",
    ["", "hc-ping.com/x", "ftp://a/b", "http://", "http://a b/c", "file:///etc/passwd", "http://[", "http://a:99999"],
)
def test_what_is_no_address_is_refused_before_anything(tmp_path: Path, url: str) -> None:
    """And is not said."""
    with pytest.raises(UsageError, match="address 1 of --ping is none"):
        render(tmp_path, url)
    assert not any(tmp_path.iterdir())


def test_addresses_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those stay out of the process list, and out of the children's environment."""
    monkeypatch.setenv(ping.PING_VARIABLE, "http://a/1 http://b/2")
    assert ping.ping_addresses(["http://c/3"]) == ["http://c/3", "http://a/1", "http://b/2"]
    assert ping.ping_addresses([]) == []
