from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from renderer import events
from renderer.events import AnyEvent, Open, Render, Setup
from renderer.workers import Gone, LocalWorker
from tests.fakes import draw
from tests.making import make_job

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
    hear(worker, events.Opened)
    worker.send(Render(key="p", job=make_job()))
    event, payload = hear(worker, events.Rendered)
    assert isinstance(event, events.Rendered)
    assert payload == draw(make_job()).rgb


def test_silence_is_none(worker: LocalWorker) -> None:
    """A worker that has nothing to say makes nobody wait longer than asked."""
    began = time.monotonic()
    assert worker.hear(0.05) is None
    assert time.monotonic() - began < 5


def test_a_killed_worker_is_gone_with_its_signal(tmp_path: Path) -> None:
    """Whoever kills it, the caller hears which signal it was."""
    worker = LocalWorker(tmp_path / "worker.log", FAKE)
    os.kill(worker._process.pid, signal.SIGKILL)
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
    assert not psutil.pid_exists(worker._process.pid)
    stuck = LocalWorker(tmp_path / "stuck.log", FAKE)
    stuck.send(OPEN)
    stuck.send(Render(key="p", job=make_job("hang")))
    hear(stuck, events.Started)
    stuck.kill()
    assert not psutil.pid_exists(stuck._process.pid)


@pytest.mark.parametrize("cut", [0, 1, 11, 12, 40, -1])
def test_a_frame_cut_anywhere_is_the_end(cut: int) -> None:
    """A worker that dies in the middle of a frame is gone; half a frame is never taken for one."""
    stream = io.BytesIO()
    events.write_frame(stream, Render(key="p", job=make_job()), b"payload")
    with pytest.raises(EOFError):
        events.read_order(io.BytesIO(stream.getvalue()[:cut]))


def test_absurd_lengths_are_no_frame() -> None:
    """Noise on the pipe is not taken for an announcement of terabytes."""
    with pytest.raises(EOFError, match="not a frame"):
        events.read_event(io.BytesIO(b"\xff" * 64))
