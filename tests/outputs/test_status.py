"""How a batch stands: what the run that renders it says, and what others make of it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tqdm.utils import disp_len

from renderer.cli import command
from renderer.manifest.manifest import load
from renderer.outputs import status
from renderer.outputs.describe import describe_running
from renderer.outputs.folder import OutputFolder, Own
from renderer.outputs.status import InFlight, MemoryNow, RunStatus, StatusFile
from renderer.planning.plan import Plan, make_plan
from renderer.supervisor import events, heartbeat, run
from renderer.supervisor.local_worker import LocalWorker
from renderer.supervisor.progress import BatchProgress, Flight
from renderer.supervisor.settings import Settings, StopRequests
from renderer.supervisor.sinks import Missing
from renderer.text import wrap
from tests.fakes import InlineWorker
from tests.making import make_job, make_manifest

FAKE = functools.partial(LocalWorker, command=(sys.executable, "-m", "tests.fakes", "--capacity", "8"))
NOW = datetime(2026, 11, 21, 5, 0, tzinfo=UTC)

MANIFEST = """\
name: night
defaults: {model: demo, size: 64x64, steps: 8, seed: 1, precision: bf16}
jobs: [slow a, slow b, slow c]
"""


def make_status(**changes: object) -> RunStatus:
    values = {
        "name": "night", "phase": "rendering", "began_at": NOW, "at": NOW, "pid": os.getpid(),
        "worker_pid": os.getpid(), "to_render": 12, "done": 3, "failed": 1,
    }  # fmt: skip
    return RunStatus(**{**values, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path)


class TestStatus:
    def test_a_run_is_seen_from_another_terminal(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """While a batch runs, `status` says what is in flight, at which step, what its worker holds; then nothing."""
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))  # for the worker
        monkeypatch.chdir(tmp_path)
        path = tmp_path / "night.yaml"
        path.write_text(MANIFEST)
        monkeypatch.setattr(status, "_EVERY_S", 0.0)  # at every word of the worker
        monkeypatch.setattr(heartbeat, "TICK_S", 0.0)
        told: list[str] = []

        def ask(what: events.Event) -> None:
            if told or not isinstance(what, events.Tick) or what.status is None:
                return
            if (what.status.done, what.status.queued, len(what.status.in_flight)) == (1, 1, 1):
                for arguments in ([], ["--json"]):
                    assert command.main(["status", str(path), *arguments]) == 0
                told.append(capsys.readouterr().out)

        run.render([load(path)], Settings(outputs=Path("outputs"), hire=FAKE), ask, StopRequests())
        text, _, rest = told[0].partition("[\n")
        lines = text.splitlines()
        assert lines[0] == "night: 1 done, 0 failed, 0 set aside, 2 to do of 3"
        assert "1 of 3 done" in lines[1]
        assert "pictures/h" in lines[1]
        assert lines[2].startswith("    002 ")
        assert "step " in lines[2]
        assert lines[3] == "    1 more with the worker, not begun"
        assert lines[4].startswith("    memory now: worker 0.")
        (state,) = json.loads(f"[{rest}")
        assert state["held"]
        assert state["running"]["in_flight"][0]["id"] == "002"
        assert state["memory"]["worker_rss_bytes"] > 2**20
        assert command.main(["status", str(path)]) == 0
        assert capsys.readouterr().out == "night: 3 done, 0 failed, 0 set aside, 0 to do of 3\n"
        assert not (tmp_path / "outputs/night/running.json").exists()

    def test_what_a_killed_run_left_is_known_by_the_lock(self, tmp_path: Path) -> None:
        """After SIGKILL the file is still there, fresh, and nobody takes it for a run; the next run removes it."""
        manifest = make_manifest(["slow"] * 3)
        folder = OutputFolder(tmp_path / manifest.name)
        child = os.fork()
        if child == 0:
            try:
                run.render([manifest], Settings(outputs=tmp_path, hire=InlineWorker), lambda _: None, StopRequests())
            finally:
                os._exit(9)
        until = time.monotonic() + 20
        while status.read(folder) is None and time.monotonic() < until:
            time.sleep(0.01)
        found = status.read(folder)
        assert found is not None
        assert found.pid == child
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert (folder.path / Own.STATUS).exists()
        assert status.read(folder) is None
        run.render([manifest], Settings(outputs=tmp_path, hire=InlineWorker), lambda _: None, StopRequests())
        assert not (folder.path / Own.STATUS).exists()

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}', "null", "x" * 2**21])
    def test_what_is_no_status_is_none(self, folder: OutputFolder, text: str) -> None:
        """Half a file, another file, a huge one: nothing is known."""
        (folder.path / Own.STATUS).write_text(text)
        with folder.locked():
            assert status.read(folder) is None

    def test_whoever_asks_turns_no_run_away(self, folder: OutputFolder) -> None:
        """While others ask whether the folder is held, a run that begins gets it."""
        for _ in range(20):
            with folder.locked():
                assert folder.hold() == "held"
            assert folder.hold() == "free"

    def test_every_line_fits_80_columns(self) -> None:
        """Long ids, Chinese ones, many at once, second tries."""
        flying = tuple(
            InFlight(id=f"海报海报海报海报海报海报-{'x' * 60}-{number}", step=39, steps=40, attempt=3, since=NOW)
            for number in range(40)
        )
        running = make_status(in_flight=flying, queued=9, left_s=90000.0, pictures_per_hour=1234.5)
        lines = list(describe_running(running, MemoryNow(device_bytes=1, device_total_bytes=2), NOW))
        assert len(lines) == 21
        assert max(map(disp_len, lines)) <= 80
        assert all("step 39 of 40" in line for line in lines[2:18])

    @pytest.mark.usefixtures("berlin")
    def test_hours_are_those_of_this_machine_s_clocks(self) -> None:
        """What is written in UTC is told as clocks here showed it, also when they were changed since."""
        began = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
        flying = (InFlight(id="a", step=1, steps=4, attempt=1, since=began + timedelta(minutes=45)),)
        now = (began + timedelta(hours=1)).astimezone()
        running = make_status(in_flight=flying, began_at=began)
        lines = list(describe_running(running, MemoryNow(), now))
        assert lines[0].startswith("  rendering since 01:30: ")
        assert lines[1].endswith("since 03:15:00, 15 min 00 s")

    @pytest.mark.parametrize("text", ["a " * 100, "x" * 300, "海报" * 100, "  failed: a: b", ""])
    def test_reasons_are_wrapped_and_lose_nothing(self, text: str) -> None:
        """Whatever is said stands there whole, in lines of at most 80 columns."""
        lines = list(wrap(text, "    "))
        assert max(map(disp_len, lines)) <= 80
        assert "".join("".join(lines).split()) == "".join(text.split())


class TestNotice:
    def test_it_is_written_at_most_once_a_second(self, folder: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run that says how it stands all the time writes once, and again when the second is over."""
        monkeypatch.setattr(status, "_EVERY_S", 3600.0)
        notice = StatusFile(folder)
        assert [notice.post(make_status(done=done)) for done in range(3)] == [True, False, False]
        assert json.loads((folder.path / Own.STATUS).read_text())["done"] == 0
        monkeypatch.setattr(status, "_EVERY_S", 0.0)
        assert notice.post(make_status(done=4))
        assert json.loads((folder.path / Own.STATUS).read_text())["done"] == 4

    def test_a_full_disk_does_not_end_a_run(self, tmp_path: Path) -> None:
        """Where it cannot be written nobody can read it, and that is all."""
        (tmp_path / "none").write_text("a file in its folder's place takes none either")
        StatusFile(OutputFolder(tmp_path / "none")).post(make_status())
        assert (tmp_path / "none").is_file()


def begun(plan: Plan) -> BatchProgress:
    """The counts of a batch whose turn has come."""
    count = BatchProgress(plan)
    count.begin(plan.to_render())
    return count


class TestBatchProgress:
    def test_several_in_flight_add_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two pictures of ten with one of two steps done in 10 s are a picture's work: nine more are left, 90 s."""
        now = 100.0
        monkeypatch.setattr("renderer.supervisor.progress.time.monotonic", lambda: now)
        plan = make_plan(make_manifest([str(number) for number in range(10)]), tmp_path)
        count = begun(plan)
        flights = [Flight(item, 1) for item in plan.items[:3]]
        now = 150.0  # opening a model is no rendering
        for flight in flights[:2]:
            count.began(flight)
        now = 160.0
        first = count.status(flights, "rendering")
        assert (first.left_s, first.pictures_per_hour) == (None, None)
        for flight in flights[:2]:
            count.stepped(flight, 1)
        found = count.status(flights, "rendering")
        assert (found.left_s, found.pictures_per_hour) == pytest.approx((90.0, 360.0))
        assert (found.queued, len(found.in_flight)) == (1, 2)

    def test_what_fails_for_good_is_not_waited_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A picture that will be tried again is still to do; one that will not is none of what is left."""
        now = 0.0
        monkeypatch.setattr("renderer.supervisor.progress.time.monotonic", lambda: now)
        plan = make_plan(make_manifest([str(number) for number in range(10)]), tmp_path)
        count = begun(plan)
        flight = Flight(plan.items[0], 1)
        count.began(flight)
        now = 10.0
        count.stepped(flight, 2)
        count.hear(Missing(flight.item, "no", again=True))
        assert count.status([], "rendering").left_s == pytest.approx(100.0)
        count.hear(Missing(flight.item, "no"))
        assert count.status([], "rendering").left_s == pytest.approx(90.0)

    def test_a_large_picture_is_more_than_its_pixels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Attention is quadratic: after a 512x512 picture in 10 s, a 2048x2048 one takes more than 16 times that."""
        now = 0.0
        monkeypatch.setattr("renderer.supervisor.progress.time.monotonic", lambda: now)
        pictures = [
            picture.model_copy(
                update={
                    "job": make_job(side=side).model_copy(update={"model": "Qwen/Qwen-Image", "precision": "fp8"}),
                }
            )
            for side, picture in zip((512, 2048), make_manifest("ab").pictures, strict=True)
        ]
        plan = make_plan(dataclasses.replace(make_manifest(), pictures=tuple(pictures)), tmp_path)
        count = begun(plan)
        small = Flight(plan.items[0], 1)
        count.began(small)
        now = 10.0
        count.stepped(small, small.steps)
        left_s = count.status([small], "rendering").left_s
        assert left_s is not None
        assert 16 < left_s / 10 < 256
