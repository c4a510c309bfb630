from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from renderer.errors import DiskError, LockedError, MachineError, UsageError
from renderer.estimate.memory import CONTEXT_BYTES
from renderer.job import Expect, Keep
from renderer.machine import hardware
from renderer.machine.gpus import LocalGpu
from renderer.manifest.manifest import Manifest
from renderer.outputs import journal, picture_files
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal
from renderer.outputs.status import RunStatus
from renderer.outputs.summary import Summary
from renderer.planning.plan import make_plan
from renderer.protocol import AnyOrder, Open, Setup
from renderer.supervisor import events, provision, run
from renderer.supervisor.local_worker import LocalWorker
from renderer.supervisor.settings import Settings, StopRequests
from renderer.system import files
from tests.fakes import Behaviour, DiesWithAll, DyingWorker, InlineWorker, draw
from tests.making import make_job, make_manifest, make_picture, pixels_of

FAKE = functools.partial(LocalWorker, command=(sys.executable, "-m", "tests.fakes"))
FAKE_OF_EIGHT = functools.partial(LocalWorker, command=(sys.executable, "-m", "tests.fakes", "--capacity", "8"))


class Night:
    """One output folder and the runs over it."""

    def __init__(self, tmp_path: Path) -> None:
        self.settings = Settings(outputs=tmp_path, hire=InlineWorker)
        self.heard: list[events.Event] = []
        self.stop = StopRequests()

    def render(self, manifest: Manifest, **changes: Any) -> Summary:
        self.heard.clear()
        self.stop.requests = 0
        settings = Settings(**{**{name: getattr(self.settings, name) for name in Settings.__slots__}, **changes})
        (summary,) = run.render([manifest], settings, self.heard.append, self.stop)
        return summary

    def summary(self, manifest: Manifest) -> Summary:
        """What `summary.json` says."""
        return Summary.model_validate_json((self.folder(manifest).path / "summary.json").read_bytes())

    def folder(self, manifest: Manifest) -> OutputFolder:
        return OutputFolder(self.settings.outputs / manifest.name)

    def of(self, kind: type[Any]) -> list[Any]:
        return [what for what in self.heard if isinstance(what, kind)]

    def began(self) -> list[str]:
        return [what.item.picture.id for what in self.of(events.PictureBegan)]


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, in memory; only root may have one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def counts(summary: Summary) -> tuple[int, int, int, int]:
    """Rendered, there already, not there for good, left: with those that were not chosen, all there are."""
    absent = summary.failed + summary.refused + summary.set_aside
    found = summary.rendered, summary.skipped, absent, summary.left
    assert sum(found) + summary.not_chosen == summary.pictures
    return found


class TestResume:
    def test_all_is_rendered_and_then_nothing(self, night: Night) -> None:
        """The first run renders everything, the second skips everything and hires nobody."""
        manifest = make_manifest()
        assert counts(night.render(manifest)) == (3, 0, 0, 0)
        assert counts(night.render(manifest, hire=DyingWorker)) == (0, 3, 0, 0)

    def test_the_summary_is_written_down(self, night: Night) -> None:
        """`summary.json` is the summary that was returned."""
        manifest = make_manifest()
        summary = night.render(manifest)
        text = (night.folder(manifest).path / "summary.json").read_text()
        assert Summary.model_validate_json(text) == summary
        assert json.loads(text)["ending"] == "complete"

    def test_a_changed_job_is_rendered_anew_and_the_others_are_not(self, night: Night) -> None:
        """Editing one prompt costs one picture."""
        night.render(make_manifest(("a", "b", "c")))
        assert counts(night.render(make_manifest(("a", "B", "c")))) == (1, 2, 0, 0)
        assert night.began() == ["p001"]

    def test_a_damaged_file_is_rendered_anew(self, night: Night) -> None:
        """A picture whose bytes have changed is not taken for done."""
        manifest = make_manifest()
        night.render(manifest)
        picture = night.folder(manifest).picture("p001")
        data = bytearray(picture.read_bytes())
        data[60] ^= 1
        picture.write_bytes(data)
        assert counts(night.render(manifest)) == (1, 2, 0, 0)
        assert picture_files.read_sidecar(night.folder(manifest).sidecar("p001")) is not None

    def test_force_renders_what_is_done(self, night: Night) -> None:
        """`--force` takes nothing for done."""
        manifest = make_manifest()
        night.render(manifest)
        assert counts(night.render(manifest, force=True)) == (3, 0, 0, 0)

    def test_only_renders_the_named(self, night: Night) -> None:
        """`--only` renders no other, and the summary says how many the manifest has and how many were not chosen."""
        summary = night.render(make_manifest(), only=("p001",))
        assert (counts(summary), summary.pictures, summary.not_chosen) == ((1, 0, 0, 0), 3, 2)

    def test_only_may_name_a_picture_of_one_manifest_of_two(self, night: Night) -> None:
        """What the other has not got is no error; what nobody has is one, before anything is done."""
        both = [make_manifest(name="one"), make_manifest(("a",), name="two")]
        settings = dataclasses.replace(night.settings, only=("p002",))
        assert [counts(each)[0] for each in run.render(both, settings, lambda _: None, StopRequests())] == [1, 0]
        with pytest.raises(UsageError, match="p009"):
            run.render(both, dataclasses.replace(settings, only=("p002", "p009")), lambda _: None, StopRequests())


class TestFailures:
    def test_one_failure_does_not_stop_the_others(self, night: Night) -> None:
        """The bad picture is tried three times, after the rest, and the good ones are there."""
        summary = night.render(make_manifest(("a", "fail", "c")))
        assert counts(summary) == (2, 0, 1, 0)
        assert night.began() == ["p000", "p001", "p002", "p001", "p001"]
        assert summary.failures[0].message == "one flat colour"

    def test_a_second_try_may_succeed(self, night: Night) -> None:
        """A picture that fails once is there in the end, and its sidecar says it took two attempts."""
        manifest = make_manifest(("fail-once", "b"))
        assert counts(night.render(manifest)) == (2, 0, 0, 0)
        sidecar = picture_files.read_sidecar(night.folder(manifest).sidecar("p000"))
        assert sidecar is not None
        assert sidecar.attempt == 2

    def test_failed_pictures_are_tried_again_by_the_next_run(self, night: Night) -> None:
        """A failure is remembered with its reason, and no reason not to try again."""
        manifest = make_manifest(("fail",))
        night.render(manifest, retries=0)
        assert [item.state for item in make_plan(manifest, night.settings.outputs).items] == ["failed"]
        assert counts(night.render(manifest, retries=0)) == (0, 0, 1, 0)
        assert night.began() == ["p000"]

    def test_too_many_in_a_row_end_the_run(self, night: Night) -> None:
        """`--max-failures` saves the night when nothing works any more: the next manifest's pictures are not tried."""
        one, two = make_manifest(["fail"] * 20, name="one"), make_manifest(["fail"] * 3, name="two")
        settings = dataclasses.replace(night.settings, max_failures=3)
        summaries = run.render([one, two], settings, night.heard.append, StopRequests())
        assert [summary.ending for summary in summaries] == ["failures", "failures"]
        assert [counts(summary) for summary in summaries] == [(0, 0, 3, 17), (0, 0, 0, 3)]

    def test_a_row_goes_on_in_the_next_manifest(self, night: Night) -> None:
        """Two failures at the end of one manifest and one at the beginning of the next are three in a row."""
        one, two = make_manifest(["fail"] * 2, name="one"), make_manifest(["fail"] * 3, name="two")
        settings = dataclasses.replace(night.settings, max_failures=3, retries=0)
        summaries = run.render([one, two], settings, night.heard.append, StopRequests())
        assert [counts(summary) for summary in summaries] == [(0, 0, 2, 0), (0, 0, 1, 2)]

    def test_a_good_picture_breaks_the_row(self, night: Night) -> None:
        """Only failures one after the other count."""
        summary = night.render(make_manifest(["fail", "fail", "ok"] * 3), max_failures=3, retries=0)
        assert summary.ending == "complete"
        assert counts(summary) == (3, 0, 6, 0)

    def test_a_picture_of_the_wrong_size_is_a_failure(self, night: Night) -> None:
        """Bytes that cannot be the picture never reach the disk."""
        manifest = make_manifest(("flat-out",))
        assert counts(night.render(manifest)) == (0, 0, 1, 0)
        assert not night.folder(manifest).picture("p000").exists()

    def test_expectations_fail_a_picture_once(self, night: Night) -> None:
        """A picture over its job's limits fails, is not tried again, and says by how much it is over."""
        picture = make_picture(expect=Expect(ram_bytes=999))
        summary = night.render(Manifest(file="jobs/test.yaml", name="test", pictures=(picture,)))
        assert summary.failures[0].message == "1,000 bytes of host memory where 999 were expected at most"
        assert night.began() == ["p000"]

    def test_a_model_that_does_not_open_ends_the_run(self, night: Night) -> None:
        """What the worker says of the machine is what the user reads, and what the summary says of each picture."""
        hire = functools.partial(InlineWorker, behaviour=Behaviour(refuses="no such model"))
        with pytest.raises(MachineError, match="no such model"):
            night.render(make_manifest(), hire=hire)
        summary = night.summary(make_manifest())
        assert (summary.ending, summary.refused) == ("complete", 3)
        assert {failure.message for failure in summary.failures} == {"no such model"}

    def test_a_worker_that_never_opens_ends_the_run(self, night: Night) -> None:
        """Three deaths before the model is open, and the last words of the log are shown."""
        with pytest.raises(MachineError, match="libcuda"):
            night.render(make_manifest(), hire=DyingWorker)


class TestWhatEndsWhat:
    """An error ends no more than it has to: a picture, a model's pictures, a manifest, or the night."""

    def test_a_model_that_does_not_open_costs_its_own_pictures(self, night: Night) -> None:
        """Those of the other model are rendered, in this manifest and the next, and it is not opened again."""
        hired: list[Setup] = []

        def hire(log: Path) -> InlineWorker:
            return RefusesOneModel(log, hired)

        summaries = run.render(
            [two_models("one"), two_models("two")],
            dataclasses.replace(night.settings, hire=hire),
            night.heard.append,
            StopRequests(),
        )
        assert [(counts(each), each.ending) for each in summaries] == [((1, 0, 2, 0), "complete")] * 2
        assert [each.precision for each in hired] == ["fp8", "bf16"]
        assert summaries[1].failures[0].message == "no room for fp8"

    def test_a_model_that_turns_out_to_be_damaged_costs_what_is_left_of_it(self, night: Night) -> None:
        """What was rendered stays; the others say which file it was, nobody is tried again, and no worker died."""
        behaviour = Behaviour(capacity=8)
        summary = night.render(
            make_manifest(("good", "unreadable", "b", "c")), hire=functools.partial(InlineWorker, behaviour=behaviour)
        )
        assert counts(summary) == (1, 0, 3, 0)
        assert (summary.refused, summary.ending) == (3, "complete")
        assert {failure.message for failure in summary.failures} == {"block-003.safetensors: ends too early"}
        assert night.began() == ["p000", "p001"]

    def test_a_model_that_always_dies_costs_its_own_pictures(self, night: Night) -> None:
        """Three deaths while it opens, and each of the next model's openings is counted anew."""
        deaths = iter([True, True, True, True, True, False])

        def hire(log: Path) -> InlineWorker:
            return DyingWorker(log) if next(deaths) else InlineWorker(log)

        summary = night.render(two_models("one"), hire=hire)
        assert counts(summary) == (1, 0, 2, 0)
        assert "died 3 times" in summary.failures[0].message

    def test_a_model_that_this_machine_cannot_run_costs_its_own_pictures(self, night: Night) -> None:
        """It is known before anything is opened; with `strict` it ends the night, and that is known then too."""
        manifest = make_manifest(("a", "b"))
        real = manifest.pictures[0].job.model_copy(update={"model": "Qwen/Qwen-Image", "precision": "fp8"})
        pictures = (manifest.pictures[0].model_copy(update={"job": real}), manifest.pictures[1])
        manifest = dataclasses.replace(manifest, pictures=pictures)
        with pytest.raises(MachineError, match="needs an NVIDIA GPU"):
            night.render(manifest, strict=True)
        assert (night.summary(manifest).ending, night.began()) == ("error", [])
        summary = night.render(manifest)
        assert counts(summary) == (1, 0, 1, 0)
        assert "needs an NVIDIA GPU" in summary.failures[0].message

    @pytest.mark.parametrize("place", ["folder", "link", "long"])
    def test_a_path_that_cannot_be_written_costs_its_picture(self, night: Night, tmp_path: Path, place: str) -> None:
        """A folder in its place, a link that leads out, a name too long: the others are rendered, this one never is."""
        pictures = list(make_manifest().pictures)
        folder = night.folder(make_manifest())
        folder.path.mkdir()
        if place == "folder":
            folder.picture("p001").mkdir()
        else:
            (folder.path / "out").symlink_to(tmp_path)
            pictures[1] = make_picture(1, "b", output="out/p" if place == "link" else "x" * 300)
        manifest = Manifest(file="jobs/test.yaml", name="test", pictures=tuple(pictures))
        summary = night.render(manifest)
        assert (counts(summary), summary.ending) == ((2, 0, 1, 0), "complete")
        assert summary.failures[0].hint
        assert night.began() == ["p000", "p002"]
        (state,) = [item.state for item in make_plan(manifest, night.settings.outputs).items if item.note]
        assert state == "failed"

    def test_what_a_format_cannot_hold_costs_its_picture(self, night: Night) -> None:
        """WebP ends at 16,383 pixels a side: Pillow's refusal is the picture's."""
        manifest = make_manifest()
        wide = manifest.pictures[1].job.model_copy(update={"width": 16400, "height": 16})
        changed = manifest.pictures[1].model_copy(update={"job": wide, "keep": Keep(format="webp")})
        pictures = (manifest.pictures[0], changed, manifest.pictures[2])
        summary = night.render(dataclasses.replace(manifest, pictures=pictures))
        assert counts(summary) == (2, 0, 1, 0)
        assert "WebP limit of 16383 pixels" in summary.failures[0].message

    def test_a_large_journal_is_written_anew_and_forgets_nothing(
        self, night: Night, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run over one picture of a manifest keeps what is held against another, and not what was done."""
        manifest = make_manifest(("a", "b", "crash"))
        marks = {item.picture.id: item.fingerprint for item in make_plan(manifest, night.settings.outputs).items}
        book = Journal.read(night.folder(manifest))
        for what in ("attempt", "crashed", "attempt", "crashed", "attempt", "crashed"):
            book.write(what, "p002", marks["p002"], "died")
        for _ in range(50):
            book.write("attempt", "p000", marks["p000"])
            book.write("done", "p000", marks["p000"])
        monkeypatch.setattr(journal, "_COMPACT_ABOVE_BYTES", 5000)
        before = book.path.stat().st_size
        summary = night.render(manifest, only=("p001",))
        assert counts(summary)[0] == 1
        assert book.path.stat().st_size < before / 5
        states = {item.picture.id: item.state for item in make_plan(manifest, night.settings.outputs).items}
        assert states == {"p000": "to do", "p001": "done", "p002": "set aside"}

    def test_a_journal_that_cannot_be_written_costs_its_manifest(self, night: Night) -> None:
        """The next manifest is rendered; the summary of the first says why it ended."""
        one, two = make_manifest(name="one"), make_manifest(name="two")
        (night.folder(one).path / "journal.jsonl").mkdir(parents=True)
        summaries = run.render([one, two], night.settings, night.heard.append, StopRequests())
        assert [(summary.ending, counts(summary)) for summary in summaries] == [
            ("error", (0, 0, 0, 3)),
            ("complete", (3, 0, 0, 0)),
        ]
        assert "journal.jsonl" in night.summary(one).error

    def test_a_locked_folder_costs_its_manifest(self, night: Night) -> None:
        """The other one is rendered, and nothing is written into the folder that another run holds."""
        one, two = make_manifest(name="one"), make_manifest(name="two")
        with night.folder(one).locked():
            summaries = run.render([one, two], night.settings, night.heard.append, StopRequests())
            assert not (night.folder(one).path / "summary.json").exists()
        assert [summary.ending for summary in summaries] == ["error", "complete"]
        assert "another run" in summaries[0].error

    def test_a_full_disk_ends_the_night_and_every_summary_says_so(
        self, night: Night, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also that of the manifest whose turn did not come: nothing of last night's is left standing."""
        one, two = make_manifest(name="one"), make_manifest(("x", "y"), name="two")
        run.render([two], night.settings, lambda _: None, StopRequests())
        write_whole: Callable[[Path, bytes], None] = files.write_whole

        def full(path: Path, data: bytes) -> None:
            if path.suffix == ".png":
                raise files.disk_error(path, OSError(28, "No space left on device"))
            write_whole(path, data)

        monkeypatch.setattr(picture_files, "write_whole", full)
        with pytest.raises(DiskError, match="No space left"):
            run.render([one, two], night.settings, night.heard.append, StopRequests())
        assert [what.summary.ending for what in night.of(events.BatchEnded)] == ["error", "error"]
        for manifest in (one, two):
            assert "No space left" in night.summary(manifest).error

    def test_what_nobody_foresaw_is_in_the_summary(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """The night ends with it, and its summary does not claim that all went well."""
        night.render(make_manifest())

        def broken(*_: object) -> None:
            raise ZeroDivisionError("a mistake of ours")

        monkeypatch.setattr("renderer.supervisor.results.save", broken)
        with pytest.raises(ZeroDivisionError):
            night.render(make_manifest(("x",)))
        summary = night.summary(make_manifest())
        assert (summary.ending, summary.error) == ("error", "ZeroDivisionError: a mistake of ours")


class RefusesOneModel(InlineWorker):
    """A worker that opens anything but FP8, and says what it was asked to open."""

    def __init__(self, log: Path, asked: list[Setup]) -> None:
        super().__init__(log)
        self._asked = asked

    def send(self, order: AnyOrder) -> None:
        if isinstance(order, Open):
            self._asked.append(order.setup)
            self._behaviour = Behaviour(refuses="no room for fp8" if order.setup.precision == "fp8" else "")
        super().send(order)


def two_models(name: str) -> Manifest:
    """Two pictures at FP8, which come first, and one at bf16."""
    pictures = [
        picture.model_copy(update={"job": picture.job.model_copy(update={"precision": precision})})
        for picture, precision in zip(make_manifest().pictures, ("fp8", "fp8", "bf16"), strict=True)
    ]
    return dataclasses.replace(make_manifest(name=name), pictures=tuple(pictures))


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


def journal_open(folder: Path) -> list[str]:
    """Pictures that have been handed over and not come back, by the journal."""
    book = Journal.read(OutputFolder(folder))
    return [mark for mark, record in book.records.items() if record.left_open]


class TestStopping:
    def test_one_request_lets_the_current_picture_finish(self, night: Night) -> None:
        """Asked once, the run ends after the picture in flight, and can be resumed."""
        manifest = make_manifest(("a", "b", "c"))
        settings = Settings(outputs=night.settings.outputs, hire=InlineWorker)
        stop = StopRequests()

        def ask(what: events.Event) -> None:
            if isinstance(what, events.PictureBegan):
                stop.request()

        (summary,) = run.render([manifest], settings, ask, stop)
        assert summary.ending == "signal"
        assert counts(summary) == (1, 0, 0, 2)
        assert counts(night.render(manifest)) == (2, 1, 0, 0)

    def test_the_grace_ends(self, night: Night) -> None:
        """A picture that does not finish in time is dropped, and nothing is held against it."""
        manifest = make_manifest(("hang",))
        settings = Settings(outputs=night.settings.outputs, hire=FAKE, grace_s=0.5)
        stop = StopRequests()

        def ask(what: events.Event) -> None:
            if isinstance(what, events.PictureBegan):
                stop.request()

        began = time.monotonic()
        (summary,) = run.render([manifest], settings, ask, stop)
        assert time.monotonic() - began < 8
        assert counts(summary) == (0, 0, 0, 1)
        (item,) = make_plan(manifest, night.settings.outputs).items
        assert (item.state, item.suspect) == ("to do", False)

    def test_a_second_request_ends_it_at_once(self, night: Night) -> None:
        """Asked twice, nobody waits for the grace."""
        settings = Settings(outputs=night.settings.outputs, hire=FAKE, grace_s=600)
        stop = StopRequests()

        def ask(what: events.Event) -> None:
            if isinstance(what, events.PictureBegan):
                stop.requests = 2

        began = time.monotonic()
        (summary,) = run.render([make_manifest(("hang",))], settings, ask, stop)
        assert time.monotonic() - began < 8
        assert summary.ending == "signal"

    def test_no_picture_starts_after_the_deadline(self, night: Night) -> None:
        """When the time is up nothing begins, and the summary says why."""
        summary = night.render(make_manifest(), deadline=datetime.now(UTC) - timedelta(seconds=1))
        assert (summary.ending, summary.left) == ("deadline", 3)

    def test_a_picture_that_would_not_finish_is_not_started(self, night: Night) -> None:
        """Going by measured times: a large picture waits for the next night, a small one still goes."""
        small, large = make_picture(0), make_picture(1, steps=200)
        both = Manifest(file="jobs/test.yaml", name="test", pictures=(small, large))
        first = Manifest(file="jobs/test.yaml", name="test", pictures=(make_picture(0, "measured"),))
        hire = functools.partial(InlineWorker, behaviour=Behaviour())
        night.render(first, hire=hire)
        sidecar = picture_files.read_sidecar(night.folder(first).sidecar("p000"))
        assert sidecar is not None
        assert sidecar.timing.total_s
        room = timedelta(seconds=max(0.5, sidecar.timing.total_s * 20))
        slow = sidecar.model_copy(update={"timing": sidecar.timing.model_copy(update={"total_s": 0.1})})
        night.folder(first).sidecar("p000").write_text(slow.model_dump_json())
        both = Manifest(
            file="jobs/test.yaml", name="test", pictures=(make_picture(0, "measured"), large, make_picture(2))
        )
        summary = night.render(both, hire=hire, deadline=datetime.now(UTC) + min(room, timedelta(seconds=2)))
        assert night.began() == ["p002"]
        assert (summary.ending, summary.left) == ("deadline", 1)

    def test_what_has_not_begun_is_given_back(self, night: Night) -> None:
        """Asked once to stop, a worker that holds eight pictures finishes the one it has begun, and no other."""
        manifest = make_manifest(["slow"] * 12)
        stop = StopRequests()

        def ask(what: events.Event) -> None:
            night.heard.append(what)
            if isinstance(what, events.PictureBegan):
                stop.requests = 1

        settings = Settings(outputs=night.settings.outputs, hire=FAKE_OF_EIGHT)
        (summary,) = run.render([manifest], settings, ask, stop)
        assert (summary.ending, counts(summary)) == ("signal", (1, 0, 0, 11))
        assert [what.in_flight for what in night.of(events.Stopping)] == [1]
        book = (night.folder(manifest).path / "journal.jsonl").read_text()
        assert book.count('"dropped"') == 7
        assert journal_open(night.folder(manifest).path) == []
        plan = make_plan(manifest, night.settings.outputs)
        assert (plan.count("to do"), any(item.suspect for item in plan.items)) == (11, False)
        assert counts(night.render(manifest)) == (11, 1, 0, 0)

    def test_after_too_many_failures_the_rest_is_given_back(self, night: Night) -> None:
        """The third failure in a row is the last, though the worker holds five pictures more."""
        hire = functools.partial(InlineWorker, behaviour=Behaviour(capacity=8))
        summary = night.render(make_manifest(["fail"] * 12), hire=hire, max_failures=3, retries=0)
        assert (summary.ending, counts(summary)) == ("failures", (0, 0, 3, 9))
        assert night.began() == ["p000", "p001", "p002"]
        assert journal_open(night.folder(make_manifest()).path) == []

    def test_at_the_deadline_the_rest_is_given_back(self, night: Night) -> None:
        """Pictures that take longer than those before them: when the time is up, the one begun is the last."""
        first = Manifest(file="jobs/test.yaml", name="test", pictures=(make_picture(0, "measured"),))
        night.render(first)
        path = night.folder(first).sidecar("p000")
        sidecar = picture_files.read_sidecar(path)
        assert sidecar is not None
        quick = sidecar.model_copy(update={"timing": sidecar.timing.model_copy(update={"total_s": 0.001})})
        path.write_text(quick.model_dump_json())
        many = make_manifest(["measured", *["slow"] * 8])
        settings = Settings(
            outputs=night.settings.outputs, hire=FAKE_OF_EIGHT, deadline=datetime.now(UTC) + timedelta(seconds=1.2)
        )
        (summary,) = run.render([many], settings, night.heard.append, StopRequests())
        assert summary.ending == "deadline"
        assert 0 < summary.rendered < 8
        assert summary.left == 8 - summary.rendered
        assert journal_open(night.folder(many).path) == []

    def test_a_worker_that_takes_many_is_not_given_more_than_there_is_time_for(self, night: Night) -> None:
        """Before a deadline, pictures are handed over as if they came one after the other, however many it takes."""
        first = Manifest(file="jobs/test.yaml", name="test", pictures=(make_picture(0, "measured"),))
        night.render(first)
        path = night.folder(first).sidecar("p000")
        sidecar = picture_files.read_sidecar(path)
        assert sidecar is not None
        slow = sidecar.model_copy(update={"timing": sidecar.timing.model_copy(update={"total_s": 10.0})})
        path.write_text(slow.model_dump_json())
        many = make_manifest(["measured", *(f"picture {number}" for number in range(20))])
        hire = functools.partial(InlineWorker, behaviour=Behaviour(capacity=32))
        most = 0

        def count(what: events.Event) -> None:
            nonlocal most
            if isinstance(what, events.PictureBegan) and not most:  # later ones show that it goes faster
                most = len(journal_open(night.folder(many).path))

        settings = Settings(
            outputs=night.settings.outputs, hire=hire, deadline=datetime.now(UTC) + timedelta(seconds=25)
        )
        run.render([many], settings, count, StopRequests())
        assert most == 2


class TestPrivacy:
    def test_a_local_model_s_path_is_told_to_nobody(self, night: Night, tmp_path: Path, demo_folder: Path) -> None:
        """The sidecar names a local model by folder and content; moving the folder changes no fingerprint."""
        for place in ("here", "there"):
            shutil.copytree(demo_folder, tmp_path / place / "my-model")
        marks = []
        for place in ("here", "there"):
            job = make_job().model_copy(update={"model": str(tmp_path / place / "my-model")})
            picture = make_picture().model_copy(update={"job": job})
            manifest = Manifest(file="jobs/test.yaml", name="test", pictures=(picture,))
            night.render(manifest, profile="cpu")
            text = night.folder(manifest).sidecar("p000").read_text()
            assert str(tmp_path) not in text
            marks.append(json.loads(text)["fingerprint"])
        assert marks[0] == marks[1]


class TestOrder:
    def test_a_suspect_waits_for_the_others(self, night: Night) -> None:
        """A picture whose run vanished comes last, so that what it may bring down again has done its work."""
        manifest = make_manifest()
        plan = make_plan(manifest, night.settings.outputs)
        plan.journal.write("attempt", "p000", plan.items[0].fingerprint)
        night.render(manifest)
        assert night.began() == ["p001", "p002", "p000"]


class TestFolders:
    def test_two_runs_at_once(self, night: Night) -> None:
        """The second run is turned away before it touches anything."""
        manifest = make_manifest()
        with night.folder(manifest).locked(), pytest.raises(LockedError):
            night.render(manifest)
        assert not night.folder(manifest).picture("p000").exists()

    def test_leftovers_are_swept_up(self, night: Night) -> None:
        """Temporary files of dead runs are gone after the next one."""
        manifest = make_manifest()
        night.folder(manifest).path.mkdir()
        leftover = night.folder(manifest).path / ".part-dead"
        leftover.write_bytes(b"x")
        night.render(manifest)
        assert not leftover.exists()

    def test_a_full_disk_ends_the_run_and_keeps_what_is_there(
        self, night: Night, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When a picture cannot be written the run ends with the reason; the next one goes on."""
        manifest = make_manifest()
        write_whole: Callable[[Path, bytes], None] = files.write_whole

        def full(path: Path, data: bytes) -> None:
            if path.name == "p001.png":
                raise files.disk_error(path, OSError(28, "No space left on device"))
            write_whole(path, data)

        with monkeypatch.context() as patched:
            patched.setattr(picture_files, "write_whole", full)
            with pytest.raises(DiskError, match="No space left"):
                night.render(manifest)
        assert counts(night.render(manifest)) == (2, 1, 0, 0)

    def test_a_disk_that_cannot_hold_the_pictures_is_refused_at_the_start(
        self, night: Night, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is fetched, nobody is hired and nothing is written; with room it goes on as ever."""
        manifest = make_manifest()
        with monkeypatch.context() as patched:
            patched.setattr(hardware, "free_disk_bytes", lambda _: 5000)
            patched.setattr(provision, "obtain", lambda *_: pytest.fail("models were asked for"))
            with pytest.raises(MachineError, match=r"3 pictures take .* at the least, likely .*, and 5 kB are free"):
                night.render(manifest)
        assert night.of(events.WorkerOpening) == []
        assert {path.name for path in night.folder(manifest).path.iterdir()} == {".lock", "summary.json"}
        assert "at the least" in night.summary(manifest).error
        assert counts(night.render(manifest)) == (3, 0, 0, 0)
        assert night.of(events.Remark) == []

    def test_a_disk_that_may_be_too_small_is_a_warning(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is said before anything is rendered, and everything is rendered."""
        monkeypatch.setattr(hardware, "free_disk_bytes", lambda _: 30_000)
        assert counts(night.render(make_manifest())) == (3, 0, 0, 0)
        (remark,) = night.of(events.Remark)
        assert "and 30 kB are free" in remark.text
        assert night.heard[0] == remark

    def test_a_night_with_a_deadline_is_not_to_do_it_all(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is room for one of three: with a deadline that is a warning."""
        monkeypatch.setattr(hardware, "free_disk_bytes", lambda _: 5000)
        soon = datetime.now(UTC) + timedelta(hours=1)
        assert counts(night.render(make_manifest(), deadline=soon)) == (3, 0, 0, 0)
        assert len(night.of(events.Remark)) == 1

    def test_a_small_disk_indeed(self, tmp_path: Path) -> None:
        """On a real file system of 64 kB: sixty are refused, and a full disk ends a run in good order."""
        with small_disk(tmp_path / "small", "64k") as outputs:
            night = Night(outputs)
            manifest = make_manifest([str(number) for number in range(60)])
            with pytest.raises(MachineError, match="60 pictures take"):
                night.render(manifest)
            assert night.of(events.BatchBegan) == []
            soon = datetime.now(UTC) + timedelta(hours=1)
            with pytest.raises(DiskError, match="No space left"):
                night.render(manifest, deadline=soon)
            assert night.of(events.Remark)
            done = make_plan(manifest, outputs, thorough=True).count("done")
            assert 1 <= done == len(night.of(events.PictureDone))
            assert not list(outputs.rglob(".part-*"))

    def test_the_pixels_are_the_worker_s(self, night: Night) -> None:
        """What the worker sent is what lies on the disk, under the right name."""
        manifest = make_manifest()
        night.render(manifest)
        for picture in manifest.pictures:
            assert pixels_of(night.folder(manifest).picture(picture.output)) == draw(picture.job)

    def test_another_format_costs_no_rendering(self, night: Night) -> None:
        """A finished picture that is to be kept another way is written anew from its file, and no worker is hired."""
        manifest = make_manifest()
        night.render(manifest)
        folder = night.folder(manifest)
        kept = Keep(format="webp", embed="basic")
        pictures = tuple(picture.model_copy(update={"keep": kept}) for picture in manifest.pictures)
        changed = Manifest(manifest.file, manifest.name, pictures)
        assert counts(night.render(changed, hire=DyingWorker)) == (0, 3, 0, 0)
        assert not folder.picture("p000").exists()
        assert pixels_of(folder.picture("p000", "webp")) == draw(manifest.pictures[0].job)
        sidecar = picture_files.read_sidecar(folder.sidecar("p000"))
        assert sidecar is not None
        assert (sidecar.keep, sidecar.file.name) == (kept, "p000.webp")
        assert counts(night.render(changed, hire=DyingWorker)) == (0, 3, 0, 0)


class TestWhatCannotFit:
    def test_a_picture_that_cannot_fit_fails_at_no_cost(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a card that is too small for one of three, that one fails with numbers, is never tried, and two come."""
        free = CONTEXT_BYTES + 60 * 2**20
        card = LocalGpu(0, "a small card", "GPU-1", free, free, "580.1", (8, 9))
        monkeypatch.setattr(hardware, "look", lambda: hardware.Machine((card,), 2, 2**36, 2**36))
        manifest = make_manifest()
        large = manifest.pictures[1].job.model_copy(update={"width": 1024, "height": 1024})
        pictures = (manifest.pictures[0], manifest.pictures[1].model_copy(update={"job": large}), manifest.pictures[2])
        summary = night.render(dataclasses.replace(manifest, pictures=pictures))
        assert counts(summary) == (2, 0, 1, 0)
        assert night.began() == ["p000", "p002"]
        assert re.match(r"1024x1024 needs 0\.\d\d GiB of GPU memory", summary.failures[0].message)
        assert summary.failures[0].hint.startswith("the nearest size that fits is ")
