"""Messages to people: to a real local server through the real Apprise, to nobody, and to one who does not answer."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from renderer.cli import attended, command
from renderer.cli.manifests import Loaded
from renderer.cli.notify import Notifier, addresses
from renderer.errors import DiskError, Problem, UsageError
from renderer.outputs import picks
from renderer.outputs.folder import OutputFolder
from renderer.outputs.summary import DeviceCounts, Failure
from renderer.planning.plan import make_plan
from renderer.supervisor import events, run
from renderer.supervisor.settings import Settings, StopRequests
from renderer.text import installing
from tests.cli.test_console import summary
from tests.fakes import InlineWorker
from tests.making import make_manifest

pytest.importorskip("apprise", reason="Apprise is not installed")

SECRET = "s3cret-token"  # noqa: S105


class Postbox:
    """A server that keeps what is posted to it."""

    def __init__(self) -> None:
        self.letters: list[dict[str, str]] = []
        self.takes_pictures = True
        box = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                letter = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                takes = box.takes_pictures or not letter.get("attachments")
                if takes:
                    box.letters.append(letter)
                self.send_response(200 if takes else 413)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://user:{SECRET}@127.0.0.1:{self.http.server_port}/{SECRET}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def postbox() -> Iterator[Postbox]:
    found = Postbox()
    yield found
    found.http.shutdown()
    found.http.server_close()


def render(outputs: Path, prompts: list[str], *urls: str, patience_s: float = 20.0) -> list[events.Event]:
    """A run with these addresses, and what its watcher heard."""
    heard: list[events.Event] = []
    notifier = Notifier(urls, patience_s)
    watchers = events.Watchers()
    watchers.add("the test", heard.append)
    watchers.add("--notify", notifier.watch)
    notifier.complain_to(watchers)
    settings = Settings(outputs=outputs, hire=InlineWorker, retries=1)
    run.render([make_manifest(prompts)], settings, watchers, StopRequests())
    notifier.end(None)
    return heard


def warnings(heard: list[events.Event]) -> list[str]:
    return [what.text for what in heard if isinstance(what, events.Remark)]


def test_the_first_failure_and_the_end_are_told(tmp_path: Path, postbox: Postbox) -> None:
    """One message at the first failure, though four come; one at the end with counts, rate, and what failed."""
    assert warnings(render(tmp_path, ["a", "fail", "fail <b>"], postbox.url)) == []
    first, last = postbox.letters
    assert first["title"] == "renderer: the first failure, in jobs/test.yaml"
    assert first["message"] == "p001 failed: one flat colour; it will be tried again"
    assert last["title"] == "renderer: 1 rendered, 2 failed"
    assert last["message"].startswith("test: 1 rendered, 0 already done, 2 failed, 0 left of 3, in ")
    assert "pictures an hour" in last["message"]
    assert "failed: p002: one flat colour" in last["message"]
    assert (first["type"], last["type"]) == ("failure", "failure")


def sheet_of(postbox: Postbox) -> Image.Image:
    """What the last letter brings."""
    sheets: Any = postbox.letters[-1]["attachments"]
    (sheet,) = sheets
    image = Image.open(io.BytesIO(base64.b64decode(sheet["base64"])))
    assert (image.format, sheet["filename"]) == ("JPEG", "contact-sheet.jpg")
    return image


def test_the_last_one_brings_the_best(tmp_path: Path, postbox: Postbox) -> None:
    """One picture of each job that was rendered, or of those with stars; none of what was there before."""
    render(tmp_path, ["a", "b"], postbox.url)
    two = sheet_of(postbox).width
    manifest = make_manifest(("c", "d"))
    items = make_plan(manifest, tmp_path).items
    picks.mark(OutputFolder(tmp_path / "test"), {items[1].fingerprint: 4})
    render(tmp_path, ["c", "d"], postbox.url)
    assert sheet_of(postbox).width < two
    render(tmp_path, ["c", "d"], postbox.url)
    assert not postbox.letters[-1].get("attachments")


def test_a_good_night_is_one_message(tmp_path: Path, postbox: Postbox) -> None:
    """Without failures there is only the end, and it is good news."""
    render(tmp_path, ["a", "b"], postbox.url, postbox.url)
    assert [letter["title"] for letter in postbox.letters] == ["renderer: 2 rendered, 0 failed"] * 2
    assert postbox.letters[0]["type"] == "success"


def test_a_run_that_has_to_end_says_why(postbox: Postbox) -> None:
    """A full disk at three in the morning is told with what helps."""
    notifier = Notifier([postbox.url])
    notifier.end(DiskError("cannot write p.png: no space", hint="free some space"))
    (letter,) = postbox.letters
    assert letter["title"] == "renderer: 0 rendered, 0 failed, and then it had to end"
    assert letter["message"] == "cannot write p.png: no space (free some space)"


def test_a_fault_of_our_own_is_told_too(tmp_path: Path, postbox: Postbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends a night, somebody hears of it."""
    monkeypatch.setattr(run, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        attended.render(Loaded((make_manifest(),)), Settings(outputs=tmp_path), notify=[postbox.url])
    (letter,) = postbox.letters
    assert letter["title"] == "renderer: 0 rendered, 0 failed, and then it had to end"
    assert letter["message"] == "a fault of the renderer's own: ZeroDivisionError: division by zero"
    assert letter["type"] == "failure"


def test_without_room_for_a_contact_sheet_the_message_goes_all_the_same(
    tmp_path: Path, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full takes no file: the morning's message says so, and the run ends as it would."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    heard = render(tmp_path, ["a"], postbox.url)
    assert [what.startswith("the message goes without its contact sheet: ") for what in warnings(heard)] == [True]
    assert postbox.letters[0]["title"] == "renderer: 1 rendered, 0 failed"


def test_a_picture_that_is_too_large_for_somebody_keeps_no_message_back(tmp_path: Path, postbox: Postbox) -> None:
    """It is sent once more, without."""
    postbox.takes_pictures = False
    assert warnings(render(tmp_path, ["a"], postbox.url)) == []
    (letter,) = postbox.letters
    assert letter["title"] == "renderer: 1 rendered, 0 failed"


def test_what_was_not_tried_is_not_there_either(postbox: Postbox) -> None:
    """Refused by this machine, or set aside: bad news, and counted with what failed."""
    notifier = Notifier([postbox.url])
    notifier.watch(events.BatchEnded(summary(failed=0, failures=(), refused=2, set_aside=3)))
    notifier.end(None)
    assert postbox.letters[0]["title"].endswith("5 failed")
    assert postbox.letters[0]["type"] == "failure"


@pytest.mark.parametrize(
    ("ending", "kind"),
    [("deadline", "success"), ("complete", "success"), ("signal", "failure"), ("failures", "failure")],
)
def test_a_night_that_ends_when_it_should_is_good_news(postbox: Postbox, ending: str, kind: str) -> None:
    """The time is up, as every morning; it goes on the next night."""
    notifier = Notifier([postbox.url])
    notifier.watch(events.BatchEnded(summary(ending=ending, failed=0, failures=(), left=7)))
    notifier.end(None)
    assert postbox.letters[0]["type"] == kind


def test_a_manifest_that_was_not_rendered_is_bad_news(postbox: Postbox) -> None:
    """The others are all there; what is wrong with this one is said."""
    notifier = Notifier([postbox.url])
    notifier.watch(events.ManifestProblem(Problem("a.yaml", 1, 20, "jobs[0].stpes", "unknown key")))
    notifier.watch(events.BatchEnded(summary(failed=0, failures=())))
    notifier.end(None)
    assert "not rendered: a.yaml:1:20 jobs[0].stpes: unknown key" in postbox.letters[0]["message"]
    assert postbox.letters[0]["type"] == "failure"


def test_a_warning_is_no_news(postbox: Postbox) -> None:
    """A manifest that is rendered, and holds what was hardly meant, makes no bad night."""
    notifier = Notifier([postbox.url])
    notifier.watch(events.ManifestProblem(Problem("a.yaml", 1, 20, "jobs[0]", "is read as text", warning=True)))
    notifier.watch(events.BatchEnded(summary(failed=0, failures=())))
    notifier.end(None)
    assert "a.yaml:1:20" not in postbox.letters[0]["message"]
    assert postbox.letters[0]["type"] == "success"


def test_a_card_that_falls_away_is_told_at_once(postbox: Postbox) -> None:
    """The first of them, and in the last message, though all pictures are there."""
    notifier = Notifier([postbox.url])
    for where in ("GPU 1", "GPU 2"):
        notifier.watch(events.DeviceLeft(f"{where} is left out: 3 workers in a row were lost there", where))
    out = DeviceCounts(
        where="GPU 1", card="A card (5d3f6c1e)", rendered=3, left_out="3 workers in a row were lost there"
    )
    notifier.watch(events.BatchEnded(summary(failed=0, failures=(), devices=(out,))))
    notifier.end(None)
    first, last = postbox.letters
    assert (first["title"], first["type"]) == ("renderer: GPU 1 is left out", "failure")
    assert last["title"].endswith("0 failed, GPU 1 left out")
    assert last["type"] == "failure"
    assert "GPU 1, A card (5d3f6c1e): 3 rendered; it was left out: 3 workers in a row" in last["message"]


@pytest.mark.parametrize(
    ("count", "lines", "more"), [(20, 21, ""), (21, 22, "  and 1 failure more"), (100, 22, "  and 80 failures more")]
)
def test_a_message_is_not_endless(postbox: Postbox, count: int, lines: int, more: str) -> None:
    """Of a hundred failures twenty are named."""
    failures = tuple(Failure(id=f"p{number}", message="no") for number in range(count))
    notifier = Notifier([postbox.url])
    notifier.watch(events.BatchEnded(summary(failures=failures)))
    notifier.end(None)
    found = postbox.letters[0]["message"].splitlines()
    assert len(found) == lines
    assert found[-1] == more or not more


def test_a_target_that_is_not_there_is_a_warning(
    tmp_path: Path, postbox: Postbox, caplog: pytest.LogCaptureFixture
) -> None:
    """The batch is rendered, the other address is told, and nobody reads the secrets of the first."""
    heard = render(tmp_path, ["a"], f"json://user:{SECRET}@127.0.0.1:1/{SECRET}", postbox.url)
    assert warnings(heard) == ["address 1 of --notify could not be notified"]
    assert len(postbox.letters) == 1
    assert SECRET not in caplog.text
    assert SECRET not in "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())


def test_a_target_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    """One that takes the connection and says nothing: rendering goes on at once, and the end waits only so long."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"json://127.0.0.1:{silent.getsockname()[1]}/?rto=60&cto=60"
        began = time.monotonic()
        heard = render(tmp_path, ["fail", "b", "c"], url, patience_s=0.5)
        assert time.monotonic() - began < 30
    assert warnings(heard) == ["address 1 of --notify does not answer, and is not waited for"]
    assert [what.summary.rendered for what in heard if isinstance(what, events.BatchEnded)] == [2]


def test_what_is_no_address_is_refused_without_being_repeated() -> None:
    """The number says which one; the address itself may hold a password."""
    with pytest.raises(UsageError) as refused:
        Notifier(["json://127.0.0.1", f"nonsense://{SECRET}"])
    assert str(refused.value).startswith("address 2 of --notify is none that Apprise knows")
    assert SECRET not in str(refused.value) + refused.value.hint


def test_without_the_extra_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--notify` without Apprise ends with 3 and the line that installs it, before anything is rendered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "apprise", None)
    Path("night.yaml").write_text("jobs: [{prompt: a, model: demo, size: 64x64}]\n")
    assert command.main(["render", "night.yaml", "--notify", f"json://{SECRET}"]) == 3
    said = capsys.readouterr().err
    assert installing("notify") in said
    assert SECRET not in said
    assert not Path("outputs").exists()


def test_the_environment_s_addresses_are_for_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """RENDERER_NOTIFY holds addresses between spaces; processes that are started later do not see it."""
    monkeypatch.setenv("RENDERER_NOTIFY", " json://a\n json://b ")
    assert addresses(["json://c"]) == ["json://c", "json://a", "json://b"]
    assert "RENDERER_NOTIFY" not in os.environ
    assert addresses([]) == []
