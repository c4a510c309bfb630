"""The worker, over real pipes: what it answers, what it survives, and when it ends."""

from __future__ import annotations

import gc
import io
import os
import queue
import re
import resource
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from renderer.cli.sentences import sentence
from renderer.engine import pinned
from renderer.engine.native import NativeEngine
from renderer.engine.streaming import StreamingEngine
from renderer.engine.worker import OrderIn, WorkerLoop
from renderer.errors import MachineError, ModelError
from renderer.job import Engine, Job, Profile
from renderer.machine import processor
from renderer.protocol import (
    AnyEvent,
    AnyOrder,
    Failed,
    Open,
    Opened,
    OpenFailed,
    Opening,
    Render,
    Rendered,
    Setup,
    Started,
    Stepped,
    Withdraw,
    Withdrawn,
    read_event,
    write_frame,
)
from renderer.supervisor.events import WorkerOpened
from tests.engine.making import make_job, make_setup

Heard = list[tuple[AnyEvent, bytes]]


class Trickle(queue.SimpleQueue[OrderIn]):
    """Orders that come one by one, each a moment after the last was taken: the queue is never seen to hold any."""

    def __init__(self, *coming: AnyOrder) -> None:
        self._coming = list(coming)
        self.waited = 0

    def empty(self) -> bool:
        return True

    def get(self, block: bool = True, timeout: float | None = None) -> OrderIn:  # noqa: ARG002, FBT001, FBT002  # its own
        self.waited += timeout is not None
        if not self._coming:
            raise queue.Empty
        return self._coming.pop(0), {}


@pytest.mark.parametrize("profile", ["stream", "cpu"])
def test_jobs_that_come_one_by_one_set_out_together(profile: Profile) -> None:
    """An idle worker waits a moment for the next; a busy one does not, nor one that takes jobs one at a time."""
    setup = Setup(model="demo", precision="bf16", profile=profile)
    worker = WorkerLoop(io.BytesIO())
    worker.obey(Open(setup=setup))
    assert worker._engine is not None
    orders = [Render(key=key, job=make_job(num_inference_steps=2)) for key in "abc"]
    coming = Trickle(*orders)
    worker.obey_all(coming)
    together = profile == "stream"
    assert len(coming._coming) == (0 if together else 2)
    coming.waited = 0
    worker.obey_all(coming)
    assert coming.waited == 0
    worker.obey(Withdraw())


class Process:
    """A worker process and its three pipes; what it logs goes to a file."""

    def __init__(self, log: Path) -> None:
        ours, theirs = os.pipe()
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "renderer.engine.worker", "--events", str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                pass_fds=(theirs,),
            )
        os.close(theirs)
        self.log = log
        self.events = os.fdopen(ours, "rb")
        self.greeting: Heard = []

    def send(self, order: AnyOrder, payload: bytes = b"") -> None:
        assert self.process.stdin
        write_frame(self.process.stdin, order, payload)

    def until(self, *kinds: type[AnyEvent]) -> Heard:
        """All events up to the first of one of these kinds."""
        heard: Heard = []
        while not heard or not isinstance(heard[-1][0], kinds):
            heard.append(read_event(self.events))
        return heard

    def open(self, setup: Setup) -> Heard:
        self.send(Open(setup=setup))
        return self.until(Opened, OpenFailed)

    def render(self, key: str, job: Job) -> Heard:
        self.send(Render(key=key, job=job))
        return self.until(Rendered, Failed)

    def close_stdin(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@pytest.fixture(scope="module")
def worker(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A worker that has opened the demo model."""
    assert demo_folder
    process = Process(tmp_path_factory.mktemp("worker") / "log")
    process.greeting = process.open(make_setup())
    yield process
    process.kill()


class TestOpen:
    def test_answers(self, worker: Process) -> None:
        """Opening tells each part as a sign of life, and at last the engine, the versions and the time it took."""
        *signs, (opened, payload) = worker.greeting
        assert [sign.what for sign, _ in signs if isinstance(sign, Opening)] == [
            "DiffSynth",
            "transformer",
            "text_encoder",
            "vae",
        ]
        assert isinstance(opened, Opened)
        assert opened.capacity == 1
        assert opened.engine == Engine(name="native", profile="cpu", device="cpu", arithmetic=processor.arithmetic())
        assert opened.software.diffsynth.startswith("2.")
        assert opened.gpu is None
        assert opened.load_s > 0
        assert payload == b""

    def test_model_that_cannot_be_opened(self, worker: Process, tmp_path: Path) -> None:
        """A model that cannot be opened is answered with the reason; jobs then fail, and the next opening may work."""
        failed = worker.open(make_setup(tmp_path))[-1][0]
        assert isinstance(failed, OpenFailed)
        assert "lacks transformer/" in failed.message
        answer = worker.render("a", make_job())[-1][0]
        assert isinstance(answer, Failed)
        assert "no open pipeline" in answer.message
        assert isinstance(worker.open(make_setup())[-1][0], Opened)


class TestWhichGpu:
    def test_the_one_that_was_described(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The setup's GPU is all that CUDA shows, and that is so before torch asks for it."""
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        seen: list[str | None] = []

        def opened(_: WorkerLoop, setup: Setup) -> None:
            seen.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
            raise MachineError(setup.model)

        monkeypatch.setattr(WorkerLoop, "_opened", opened)
        for gpu in (None, "GPU-7777"):
            WorkerLoop(io.BytesIO()).obey(Open(setup=make_setup().model_copy(update={"gpu": gpu})))
        assert seen == ["0", "GPU-7777"]


class TestRender:
    def test_good_jobs_around_a_bad_one(self, worker: Process, engine: NativeEngine) -> None:
        """A job that fails says why and does not disturb the others: their bits are those of another process."""
        first, bad, again = (
            worker.render(key, job)
            for key, job in [("one", make_job()), ("bad", make_job(width=100)), ("two", make_job(seed=9))]
        )
        assert [type(event) for event, _ in first] == [Started, Stepped, Stepped, Rendered]
        assert [(event.step, event.steps) for event, _ in first if isinstance(event, Stepped)] == [(1, 2), (2, 2)]
        assert {event.key for event, _ in first if isinstance(event, Started | Stepped | Rendered | Failed)} == {"one"}
        failed = bad[-1][0]
        assert isinstance(failed, Failed)
        assert (failed.key, failed.kind, failed.hint) == ("bad", "PictureError", "use 96x64 or 112x64")
        assert "100x64 is not a multiple of 16" in failed.message
        assert "Traceback" in failed.detail
        assert failed.detail in worker.log.read_text()
        assert first[-1][1] == engine.render(make_job(), lambda _step, _steps: None).rgb
        assert again[-1][1] == engine.render(make_job(seed=9), lambda _step, _steps: None).rgb

    def test_picture_that_does_not_fit(self, worker: Process) -> None:
        """When memory runs out, the picture fails as just that, and the next one has the bits it had before."""
        before = worker.render("small", make_job())[-1][1]
        pid = worker.process.pid
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        limits = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**26, limits[1]))
        try:
            failed = worker.render("large", make_job(width=1024, height=1024))[-1][0]
            assert isinstance(failed, Failed)
            assert failed.kind == "OutOfMemoryError"
            assert "did not fit into memory" in failed.message
            assert worker.render("small", make_job())[-1][1] == before
        finally:
            resource.prlimit(pid, resource.RLIMIT_AS, limits)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_what_asks_to_stop_is_the_supervisors_business(self, worker: Process, number: signal.Signals) -> None:
        """Ctrl-C, and what a service manager or a terminal that goes sends to every process, do not stop a worker."""
        worker.send(Render(key="a", job=make_job(num_inference_steps=20)))
        worker.until(Stepped)
        worker.process.send_signal(number)
        assert isinstance(worker.until(Rendered, Failed)[-1][0], Rendered)

    def test_prints_go_to_the_log(self, worker: Process) -> None:
        """What DiffSynth prints stands in the log with a time, and not on any pipe; so does what was opened."""
        assert worker.process.stdout
        os.set_blocking(worker.process.stdout.fileno(), False)
        assert worker.process.stdout.read() == b""  # the end: the worker has closed it
        worker.render("long", make_job(prompt="x" * 1100, cfg_scale=1.0))
        log = worker.log.read_text()
        assert re.search(
            r"\d\d:\d\d:\d\d,\d+ INFO renderer\.engine\.native: Warning!!! QwenImage model was trained", log
        )
        assert "INFO renderer.engine.resolve: demo at bf16, from its original files" in log


class TestGivingBack:
    @pytest.mark.parametrize("profile", ["stream", "cpu"])
    def test_what_has_not_begun_comes_back(self, worker: Process, profile: Profile) -> None:
        """Each of twelve jobs is either given back or rendered, those that had begun are rendered, and it goes on."""
        worker.open(make_setup(profile=profile))
        keys = [f"p{number}" for number in range(12)]
        for number, key in enumerate(keys):
            worker.send(Render(key=key, job=make_job(seed=number, width=256, height=256, num_inference_steps=6)))
        heard = worker.until(Stepped)
        worker.send(Withdraw())
        heard += worker.until(Withdrawn)
        back = heard[-1][0]
        assert isinstance(back, Withdrawn)
        begun = {event.key for event, _ in heard if isinstance(event, Started)}
        done = {event.key for event, _ in heard if isinstance(event, Rendered)}
        while done != begun:
            heard += worker.until(Rendered)
            done = {event.key for event, _ in heard if isinstance(event, Rendered)}
            begun = {event.key for event, _ in heard if isinstance(event, Started)}
        assert len(back.keys) > 6
        assert sorted([*back.keys, *done]) == sorted(keys)
        assert isinstance(worker.render("next", make_job())[-1][0], Rendered)


class TestEnd:  # the first of these ends the module's worker
    def test_supervisor_gone_in_the_middle_of_a_picture(self, worker: Process) -> None:
        """When stdin ends the worker ends at once, though a picture of many steps has just begun."""
        worker.send(Render(key="long", job=make_job(width=512, height=512, num_inference_steps=1000)))
        worker.until(Stepped)
        worker.close_stdin()
        assert worker.process.wait(10) == 0  # all steps would take minutes

    def test_order_that_is_none(self, tmp_path: Path) -> None:
        """Bytes that are no order end the worker with a status of its own, also while libraries are still loading."""
        process = Process(tmp_path / "log")
        assert process.process.stdin
        process.process.stdin.write(b"\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00{}")
        process.process.stdin.flush()
        assert process.process.wait(20) == 70
        assert "not an order" in process.log.read_text()


def test_memory_that_could_not_be_pinned_is_told(monkeypatch: pytest.MonkeyPatch, demo_folder: Path) -> None:
    """Once when the worker has opened, for whoever watches; and in each streamed picture's sidecar."""
    assert demo_folder
    monkeypatch.setattr(pinned, "_UNPINNED", pinned._Unpinned())
    pinned._UNPINNED.add(2**20, 2)
    pipe = io.BytesIO()
    worker = WorkerLoop(pipe)
    worker.obey(Open(setup=make_setup(profile="stream")))
    worker.obey(Render(key="it", job=make_job()))
    while worker.busy:
        worker.advance()
    heard = told(pipe)
    opened = next(event for event in heard if isinstance(event, Opened))
    rendered = next(event for event in heard if isinstance(event, Rendered))
    assert rendered.sharing is not None
    assert opened.notes == rendered.sharing.adjustments == (pinned.unpinned(),)
    assert "note: host memory could not all be pinned" in (sentence(WorkerOpened(opened)) or "")


class InACircle:
    """An engine that refers to itself, as those do that hand out their own methods."""

    name, device, capacity, busy = "stream", "cpu", 1, False

    def __init__(self) -> None:
        self.formats: dict[str, str] = {}
        self.records = self._records

    def _records(self) -> bool:
        return True


def test_the_engine_before_is_gone_when_the_next_one_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is the next one's, and nobody waits for Python to look for circles."""
    engines: list[weakref.ref[InACircle]] = []
    alive: list[bool] = []

    def opened(*_: object) -> InACircle:
        alive.extend(each() is not None for each in engines)
        engine = InACircle()
        engines.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr(WorkerLoop, "_opened", opened)
    worker = WorkerLoop(io.BytesIO())
    gc.disable()
    try:
        for _ in range(2):
            worker.obey(Open(setup=make_setup()))
    finally:
        gc.enable()
    assert alive == [False]


def told(pipe: io.BytesIO) -> list[AnyEvent]:
    """What a worker has said."""
    pipe.seek(0)
    heard = []
    while pipe.tell() < len(pipe.getvalue()):
        heard.append(read_event(pipe)[0])
    return heard


@pytest.mark.parametrize("profile", ["stream", "cpu"])
def test_a_model_that_turns_out_to_be_damaged(
    profile: Profile, monkeypatch: pytest.MonkeyPatch, demo_folder: Path
) -> None:
    """Nothing can be rendered with it any more: said as of one that does not open, and no picture is blamed."""
    assert demo_folder

    def unreadable(*_: object, **__: object) -> None:
        raise ModelError("block-003.safetensors: ends too early", hint="pack the model again")

    pipe = io.BytesIO()
    worker = WorkerLoop(pipe)
    worker.obey(Open(setup=make_setup(profile=profile)))
    monkeypatch.setattr(StreamingEngine, "_bring_past", unreadable)
    monkeypatch.setattr(NativeEngine, "_call", unreadable)
    for key in ("one", "two"):
        worker.obey(Render(key=key, job=make_job()))
    while worker.busy:
        worker.advance()
    worker.obey(Render(key="three", job=make_job()))
    *_, started, said, after = told(pipe)
    assert isinstance(started, Started)
    assert said == OpenFailed(message="block-003.safetensors: ends too early", hint="pack the model again")
    assert isinstance(after, Failed)
    assert (after.key, after.message) == ("three", "there is no open pipeline")
