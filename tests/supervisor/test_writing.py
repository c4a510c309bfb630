"""Pictures are encoded and written beside the loop: it goes on meanwhile, and every promise holds as before."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from renderer import protocol
from renderer.errors import DiskError
from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files
from renderer.outputs.encode import Labels, Pixels, encode
from renderer.outputs.summary import Summary
from renderer.planning.plan import make_plan
from renderer.supervisor import events, results, run, writing
from renderer.supervisor.holdings import Silence
from renderer.supervisor.settings import StopRequests
from renderer.supervisor.together import Together
from renderer.supervisor.worker import Heard
from renderer.supervisor.writing import Writing
from renderer.system import files
from tests.fakes import Behaviour, InlineWorker
from tests.making import make_manifest, make_picture
from tests.supervisor.running import FAKE, Night, counts, journal_open

PATIENCE_S = 20.0
OF_EIGHT = functools.partial(InlineWorker, behaviour=Behaviour(capacity=8))


class Gate:
    """Encoding stands still until it is opened; `entered` are the pictures, by their first bytes, that came to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.entered: list[bytes] = []
        self.waited_in_vain = False
        monkeypatch.setattr(picture_files, "encode", self._encode)

    def _encode(self, pixels: Pixels, file_format: str, labels: Labels) -> bytes:
        assert file_format == "png"
        self.entered.append(pixels.rgb[:8])
        self.waited_in_vain |= not self.opened.wait(PATIENCE_S)
        return encode(pixels, "png", labels)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """For a run on two cores: two are encoded at once, and four wait at most."""
    monkeypatch.setattr(writing, "cores", lambda: 2)
    return Gate(monkeypatch)


def told(future: Future[str], to: list[str]) -> None:
    to.append("given up" if future.cancelled() else future.result())


class TestThreads:
    """The threads alone, with functions that write nothing."""

    def test_two_of_one_name_keep_their_order(self) -> None:
        """The second waits for the first, however many threads are free; another name does not."""
        gate, went, heard = threading.Event(), [], list[str]()

        def first() -> str:
            gate.wait(PATIENCE_S)
            went.append("first")
            return "first"

        def second() -> str:
            went.append("second")
            return "second"

        def other() -> str:
            went.append("other")
            gate.set()
            return "other"

        with Writing(threads=3) as threads:
            for name, write in (("night/p", first), ("night/P", second), ("q", other)):
                threads.begin(name, write, functools.partial(told, to=heard))
            threads.finish(lambda: False)
        assert went == ["other", "first", "second"]
        assert sorted(heard) == ["first", "other", "second"]

    def test_nobody_hears_before_the_loop_asks(self) -> None:
        """What follows is told on the loop's own thread, one at a time."""
        heard: list[threading.Thread] = []
        with Writing(threads=2) as threads:
            for name in ("a", "b"):
                threads.begin(name, lambda: None, lambda _: heard.append(threading.current_thread()))
            wait(threads._going, PATIENCE_S)
            assert not heard
            threads.tend()
            assert len(heard) == 1
            threads.finish(lambda: False)
        assert heard == [threading.main_thread()] * 2

    def test_it_is_full_by_number_and_by_bytes(self) -> None:
        """Two a thread, or 256 MiB, whichever comes first; a picture of any size is taken where nothing waits."""
        gate = threading.Event()
        with Writing(threads=2) as threads:
            for number in range(4):
                assert not threads.is_full
                threads.begin(str(number), gate.wait, lambda _: None)
            assert threads.is_full
            gate.set()
            threads.finish(lambda: False)
            assert not threads.is_full
            threads.begin("large", gate.wait, lambda _: None, 2**28)
            assert threads.is_full

    def test_at_once_gives_up_what_no_thread_has_begun(self) -> None:
        """What one has begun is waited for and told."""
        gate, begun, heard = threading.Event(), threading.Event(), list[str]()

        def write() -> str:
            begun.set()
            gate.wait(PATIENCE_S)
            return "written"

        def at_once() -> bool:
            gate.set()
            return True

        with Writing(threads=1) as threads:
            for number in range(3):
                threads.begin(str(number), write, functools.partial(told, to=heard))
            begun.wait(PATIENCE_S)
            threads.finish(at_once)
            assert len(threads) == 0
        assert sorted(heard) == ["given up", "given up", "written"]

    def test_an_error_is_raised_when_all_have_been_told(self) -> None:
        """The first one; what no thread had begun is given up."""
        gate, heard = threading.Event(), list[str]()

        def tell(future: Future[bool]) -> None:
            heard.append("given up" if future.cancelled() else "told")
            raise DiskError("full")

        with Writing(threads=1) as threads:
            for number in range(3):
                threads.begin(str(number), gate.wait, tell)
            gate.set()
            with pytest.raises(DiskError, match="full"):
                threads.finish(lambda: False)
            assert len(threads) == 0
        assert len(heard) == 3


class TestBesideTheLoop:
    def test_the_next_is_rendered_while_one_is_encoded(self, night: Night, gate: Gate) -> None:
        """The worker, which takes one at a time, has had three, and none of them is written."""
        began: list[str] = []

        def watch(what: events.Event) -> None:
            if isinstance(what, events.PictureBegan):
                began.append(what.item.picture.id)
                if len(began) == 3:
                    assert not list(night.folder(make_manifest()).path.glob("p*"))
                    gate.opened.set()

        (summary,) = run.render([make_manifest()], night.settings, watch, StopRequests())
        assert counts(summary) == (3, 0, 0, 0)
        assert not gate.waited_in_vain

    def test_done_is_told_when_it_is_on_the_disk(self, night: Night) -> None:
        """Journal, count and event come after the sidecar, and the attempt before the worker."""
        manifest = make_manifest([f"picture {number}" for number in range(12)])
        folder = night.folder(manifest)

        def watch(what: events.Event) -> None:
            lines = folder.journal.read_text().splitlines() if folder.journal.exists() else []
            done = sum('"done"' in line for line in lines)
            assert done <= len(list(folder.path.glob("p*.json")))
            if isinstance(what, events.PictureDone):
                output = what.item.picture.output
                assert folder.picture(output).exists()
                assert picture_files.read_sidecar(folder.sidecar(output)) == what.sidecar
                assert any('"done"' in line and f'"{output}"' in line for line in lines)
            elif isinstance(what, events.PictureBegan):
                assert any('"attempt"' in line and f'"{what.item.picture.id}"' in line for line in lines)
            elif isinstance(what, events.Tick) and what.status:
                assert what.status.done == done

        (summary,) = run.render([manifest], night.settings, watch, StopRequests())
        assert counts(summary) == (12, 0, 0, 0)

    def test_no_more_is_taken_than_may_wait(self, night: Night, gate: Gate) -> None:
        """Four wait. The loop beats, and a worker that nobody listens to meanwhile is not taken for stuck."""
        heard, most = 0, 0

        class Quiet(InlineWorker):
            """Says the rest only when it has been listened to for a while."""

            silent = 3

            def hear(self, timeout_s: float) -> Heard | None:
                nonlocal heard, most
                if heard == 4 and self.silent:
                    self.silent -= 1
                    time.sleep(0.05)
                    return None
                what = super().hear(timeout_s)
                heard += what is not None and isinstance(what[0], protocol.Rendered)
                if not gate.opened.is_set():
                    most = max(most, heard)
                return what

        ticks = 0

        def watch(what: events.Event) -> None:
            nonlocal ticks
            night.heard.append(what)
            ticks += isinstance(what, events.Tick) and heard == 4
            if ticks == 5:
                gate.opened.set()

        def hire(log: Path) -> Quiet:
            return Quiet(log, Behaviour(capacity=8))

        summary = render(night, make_manifest(["a"] * 10), watch, hire=hire, stuck_after_s=0.6)
        assert counts(summary) == (10, 0, 0, 0)
        assert not night.of(events.WorkerLost)
        assert most == 4
        assert not gate.waited_in_vain

    def test_twins_are_copied_beside_the_loop_after_their_original(
        self, night: Night, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each from a picture that is whole, on another thread than the loop's."""
        names = ("copy", "another", "third")
        twins = (make_picture(0, output=name).model_copy(update={"id": name}) for name in names)
        manifest = Manifest("jobs/test.yaml", "test", (make_picture(0), *twins))
        folder, real = night.folder(manifest), results.move
        places: list[threading.Thread] = []

        def move(*given: object, leaves: bool) -> object:
            assert folder.sidecar("p000").exists()
            places.append(threading.current_thread())
            return real(*given, leaves=leaves)  # type: ignore[arg-type]

        monkeypatch.setattr(results, "move", move)
        summary = night.render(manifest)
        assert (summary.rendered, summary.brought) == (1, 3)
        assert len(places) == 3
        assert threading.main_thread() not in places

    def test_before_a_deadline_nothing_unmeasured_begins_beside_what_is_written(self, night: Night, gate: Gate) -> None:
        """One picture tells how long the others will take, and has told when it is on the disk."""
        threading.Timer(0.5, gate.opened.set).start()
        began: list[int] = []

        def watch(what: events.Event) -> None:
            if isinstance(what, events.PictureBegan) and not gate.opened.is_set():
                began.append(1)

        summary = render(night, make_manifest(), watch, deadline=datetime.now(UTC) + timedelta(seconds=60))
        assert counts(summary) == (3, 0, 0, 0)
        assert len(began) == 1


class TestRows:
    """Failures in a row are counted as pictures come, not as they are written."""

    def rendered(self, night: Night, gate: Gate, *prompts: str) -> Summary:
        """Three failures in a row end it; nothing is written before three have failed."""

        def watch(what: events.Event) -> None:
            night.heard.append(what)
            if len(night.of(events.PictureFailed)) == 3:
                gate.opened.set()

        return render(night, make_manifest(prompts), watch, max_failures=3, retries=0)

    def test_a_success_between_them_breaks_the_row(self, night: Night, gate: Gate) -> None:
        """It had come before the second, so there were never three, and the run goes on."""
        summary = self.rendered(night, gate, "fail", "good", "fail", "fail", "better")
        assert (summary.ending, counts(summary)) == ("complete", (2, 0, 3, 0))

    def test_a_success_before_them_does_not(self, night: Night, gate: Gate) -> None:
        """Though it was told of after all three."""
        summary = self.rendered(night, gate, "good", "fail", "fail", "fail", "never")
        assert (summary.ending, counts(summary)) == ("failures", (1, 0, 3, 1))


class TestEnds:
    @pytest.mark.parametrize("requests", [1, 2])
    def test_a_signal_while_four_wait(self, night: Night, gate: Gate, requests: int) -> None:
        """Asked once, all that came is written. Asked twice, what threads have begun; the rest is left, as if new."""
        stop = StopRequests()
        manifest = make_manifest([f"picture {number}" for number in range(10)])

        def watch(what: events.Event) -> None:
            fourth = isinstance(what, events.PictureBegan) and what.item.picture.id == "p003"
            if fourth:  # the last whose turn is heard: then four wait
                threading.Timer(0.5, ask).start()

        def ask() -> None:
            stop.requests = requests
            threading.Timer(0.5, gate.opened.set).start()

        summary = render(night, manifest, watch, stop, hire=OF_EIGHT)
        assert summary.ending == "signal"
        assert summary.rendered == (4 if requests == 1 else 2)
        folder = night.folder(manifest).path
        assert len(list(folder.glob("p*.json"))) == len(list(folder.glob("p*.png"))) == summary.rendered
        assert journal_open(folder) == []
        assert counts(night.render(manifest))[:2] == (10 - summary.rendered, summary.rendered)

    def test_a_full_disk_leaves_nothing_half(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """With several on their way it ends the night, no attempt is left open, and nothing is held against any."""
        real = files.write_whole

        def full(path: Path, data: bytes, *, lasting: bool = True, guard: files.WriteGuard) -> None:
            if path.suffix == ".png":
                raise files.disk_error(path, OSError(28, "No space left on device"))
            real(path, data, lasting=lasting, guard=guard)

        monkeypatch.setattr(files, "write_whole", full)
        manifest = make_manifest([f"picture {number}" for number in range(12)])
        with pytest.raises(DiskError, match="No space left"):
            night.render(manifest, hire=OF_EIGHT)
        folder = night.folder(manifest).path
        assert not [path for path in folder.iterdir() if path.name.startswith((".part", "p"))]
        assert journal_open(folder) == []
        assert make_plan(manifest, night.settings.outputs).count("to do") == 12

    def test_what_came_is_written_though_something_else_cannot_be(
        self, night: Night, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It ends the night, and the four that wait to be written then are there all the same."""

        def broken(together: Together, *_: object, **__: object) -> None:
            if len(together.writing) == 4:
                threading.Timer(0.3, gate.opened.set).start()
                raise DiskError("cannot write status.json: Permission denied")

        monkeypatch.setattr(Together, "rewrite", broken)
        manifest = make_manifest([f"picture {number}" for number in range(10)])
        summary = night.render(manifest, hire=OF_EIGHT)
        assert (summary.ending, summary.rendered) == ("error", 4)
        assert len(list(night.folder(manifest).path.glob("p*.png"))) == 4
        assert journal_open(night.folder(manifest).path) == []

    def test_nobody_is_hired_to_wait_for_the_encoder(self, night: Night, gate: Gate) -> None:
        """The worker died and nothing more is to begin: the picture that is being encoded is waited for alone."""

        def watch(what: events.Event) -> None:
            night.heard.append(what)
            if isinstance(what, events.WorkerLost):
                threading.Timer(0.3, gate.opened.set).start()

        summary = render(night, make_manifest(("good", "crash", "never")), watch, hire=FAKE, max_failures=1)
        assert (summary.ending, summary.rendered) == ("failures", 1)
        assert len([what for what in night.of(events.WorkerOpening) if what.setup]) == 1

    def test_what_came_before_a_model_failed_is_written(self, night: Night, gate: Gate) -> None:
        """Its pixels were in the encoder when the worker said that a file of the model is damaged."""

        def watch(what: events.Event) -> None:
            if isinstance(what, events.PictureBegan) and what.item.picture.id == "p001":
                threading.Timer(0.3, gate.opened.set).start()

        summary = render(night, make_manifest(("good", "unreadable", "b")), watch)
        assert counts(summary) == (1, 0, 2, 0)
        assert journal_open(night.folder(make_manifest()).path) == []


def render(
    night: Night,
    manifest: Manifest,
    watch: Callable[[events.Event], None],
    stop: StopRequests | None = None,
    **changes: object,
) -> Summary:
    """A run that somebody watches."""
    settings = {name: getattr(night.settings, name) for name in type(night.settings).__slots__} | changes
    (summary,) = run.render([manifest], type(night.settings)(**settings), watch, stop or StopRequests())
    return summary


def test_silence_that_nobody_listened_to_is_none() -> None:
    """A loop that takes no more for a second blames no worker for it."""
    silence = Silence(0.0)
    silence.look(0.25)
    silence.skip(1.25)
    assert silence.look(1.5) == 0.5
