"""The page while a run is on: what is served, to whom, and what a browser makes of the news."""

from __future__ import annotations

import contextlib
import dataclasses
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from renderer.errors import UsageError
from renderer.manifest.manifest import Manifest
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import JournalEntry
from renderer.outputs.status import InFlight, RunStatus, StatusFile
from renderer.planning.plan import make_plan
from renderer.report import page as report
from renderer.report.gallery import CORE_SHARE, Change, Gallery
from renderer.report.server import _MAX_CONNECTIONS, Server
from renderer.system.files import write_whole
from tests import driving, tools
from tests.making import make_manifest
from tests.nights import make_night

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 11, 21, 5, 0, tzinfo=UTC)
PROMPTS = [f"picture {number}" for number in range(4)]


class Night:
    """A run that does what the test says: its folder is locked, and pictures come when they are told to."""

    def __init__(self, outputs: Path, held: ExitStack, prompts: list[str] = PROMPTS) -> None:
        self.outputs = outputs
        self.manifest = make_manifest(prompts)
        self.folder = OutputFolder(outputs / "test")
        self._held = held
        self._run = ExitStack()

    def begin(self) -> None:
        self._held.enter_context(self._run)
        self._run.enter_context(self.folder.locked())
        self.stand()

    def stand(self, *flying: tuple[str, int], done: int = 0) -> None:
        in_flight = tuple(InFlight(id=key, step=step, steps=8, attempt=1, since=NOW) for key, step in flying)
        StatusFile(self.folder).post(
            RunStatus(
                name="test", phase="rendering", began_at=NOW, at=datetime.now(UTC), pid=1,
                to_render=4, done=done, failed=0, in_flight=in_flight,
            )
        )  # fmt: skip

    def write(self, what: Any, name: str, message: str = "") -> None:
        plan = make_plan(self.manifest, self.outputs)
        (item,) = (item for item in plan.items if item.picture.id == name)
        plan.journal.write(what, name, item.fingerprint, message)

    def finish(self, name: str) -> None:
        make_night(self.manifest, self.outputs, without=[one.id for one in self.manifest.pictures if one.id != name])
        self.write("done", name)

    def end(self) -> None:
        StatusFile(self.folder).take_down()
        self._run.close()


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def night(tmp_path: Path, held: ExitStack) -> Night:
    return Night(tmp_path, held)


@pytest.fixture
def server(night: Night, held: ExitStack) -> Server:
    return held.enter_context(Server([Gallery(night.manifest, night.outputs)]))


def ask(server: Server, path: str, host: str = "", method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """An answer to a request that is sent as it stands, without a browser's tidying."""
    port = int(server.urls[0].split(":")[2].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


class TestServing:
    def test_what_the_page_needs_is_there(self, night: Night, server: Server) -> None:
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

    def test_nothing_else_is(self, night: Night, held: ExitStack) -> None:
        """No listing, no log, no sidecar, no file above, no name in another spelling."""
        night.begin()
        night.finish("p000")
        (night.folder.path / "worker.log").write_text("secret")
        server = held.enter_context(Server([Gallery(night.manifest, night.outputs)]))
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
        server = held.enter_context(Server([Gallery(manifest, outputs)]))
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
    def test_other_names_are_turned_away(self, server: Server, host: str) -> None:
        """A site whose name is pointed at 127.0.0.1 gets nothing, not even the page (DNS rebinding)."""
        status, _, body = ask(server, "/test/", host)
        assert (status, body) == (421, b"Misdirected Request\n")

    @pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1:1", "localhost", "LOCALHOST:9000", "[::1]:9000"])
    def test_a_tunnel_has_a_port_of_its_own(self, server: Server, host: str) -> None:
        """`ssh -L 9000:127.0.0.1:PORT`: the browser asks for localhost:9000, and is shown the page."""
        assert ask(server, "/test/", host)[0] == 200

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
    def test_other_users_of_this_machine_are_turned_away(self, server: Server) -> None:
        """Whoever else has a login here is told that the page is not theirs; by IPv4 and by IPv6's way of it."""
        for family, address in (("AF_INET", "127.0.0.1"), ("AF_INET6", "::ffff:127.0.0.1")):
            program = (
                "import os, socket, sys; os.setuid(int(sys.argv[1]))\n"  # first the imports: root's Python is root's
                f"asking = socket.socket(socket.{family}); asking.connect(({address!r}, {server._http.server_port}))\n"
                "asking.sendall(b'GET /test/ HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n')\n"
                "os.write(1, asking.makefile('rb').read())"
            )
            for user, status in ((65534, "403"), (0, "200")):
                command = [sys.executable, "-c", program, str(user)]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                assert said.split()[1] == status
                assert ("picture 3" in said) == (status == "200")

    def test_only_this_machine_is_served(self, server: Server) -> None:
        """It is bound to 127.0.0.1, and other methods than reading are unknown."""
        assert server._http.server_address[0] == "127.0.0.1"
        assert ask(server, "/test/", method="POST")[0] == 501

    def test_a_port_that_is_taken_is_said(self, night: Night, server: Server) -> None:
        """The number is named, and what helps."""
        port = server._http.server_port
        with pytest.raises(UsageError, match=f"cannot serve on port {port}"):
            Server([Gallery(night.manifest, night.outputs)], port)

    def test_clients_that_vanish_do_no_harm(self, night: Night, server: Server) -> None:
        """Forty who connect and leave, in the middle of a request or of the events; the page is still served."""
        night.begin()
        address = ("127.0.0.1", server._http.server_port)
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
            return server._http._busy == 0

        until(nobody_is_served)

    def test_who_holds_all_places_keeps_out_nobody_for_good(self, server: Server) -> None:
        """More connections than there are places are let go; when the others have gone, the page is served."""
        address = ("127.0.0.1", server._http.server_port)
        with ExitStack() as clients:
            for _ in range(_MAX_CONNECTIONS):
                clients.enter_context(socket.create_connection(address))
            with socket.create_connection(address, timeout=10) as late:
                late.sendall(b"GET /test/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
                with suppress(ConnectionError):
                    assert late.recv(10) == b""

        def is_served() -> bool:
            with suppress(OSError, http.client.HTTPException):
                return ask(server, "/test/")[0] == 200
            return False

        until(is_served)

    def test_whatever_goes_wrong_in_it_the_server_goes_on(
        self, night: Night, server: Server, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
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
        with Server([Gallery(night.manifest, night.outputs)]) as server:
            client = http.client.HTTPConnection("127.0.0.1", server._http.server_port, timeout=20)
            client.request("GET", "/test/events?since=x")
            answer = client.getresponse()
            assert b"stale" in answer.fp.readline() + answer.fp.readline()
            began = time.monotonic()
        assert time.monotonic() - began < 6
        assert b'"closed": true' in answer.read()


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so, a minute at most."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def changed(gallery: Gallery, mark: str) -> Change:
    found = gallery.since(mark, 0.01)
    assert found is not None
    return found


class TestGallery:
    def test_only_what_has_changed_is_told(self, night: Night) -> None:
        """The pictures that came since a mark, and no others; nothing when nothing came."""
        gallery = Gallery(night.manifest, night.outputs)
        mark = f"{gallery._epoch}-0"
        assert gallery.since(mark, 0.01) is None
        night.begin()
        gallery.follow()
        first = changed(gallery, mark).mark
        night.finish("p001")
        night.write("failed", "p002", "one flat colour")
        gallery.follow()
        change = changed(gallery, first)
        news = json.loads(change.text)
        assert [(position, one["state"]) for position, one in news["pictures"]] == [(1, "done"), (2, "failed")]
        assert news["counts"] == "1 done, 1 failed, 2 to do"
        assert gallery.since(change.mark, 0.01) is None
        again = json.loads(changed(gallery, mark).text)
        assert [position for position, _ in again["pictures"]] == [1, 2]

    def test_a_folder_that_is_not_there_yet_is_no_trouble(self, night: Night) -> None:
        """The page may be opened before the run that makes the folder; nothing is written for it."""
        gallery = Gallery(night.manifest, night.outputs / "later")
        gallery.follow()
        assert b"picture 3" in gallery.html()
        assert not (night.outputs / "later").exists()

    def test_a_picture_that_came_without_a_word_is_found(self, night: Night) -> None:
        """One that was written or written anew from outside is there at the end of the batch, without the journal."""
        make_night(night.manifest, night.outputs, without=["p001"])
        gallery = Gallery(night.manifest, night.outputs)
        night.begin()
        gallery.follow()
        mark = changed(gallery, f"{gallery._epoch}-0").mark
        make_night(night.manifest, night.outputs, without=["p000", "p002", "p003"])
        night.end()
        gallery.follow()
        assert [position for position, _ in json.loads(changed(gallery, mark).text)["pictures"]] == [1]

    def test_a_journal_that_was_written_anew_is_read_anew(self, night: Night) -> None:
        """What a shortened journal no longer holds against a picture is forgotten; what it says now is told."""
        gallery = Gallery(night.manifest, night.outputs)
        night.begin()
        for _ in range(5):
            night.write("failed", "p000", "once")
        gallery.follow()
        lines = night.folder.journal.read_bytes().splitlines(keepends=True)
        write_whole(night.folder.journal, lines[0].replace(b"once", b"twice"))
        gallery.follow()
        assert gallery._pictures[0]["note"] == "twice"

    def test_pictures_of_the_same_bytes_share_a_thumbnail(self, tmp_path: Path) -> None:
        """When one of them is rendered anew, the other's is still served."""
        manifest = make_manifest(PROMPTS)
        make_night(manifest, tmp_path, same_picture=True)
        gallery = Gallery(manifest, tmp_path)
        thumb = gallery._pictures[0]["thumb"]
        (tmp_path / "test/p000.json").unlink()
        gallery._take(gallery._look_at([0]), None, another=False)
        found = gallery.file(thumb)
        assert found is not None
        assert found.path.is_file()
        assert gallery.file("p000.png") is None

    def test_thousands_cost_a_hundredth_of_a_core(self, tmp_path: Path, held: ExitStack) -> None:
        """A night's journal of twenty thousand lines: one picture more is found by reading what is new, and no more.

        What is read is counted, not timed: a look reads the journal's new lines and one sidecar, names are looked up
        and not searched for, and the page, which takes a second, is drawn once for all who ask in the next minute.
        """
        night = Night(tmp_path, held, [f"picture {number}" for number in range(6000)])
        make_night(night.manifest, tmp_path, without=["p4000"], same_picture=True)
        entry = JournalEntry(at=NOW, what="attempt", id="p001", fingerprint=f"{1:064x}").model_dump_json()
        night.folder.journal.write_text(f"{entry}\n" * 20_000)
        gallery = Gallery(night.manifest, tmp_path)
        night.begin()
        gallery.follow()
        plan = gallery._plan
        first = gallery.html()
        spent = time.thread_time()
        gallery.follow()
        nothing_new_s = time.thread_time() - spent
        picture = night.manifest.pictures[4000]
        make_night(dataclasses.replace(night.manifest, pictures=(picture,)), tmp_path)
        plan.journal.write("done", picture.id, plan.items[4000].fingerprint)
        with counted() as opened:
            gallery.follow()
        assert sorted(path.name for path in opened) == [".lock", "journal.jsonl", "p4000.json", "running.json"]
        assert [position for _, position in gallery._changes] == [4000]
        assert gallery.html() is first
        thumb = gallery._pictures[4000]["thumb"]
        gallery.file(thumb)
        spent = time.thread_time()
        for _ in range(100):
            gallery.file("p4000.png"), gallery.file(thumb), gallery.since(f"{gallery._epoch}-1", None)
        took_s = (time.thread_time() - spent) / 100 + nothing_new_s
        assert took_s < 0.5 * CORE_SHARE  # a look every half second


@contextlib.contextmanager
def counted() -> Iterator[list[Path]]:
    """The files that this thread opens to read, as the interpreter's own audit tells of them."""
    opened: list[Path] = []
    me, active = threading.get_ident(), [True]

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if (
            active[0]
            and event == "open"
            and threading.get_ident() == me
            and isinstance(arguments[0], str | os.PathLike)
        ):
            opened.append(Path(arguments[0]))

    sys.addaudithook(hear)
    try:
        yield opened
    finally:
        active[0] = False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=tools.CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


class Watched:
    """A served page that may say nothing on the console, and ask nobody but its server."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.context = browser.new_context(viewport={"width": 800, "height": 500})
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.trouble: list[str] = []
        root = url.rpartition("/test")[0] or url
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on(
            "request",
            lambda asked: None if asked.url.startswith((root, "data:,")) else self.trouble.append(asked.url),
        )
        self.page.goto(url)

    def state(self, name: str) -> str:
        """What a card shows, looked at in one go: it may change between two looks."""
        found: str = self.page.evaluate(
            """(name) => {
                const card = [...document.querySelectorAll(".card")].find(
                    (one) => one.querySelector(".name").textContent === name);
                return card.querySelector("img") ? "done" : card.querySelector(".missing").textContent;
            }""",
            name,
        )
        return found

    def wait(self, name: str, state: str) -> None:
        until = time.monotonic() + 60
        while self.state(name) != state:
            assert time.monotonic() < until, f"{name} is {self.state(name)}, not {state}"
            time.sleep(0.05)

    def until(self, true: str) -> None:
        """Wait for an expression. Playwright's own way evaluates in the page, which its policy forbids."""
        until = time.monotonic() + 60
        while not self.page.evaluate(true):
            assert time.monotonic() < until, true
            time.sleep(0.05)

    def close(self) -> None:
        self.context.close()
        assert self.trouble == []


@tools.needs("chromium")
class TestBrowser:
    def test_the_page_changes_in_place(self, browser: Browser, night: Night, server: Server) -> None:
        """Steps count, pictures and failures appear; filter, scroll, focus and the large view stay as they were."""
        watched = Watched(browser, server.urls[0])
        page = watched.page
        assert page.inner_text("#counts") == "4 to do"
        watched.until("document.getElementById('live').textContent.trim() === 'No run is on.'")
        night.begin()
        night.stand(("p000", 3), ("p002", 1))
        watched.wait("p000", "step 3 of 8")
        assert "2 in flight, furthest p000 at step 3 of 8" in page.inner_text("#live")
        page.fill("#text", "picture")
        page.click(".open >> text=p001")
        page.mouse.wheel(0, 100)
        night.finish("p001")
        watched.until("document.getElementById('view-image').naturalWidth > 0")
        assert page.inner_text("#view-title") == "p001"
        page.keyboard.press("Escape")
        watched.until("document.activeElement.textContent.includes('p001')")  # where the large view gives it back
        page.locator(".open").nth(2).focus()
        top = page.evaluate("scrollY")
        night.write("failed", "p002", "one flat colour <b>")
        night.stand(("p000", 5), done=1)
        watched.wait("p002", "failed")
        assert page.evaluate("document.activeElement.querySelector('.name').textContent") == "p002"
        assert (page.input_value("#text"), page.evaluate("scrollY")) == ("picture", top)
        assert page.inner_text("#counts") == "1 done, 1 failed, 2 to do"
        assert page.locator("#state option").all_inner_texts() == ["all", "to do", "done", "failed"]
        watched.until("document.getElementById('happened').textContent.includes('one flat colour <b>')")
        page.select_option("#sort", "seconds")
        night.finish("p003")
        watched.wait("p003", "done")
        night.end()
        watched.until("document.getElementById('live').textContent.trim() === 'No run is on.'")
        watched.close()

    def test_a_page_from_disk_asks_nobody(self, browser: Browser, night: Night) -> None:
        """What is written into the folder has no line about a run, and no connection is opened."""
        make_night(night.manifest, night.outputs)
        watched = Watched(browser, report.write(make_plan(night.manifest, night.outputs)).as_uri())
        assert watched.page.locator("#live").count() == 0
        assert watched.page.evaluate(
            "performance.getEntriesByType('resource').every((one) => !one.name.includes('events'))"
        )
        watched.close()

    def test_a_real_run_is_watched_from_its_first_second(self, browser: Browser, tmp_path: Path) -> None:
        """`render --live`: opened before there is a picture, the page sees each one come, and how it ended."""
        path = tmp_path / "test.yaml"
        path.write_text(
            "defaults: {model: demo, size: 128x128, steps: 10, precision: bf16}\n"
            "jobs: [{id: a, prompt: a red circle, seeds: [1, 2, 3]}]\n"
        )
        run = subprocess.Popen(
            [sys.executable, "-m", "renderer", "render", path.name, "--live", "--log-format", "json"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert run.stderr is not None
            serving = json.loads(run.stderr.readline())
            assert serving["event"] == "serving"
            watched = Watched(browser, serving["url"])
            assert watched.state("a-s1") == "to do"
            for name in ("a-s1", "a-s2", "a-s3"):
                watched.wait(name, "done")
            watched.until("document.getElementById('live').textContent.includes('how it ended')")
            assert watched.page.inner_text("#counts") == "3 done"
            watched.until("[...document.querySelectorAll('.card img')].every((each) => each.naturalWidth)")
            watched.close()
            assert run.wait(20) == 0
        finally:
            with suppress(ProcessLookupError):
                run.kill()
            run.wait(10)


def test_a_port_that_is_taken_is_a_warning(tmp_path: Path) -> None:
    """`render --live --port N` beside somebody who has N: that is said, the page is elsewhere, the night goes on."""
    manifest = driving.write_manifest(tmp_path, "a")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = driving.start("render", manifest, "--live", "--port", str(port), cwd=tmp_path, stderr=subprocess.PIPE)
        said = run.communicate(timeout=60)[1].decode()
    assert run.returncode == 0, said
    assert f"cannot serve on port {port}: Address already in use; the page is served on another one" in said
    assert "http://127.0.0.1:" in said
    assert driving.pictures(tmp_path) == ["001.png"]


def test_report_watch_ends_with_ctrl_c(tmp_path: Path) -> None:
    """`report --watch` needs no run: it says where the page is, serves it, and leaves when asked to."""
    (tmp_path / "test.yaml").write_text("jobs: [{prompt: a, model: demo, size: 64x64}]\n")
    command = [sys.executable, "-m", "renderer", "report", "test.yaml", "--watch"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
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
