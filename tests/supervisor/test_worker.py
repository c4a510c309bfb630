from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from renderer import protocol
from renderer.engine import worker as engine_worker
from renderer.errors import DiskError, PictureError
from renderer.outputs.status import RunStatus
from renderer.protocol import AnyEvent, Open, Render, Setup, Stepped
from renderer.supervisor import logs
from renderer.supervisor.local_worker import LocalWorker, end_orphans
from renderer.supervisor.worker import Gone
from renderer.system import oom
from tests.fakes import draw
from tests.making import make_job
from tests.waiting import until

FAKE = (sys.executable, "-m", "tests.fakes")
OPEN = Open(setup=Setup(model="demo", precision="bf16", profile="cpu"))


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[LocalWorker]:
    found = LocalWorker(tmp_path / "worker.log", FAKE)
    yield found
    found.kill()


def hear(worker: LocalWorker, kind: type[AnyEvent | Gone]) -> tuple[AnyEvent | Gone, bytes]:
    """What comes until the first of a kind, at most half a minute."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        heard = worker.hear(0.1)
        if heard is not None and isinstance(heard[0], kind):
            return heard
    raise AssertionError(f"no {kind.__name__} came")


def test_a_picture_comes_back_byte_by_byte(worker: LocalWorker) -> None:
    """Orders go in, events and pixels come out."""
    worker.send(OPEN)
    hear(worker, protocol.Opened)
    worker.send(Render(key="p", job=make_job()))
    event, payload = hear(worker, protocol.Rendered)
    assert isinstance(event, protocol.Rendered)
    assert payload == draw(make_job()).rgb


def test_silence_is_none(worker: LocalWorker) -> None:
    """A worker that has nothing to say makes nobody wait longer than asked."""
    began = time.monotonic()
    assert worker.hear(0.05) is None
    assert time.monotonic() - began < 5


def test_a_killed_worker_is_gone_with_its_signal(tmp_path: Path) -> None:
    """Whoever kills it, the caller hears which signal it was."""
    worker = LocalWorker(tmp_path / "worker.log", FAKE)
    os.kill(worker.pid, signal.SIGKILL)
    gone, _ = hear(worker, Gone)
    assert str(gone) == "the worker was ended by SIGKILL"
    worker.send(OPEN)


def test_a_worker_that_cannot_start_says_why_in_its_log(tmp_path: Path) -> None:
    """What it printed before it died can be shown."""
    worker = LocalWorker(tmp_path / "worker.log", (sys.executable, "-c", "raise SystemExit('no libcuda')"))
    gone, _ = hear(worker, Gone)
    assert str(gone) == "the worker ended with status 1"
    assert worker.excerpt() == "no libcuda"


def test_end_lets_it_leave_and_kill_does_not_ask(worker: LocalWorker, tmp_path: Path) -> None:
    """After either, the process is no more."""
    worker.end()
    assert not psutil.pid_exists(worker.pid)
    stuck = LocalWorker(tmp_path / "stuck.log", FAKE)
    stuck.send(OPEN)
    stuck.send(Render(key="p", job=make_job("hang")))
    hear(stuck, protocol.Started)
    stuck.kill()
    assert not psutil.pid_exists(stuck.pid)


def test_a_worker_that_does_not_read_holds_up_nobody(tmp_path: Path) -> None:
    """One that has stopped takes no orders: megabytes of them are given in no time, and it can be ended."""
    worker = LocalWorker(tmp_path / "worker.log", (*FAKE, "--stops"))
    worker.send(OPEN)
    hear(worker, protocol.Opened)
    began = time.monotonic()
    for number in range(100):
        worker.send(Render(key=str(number), job=make_job("x" * 9_800)))
    worker.kill()
    assert time.monotonic() - began < 5
    assert not psutil.pid_exists(worker.pid)


def test_what_waits_to_be_written_is_told(worker: LocalWorker, tmp_path: Path) -> None:
    """Bytes of what goes in, until a worker has read them."""
    picture = bytes(2**20)
    stopped = LocalWorker(tmp_path / "stopped.log", (*FAKE, "--stops"))
    for each in (worker, stopped):
        each.send(OPEN)
        hear(each, protocol.Opened)
        each.send(Render(key="p", job=make_job(), files=(len(picture),)), picture)
    hear(worker, protocol.Rendered)
    until(lambda: worker.unsent_bytes == 0)
    assert stopped.unsent_bytes == len(picture)
    stopped.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_asks_to_stop_is_not_for_a_worker(worker: LocalWorker, number: signal.Signals) -> None:
    """A service manager sends it to every process: the worker goes on, from its first moment, until the run decides."""
    os.kill(worker.pid, number)
    worker.send(OPEN)
    hear(worker, protocol.Opened)
    os.kill(worker.pid, number)
    worker.send(Render(key="p", job=make_job()))
    hear(worker, protocol.Rendered)


def test_a_worker_has_a_session_of_its_own(worker: LocalWorker) -> None:
    """A terminal's Ctrl-C and Ctrl-Z are for its own session's processes; so is a signal to the run's group."""
    assert os.getsid(worker.pid) == os.getpgid(worker.pid) == worker.pid


def test_a_worker_dies_with_its_run_whatever_it_is_busy_with(tmp_path: Path) -> None:
    """Its run is killed while a call lets no other thread look: the kernel ends it all the same."""
    script = (
        "import sys, pathlib, time\n"
        "from renderer import protocol\n"
        "from renderer.supervisor.local_worker import LocalWorker\n"
        "from tests.making import make_job\n"
        "from tests.supervisor.test_worker import FAKE, OPEN, hear\n"
        f"worker = LocalWorker(pathlib.Path({str(tmp_path / 'worker.log')!r}), FAKE)\n"
        "worker.send(OPEN)\n"
        "worker.send(protocol.Render(key='p', job=make_job('gil')))\n"
        "hear(worker, protocol.Started)\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    worker = psutil.Process(int(run.stdout.readline()))
    with contextlib.suppress(AssertionError):  # a kernel that does not say where a process sleeps
        until(lambda: any(call in Path(f"/proc/{worker.pid}/wchan").read_text() for call in ("hrtimer", "nanosleep")))
    run.kill()
    run.wait()
    assert gone(worker)


def gone(process: psutil.Process) -> bool:
    """Whether a process ends within ten seconds; one that nobody has reaped has ended."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.02)
                continue
        return True
    return False


def test_what_a_worker_started_goes_with_it(tmp_path: Path) -> None:
    """It dies, and a process that it started lives: that is ended too, before its group's number is anybody's."""
    script = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); sys.exit(3)"
    worker = LocalWorker(tmp_path / "worker.log", (sys.executable, "-c", script))
    assert hear(worker, Gone)[0] == Gone(3, out_of_memory=False)
    assert gone(psutil.Process(int(worker.excerpt()))) if psutil.pid_exists(int(worker.excerpt())) else True
    worker.kill()
    worker.end()


@pytest.mark.parametrize(("before", "after", "found"), [(4, 5, True), (4, 4, False), (None, 5, None), (4, None, None)])
def test_whether_memory_ran_out_is_asked_of_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int | None, after: int | None, *, found: bool | None
) -> None:
    """It counts whom it ended for that: more of them at a worker's end than at its beginning, or nobody knows."""
    counts = [before, after]
    monkeypatch.setattr(oom, "kills", lambda: counts.pop(0))
    worker = LocalWorker(tmp_path / "worker.log", FAKE)
    os.kill(worker.pid, signal.SIGKILL)
    assert hear(worker, Gone)[0] == Gone(-signal.SIGKILL, out_of_memory=found)
    worker.kill()


@pytest.mark.parametrize(
    ("gone", "said", "hint"),
    [
        (Gone(70), "the worker ended with status 70", ""),
        (Gone(-9, out_of_memory=False), "the worker was ended by SIGKILL", ""),
        (Gone(-9, out_of_memory=None), "the worker was ended by SIGKILL", oom.UNSURE),
        (Gone(-9, out_of_memory=True), "the worker was ended by SIGKILL: the machine's memory ran out", oom.OOM_HINT),
        (Gone(-11, out_of_memory=True), "the worker was ended by SIGSEGV", ""),
        (Gone(-40), "the worker was ended by SIGRTMIN+6", ""),
        (Gone(-33), "the worker was ended by signal 33", ""),
    ],
)
def test_how_it_ended_is_said(gone: Gone, said: str, hint: str) -> None:
    """By name, for every signal there is, and with what helps."""
    assert (str(gone), gone.hint) == (said, hint)


class TestLogs:
    def test_each_manifest_has_the_log_of_its_own_pictures(self, tmp_path: Path) -> None:
        """The same worker prints into another file once it is told to, and its last words are known besides."""
        script = "import sys\nfor line in sys.stdin.buffer: print(len(line), flush=True)"
        worker = LocalWorker(tmp_path / "a" / "worker.log", (sys.executable, "-c", script))
        worker._child.stdin.write(b"x\n")
        worker._child.stdin.flush()
        until(lambda: (tmp_path / "a/worker.log").read_text() == "2\n")
        worker.log_into(tmp_path / "b" / "worker.log")
        worker._child.stdin.write(b"xx\n")
        worker._child.stdin.flush()
        worker.end()
        assert (tmp_path / "a/worker.log").read_text() == "2\n"
        assert (tmp_path / "b/worker.log").read_text() == "3\n"
        assert worker.excerpt() == "2\n3"

    def test_a_log_that_has_grown_begins_anew(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """While it is written, and where it was large before; the one before it stays beside it."""
        monkeypatch.setattr(logs, "MAX_LOG_BYTES", 1000)
        path = tmp_path / "worker.log"
        path.write_bytes(b"a" * 1001)
        log = logs.Log(path)
        assert (path.read_bytes(), path.with_suffix(".old.log").read_bytes()) == (b"", b"a" * 1001)
        ours, theirs = os.pipe()
        log.follow(os.fdopen(ours, "rb"))
        with os.fdopen(theirs, "wb") as stream:
            stream.write(b"b" * 1001)
            stream.flush()
            until(lambda: path.with_suffix(".old.log").read_bytes() == b"b" * 1001)
            stream.write(b"c")
        log.wait(10)
        assert path.read_bytes() == b"c"

    def test_what_cannot_be_written_is_lost_alone(self, tmp_path: Path) -> None:
        """A full disk under the log: the worker prints on and answers, and its last words are known."""
        worker = LocalWorker(Path("/dev/full"), FAKE)
        worker.send(OPEN)
        hear(worker, protocol.Opened)
        for prompt in ("one says", "two says"):
            worker.send(Render(key="p", job=make_job(prompt)))
            hear(worker, protocol.Rendered)
        worker.end()
        assert worker.excerpt().splitlines() == ["a fake begins", "drawing one says", "drawing two says"]
        (tmp_path / "worker.log").mkdir()
        with pytest.raises(DiskError, match="cannot write"):
            LocalWorker(tmp_path / "worker.log", FAKE)


class TestOrphans:
    def left(self, worker: int, owner: int) -> RunStatus:
        now = datetime.now(UTC)
        values = {
            "began_at": now,
            "at": now,
            "pid": owner,
            "worker_pid": worker,
            "to_render": 1,
            "done": 0,
            "failed": 0,
        }
        return RunStatus(name="night", phase="rendering", **values)

    def sleeper(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *arguments])

    def test_the_worker_of_a_dead_run_is_ended(self) -> None:
        """It names the dead run as its owner; nobody asks how much memory is free before it is gone."""
        process = self.sleeper("--events", "7", "--parent", "999999999")
        assert not end_orphans(self.left(process.pid, 999999999))
        assert not psutil.pid_exists(process.pid)
        process.wait()

    @pytest.mark.parametrize("arguments", [(), ("--parent", "1234567"), ("--parent",), ("999999999",)])
    def test_nobody_else_s_process_is_touched(self, arguments: tuple[str, ...]) -> None:
        """A number that has been given to another process since, and no process at all."""
        process = self.sleeper(*arguments)
        assert not end_orphans(self.left(process.pid, 999999999))
        assert process.poll() is None
        process.kill()
        process.wait()
        assert not end_orphans(self.left(process.pid, 999999999))

    def test_the_worker_of_a_living_run_is_not_touched(self) -> None:
        """Where a file system has no locks, another run may be on."""
        process = self.sleeper("--parent", str(os.getpid()))
        assert not end_orphans(self.left(process.pid, os.getpid()))
        assert process.poll() is None
        process.kill()
        process.wait()


@pytest.mark.parametrize("cut", [0, 1, 11, 12, 40, -1])
def test_a_frame_cut_anywhere_is_the_end(cut: int) -> None:
    """A worker that dies in the middle of a frame is gone; half a frame is never taken for one."""
    stream = io.BytesIO()
    protocol.write_frame(stream, Render(key="p", job=make_job()), b"payload")
    with pytest.raises(EOFError):
        protocol.read_order(io.BytesIO(stream.getvalue()[:cut]))


class Tight(io.BytesIO):
    """A pipe whose reader has no memory for much at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > 2**20:
            raise MemoryError
        return super().read(size)


def test_a_payload_without_memory_for_it_is_that_pictures_loss() -> None:
    """It is passed over, and the next frame is read: neither the worker nor the run goes with it."""
    stream, order = Tight(), Render(key="p", job=make_job(), files=(2**20, 2**20))
    protocol.write_frame(stream, order, bytes(2**21))
    protocol.write_frame(stream, Stepped(key="p", step=1, steps=2))
    stream.seek(0)
    found, payload = protocol.read_order(stream)
    assert (found, payload) == (order, b"")
    failure = engine_worker._unpacked(found, payload)
    assert isinstance(failure, PictureError)
    assert "no memory left" in failure.message
    assert protocol.read_event(stream) == (Stepped(key="p", step=1, steps=2), b"")


def test_absurd_lengths_are_no_frame() -> None:
    """Noise on the pipe is not taken for an announcement of terabytes."""
    with pytest.raises(EOFError, match="not a frame"):
        protocol.read_event(io.BytesIO(b"\xff" * 64))
