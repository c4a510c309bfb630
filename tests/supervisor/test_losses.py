"""Workers that die, hang, or are ended: what they held is tried again, and the others go on."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import psutil

from renderer.outputs.status import RunStatus
from renderer.planning.plan import make_plan
from renderer.supervisor import events, run
from renderer.supervisor.local_worker import LocalWorker
from renderer.supervisor.settings import Settings, StopRequests
from tests.fakes import Behaviour, DiesWithAll, DyingWorker, InlineWorker
from tests.making import make_manifest
from tests.supervisor.running import FAKE, FAKE_OF_EIGHT, Night, counts, journal_open


class TestWorkers:
    def test_a_picture_that_kills_workers_is_set_aside(self, night: Night) -> None:
        """It brings down three, the others are rendered, and the next run leaves it alone."""
        manifest = make_manifest(("a", "crash", "c"))
        summary = night.render(manifest, hire=FAKE)
        assert counts(summary) == (2, 0, 1, 0)
        assert summary.failures[0].set_aside
        assert night.began() == ["p000", "p001", "p002", "p001", "p001"]
        summary = night.render(manifest, hire=DyingWorker)
        assert counts(summary) == (0, 2, 1, 0)
        assert "brought down 3 workers" in summary.failures[0].message

    def test_force_tries_a_set_aside_picture(self, night: Night) -> None:
        """`--force` is the way back for a picture that was set aside."""
        manifest = make_manifest(("crash",))
        night.render(manifest, hire=FAKE)
        night.render(manifest, hire=FAKE, force=True, only=("p000",))
        assert night.began() == ["p000"]

    def test_a_stuck_worker_is_replaced(self, night: Night) -> None:
        """A worker that says nothing for too long is ended, and the others are rendered."""
        summary = night.render(make_manifest(("hang", "b")), hire=FAKE, stuck_after_s=1.0)
        assert counts(summary) == (1, 0, 1, 0)
        assert "said nothing" in summary.failures[0].message

    def test_a_worker_killed_from_outside_costs_one_try(self, night: Night) -> None:
        """SIGKILL in the middle of a picture: another worker renders it, and all are there."""
        manifest = make_manifest(("a", "slow", "c"))
        killed: list[int] = []

        def kill(what: events.Event) -> None:
            night.heard.append(what)
            if isinstance(what, events.PictureStepped) and what.item.picture.id == "p001" and not killed:
                killed.extend(_children())
                os.kill(killed[0], signal.SIGKILL)

        settings = Settings(outputs=night.settings.outputs, hire=FAKE)
        (summary,) = run.render([manifest], settings, kill, StopRequests())
        assert counts(summary) == (3, 0, 0, 0)
        assert [what.reason for what in night.of(events.WorkerLost)] == ["the worker was ended by SIGKILL"]
        assert night.began() == ["p000", "p001", "p002", "p001"]

    def test_a_worker_that_takes_no_orders_is_replaced(self, night: Night) -> None:
        """It has stopped, and more waits for it than a pipe holds: nobody waits for it longer than for a silent one."""
        stopped = functools.partial(
            LocalWorker, command=(sys.executable, "-m", "tests.fakes", "--capacity", "32", "--stops")
        )
        manifest = make_manifest(["x" * 9_800] * 32)
        summary = night.render(manifest, hire=stopped, stuck_after_s=4, max_failures=1)
        assert summary.ending == "failures"
        assert "said nothing" in night.of(events.WorkerLost)[0].reason

    def test_a_worker_that_is_asked_to_stop_with_the_run_is_not_to_blame(self, night: Night) -> None:
        """A signal reaches every process of a service, the worker first: nothing is held against its pictures."""
        stop = StopRequests()

        def ask(what: events.Event) -> None:
            night.heard.append(what)
            if isinstance(what, events.PictureBegan):
                threading.Timer(0.3, stop.request).start()

        settings = Settings(outputs=night.settings.outputs, hire=FAKE_OF_EIGHT)
        manifest = make_manifest(["terminated"] * 3)
        (summary,) = run.render([manifest], settings, ask, stop)
        assert (summary.ending, counts(summary)) == ("signal", (0, 0, 0, 3))
        assert night.of(events.WorkerLost) == []
        plan = make_plan(manifest, night.settings.outputs)
        assert (plan.count("to do"), any(item.suspect for item in plan.items)) == (3, False)

    def test_a_worker_that_somebody_ends_is_replaced(self, night: Night) -> None:
        """The same signal, and nobody asked the run to stop: it is a crash like any other."""
        summary = night.render(make_manifest(("terminated",)), hire=FAKE, max_failures=1)
        assert summary.ending == "failures"
        assert [what.reason for what in night.of(events.WorkerLost)] == ["the worker was ended by SIGTERM"]

    def test_the_memory_of_a_dead_run_s_worker_is_free_first(self, night: Night) -> None:
        """Its run was killed, and it lives still: it is ended before anything is planned."""
        manifest = make_manifest()
        left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "--parent", "999999999"])
        now = datetime.now(UTC)
        status = RunStatus(
            name="test", phase="rendering", began_at=now, at=now, pid=999999999, worker_pid=left.pid, to_render=3,
            done=0, failed=0,
        )  # fmt: skip
        night.folder(manifest).path.mkdir()
        (night.folder(manifest).path / "running.json").write_text(status.model_dump_json())
        assert counts(night.render(manifest)) == (3, 0, 0, 0)
        assert not psutil.pid_exists(left.pid)
        left.wait()

    def test_each_manifest_has_the_log_of_its_own_pictures(self, night: Night) -> None:
        """One worker renders both; what it says of the second's pictures stands in the second's folder."""
        manifests = [make_manifest(("a",), "first"), make_manifest(("b says",), "second")]
        settings = Settings(outputs=night.settings.outputs, hire=FAKE)
        run.render(manifests, settings, night.heard.append, StopRequests())
        assert (night.folder(manifests[0]).path / "worker.log").read_text() == "a fake begins\n"
        assert (night.folder(manifests[1]).path / "worker.log").read_text() == "drawing b says\n"

    def test_a_log_that_cannot_be_written_costs_no_picture(self, night: Night) -> None:
        """A folder stands where the log should: that is said, once a manifest, and all is rendered."""
        manifest = make_manifest()
        (night.folder(manifest).path / "worker.log").mkdir(parents=True)
        assert counts(night.render(manifest, hire=FAKE)) == (3, 0, 0, 0)
        (remark,) = night.of(events.Remark)
        assert remark.text.startswith("the worker's log is lost: cannot write")

    def test_what_a_worker_says_of_a_failure_is_told(self, night: Night) -> None:
        """The error's name and the end of its traceback, for whoever keeps a log."""
        night.render(make_manifest(("fail",)), retries=0)
        (failed,) = night.of(events.PictureFailed)
        assert (failed.kind, failed.detail) == ("BadPictureError", "Traceback: in decode")

    def test_what_a_dead_worker_said_last_is_told(self, night: Night) -> None:
        """With the reason comes the end of what it printed."""
        night.render(make_manifest(("crash",)), hire=FAKE, max_failures=1)
        assert [what.excerpt for what in night.of(events.WorkerLost)] == ["a fake begins"]

    def test_what_a_dead_worker_had_not_begun_is_not_suspected(self, night: Night) -> None:
        """Of eight that a worker held, the one it had begun is blamed; the others are rendered, and the run goes on."""
        manifest = make_manifest(["a", "crash", *["slow"] * 8])
        summary = night.render(manifest, hire=FAKE_OF_EIGHT, max_failures=4)
        assert (summary.ending, counts(summary)) == ("complete", (9, 0, 1, 0))
        assert [[item.picture.id for item in what.items] for what in night.of(events.WorkerLost)] == [["p001"]] * 3
        assert night.began()[2:10] == [f"p{number:03}" for number in range(2, 10)]

    def test_a_worker_that_dies_with_many_is_one_failure(self, night: Night) -> None:
        """One that dies while it encodes the prompts of eight: each is tried alone, though three failures would do."""
        manifest = make_manifest(["a"] * 8)
        hired: list[Path] = []

        def hire(log: Path) -> InlineWorker:
            hired.append(log)
            return InlineWorker(log, Behaviour(capacity=8)) if len(hired) > 1 else DiesWithAll(log)

        summary = night.render(manifest, hire=hire, max_failures=3)
        assert (summary.ending, counts(summary)) == ("complete", (8, 0, 0, 0))
        assert [len(what.items) for what in night.of(events.WorkerLost)] == [8]

    def test_suspects_ride_alone(self, night: Night) -> None:
        """A worker that takes eight died with eight: none of them is given to another beside any other picture."""
        manifest = make_manifest(["a"] * 8)
        hired: list[Path] = []
        most: list[int] = []

        def hire(log: Path) -> InlineWorker:
            hired.append(log)
            return InlineWorker(log, Behaviour(capacity=8)) if len(hired) > 1 else DiesWithAll(log)

        def count(what: events.Event) -> None:
            if isinstance(what, events.PictureBegan):
                most.append(len(journal_open(night.folder(manifest).path)))

        settings = Settings(outputs=night.settings.outputs, hire=hire)
        run.render([manifest], settings, count, StopRequests())
        assert most == [1] * 8

    def test_several_at_once(self, night: Night) -> None:
        """A worker that takes four at once renders all."""
        hire = functools.partial(InlineWorker, behaviour=Behaviour(capacity=4))
        assert counts(night.render(make_manifest(["x"] * 10), hire=hire)) == (10, 0, 0, 0)


def _children() -> list[int]:
    return [
        int(pid) for pid in Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text().split()
    ]
