"""A night beside its rendering: what is checked, kept another way, chosen before a deadline."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import threading
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from renderer.job import Keep
from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files
from renderer.outputs.done import FoundSidecar
from renderer.outputs.folder import OutputFolder
from renderer.planning.pace import Pace
from renderer.planning.plan import Planned, make_plan
from renderer.protocol import AnyOrder, Render
from renderer.supervisor import events, run
from renderer.supervisor.settings import StopRequests
from renderer.supervisor.worker import Heard
from renderer.weights import hashes
from renderer.weights.hashes import Piece
from tests.fakes import Behaviour, DyingWorker, InlineWorker, draw
from tests.making import make_manifest, make_picture, pixels_of
from tests.nights import make_night
from tests.supervisor.running import Night, counts


def kept_as(manifest: Manifest, keep: Keep, *, but: int = 0) -> Manifest:
    """The same pictures kept another way, but for the last ones."""
    count = len(manifest.pictures) - but
    changed = [each.model_copy(update={"keep": keep}) for each in manifest.pictures[:count]]
    return dataclasses.replace(manifest, pictures=(*changed, *manifest.pictures[count:]))


class WaitsForFormat(InlineWorker):
    """A worker that is busy with its picture until files of another format are there."""

    def __init__(self, _log: Path, *, files: list[Path]) -> None:
        super().__init__(_log)
        self._files = files
        self._ordered = False

    def send(self, order: AnyOrder, payload: bytes = b"") -> None:
        self._ordered = self._ordered or isinstance(order, Render)
        super().send(order, payload)

    def hear(self, timeout_s: float) -> Heard | None:
        if self._ordered and not all(path.exists() for path in self._files):
            time.sleep(min(timeout_s, 0.01))
            return None
        return super().hear(timeout_s)


class TestKeepingAnotherWay:
    def test_it_goes_on_beside_the_rendering(self, night: Night) -> None:
        """While a worker is busy with a new picture, those that are there get their new format."""
        before = make_manifest(("a", "b", "c", "d"))
        folder = night.folder(before)
        night.render(before, only=("p000", "p001", "p002"))
        after = kept_as(before, Keep(format="webp"), but=1)
        files = [folder.picture(name, "webp") for name in ("p000", "p001", "p002")]
        hire = functools.partial(WaitsForFormat, files=files)
        summary = night.render(after, hire=hire, stuck_after_s=20.0)
        assert (counts(summary), summary.brought, night.began()) == ((1, 3, 0, 0), 3, ["p003"])
        for picture in after.pictures:
            assert pixels_of(folder.picture(picture.output, picture.keep.format)) == draw(picture.job)

    @pytest.mark.parametrize("ending", ["signal", "deadline"])
    def test_it_is_heard_to_end(self, night: Night, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
        """Asked to stop, or out of time, no other is begun; the next run goes on and renders nothing."""
        before = make_manifest([str(number) for number in range(30)])
        night.render(before)
        after = kept_as(before, Keep(format="webp"))
        stop, written = StopRequests(), 0
        real: Callable[..., object] = picture_files.rewrite
        settings = dataclasses.replace(night.settings, hire=DyingWorker)
        if ending == "deadline":
            settings = dataclasses.replace(settings, deadline=datetime.now(UTC) + timedelta(seconds=3))

        def rewrite(*arguments: object) -> object:
            nonlocal written
            written += 1
            if written == 3:
                stop.requests = int(ending == "signal")
                while settings.deadline is not None and datetime.now(UTC) <= settings.deadline:
                    time.sleep(0.01)
            return real(*arguments)

        monkeypatch.setattr(picture_files, "rewrite", rewrite)
        (summary,) = run.render([after], settings, lambda _: None, stop)
        assert summary.ending == ending
        assert 3 <= written == summary.brought <= 8
        assert (summary.rendered, summary.left) == (0, 30 - written)
        assert counts(night.render(after, hire=DyingWorker)) == (0, 30, 0, 0)

    def test_one_that_cannot_be_read_fails_alone(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its reason is in the summary, the others get their format, and no worker is hired."""
        before = make_manifest()
        night.render(before)
        real: Callable[..., object] = picture_files.rewrite

        def rewrite(folder: OutputFolder, output: str, *more: object) -> object:
            if output == "p001":
                night.folder(before).picture("p001").unlink()
            return real(folder, output, *more)

        monkeypatch.setattr(picture_files, "rewrite", rewrite)
        summary = night.render(kept_as(before, Keep(format="webp")), hire=DyingWorker)
        assert (counts(summary), summary.failures[0].id) == ((0, 2, 1, 0), "p001")
        assert "cannot read" in summary.failures[0].message


class TestChecking:
    def test_it_is_heard_to_end(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """Asked to stop while a thousand finished pictures are hashed, it does not look at the rest, and says so."""
        manifest = make_manifest([str(number) for number in range(1000)])
        make_night(manifest, night.settings.outputs, same_picture=True)
        stop, looked = StopRequests(), 0
        real = FoundSidecar.is_whole

        def is_whole(self: FoundSidecar, folder: OutputFolder, *, thorough: bool) -> bool:
            nonlocal looked
            looked += 1
            stop.requests = int(looked > 250)
            return real(self, folder, thorough=thorough)

        monkeypatch.setattr(FoundSidecar, "is_whole", is_whole)
        (summary,) = run.render([manifest], dataclasses.replace(night.settings, hire=DyingWorker), lambda _: None, stop)
        assert (summary.ending, looked) == ("signal", 400)
        assert night.summary(manifest).ending == "signal"

    def test_it_is_said_when_it_takes_long(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """How many of how many, and for which manifest; never for what takes no second."""
        manifest = make_manifest([str(number) for number in range(500)])
        make_night(manifest, night.settings.outputs, same_picture=True)
        night.render(manifest, hire=DyingWorker)
        assert night.of(events.Busy) == []
        monkeypatch.setattr("renderer.supervisor.busy.TELL_AFTER_S", 0.0)
        monkeypatch.setattr("renderer.supervisor.busy._EVERY_S", 0.0)
        night.render(manifest, hire=DyingWorker)
        told = [(what.name, what.done, what.total) for what in night.of(events.Busy)]
        assert told == [("test", 200, 500), ("test", 400, 500)]

    def test_a_finished_picture_takes_little_memory(self, tmp_path: Path) -> None:
        """A plan keeps less than 2 kB of each, for there may be a hundred thousand."""
        manifest = make_manifest([str(number) for number in range(1000)])
        make_night(manifest, tmp_path, same_picture=True)
        make_plan(manifest, tmp_path)
        tracemalloc.start()
        try:
            plan = make_plan(manifest, tmp_path)
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert plan.count("done") == 1000
        assert taken / 1000 < 2000


class TestBeforeADeadline:
    def test_a_group_that_does_not_fit_leaves_the_others_their_turn(self, night: Night) -> None:
        """Large pictures of one model have no time left; those of another precision are rendered."""
        first = make_manifest(("measured",))
        night.render(first)
        path = night.folder(first).sidecar("p000")
        sidecar = picture_files.read_sidecar(path)
        assert sidecar is not None
        slow = sidecar.model_copy(update={"timing": sidecar.timing.model_copy(update={"total_s": 1000.0})})
        path.write_text(slow.model_dump_json())
        manifest = make_manifest(("measured", "b", "c"))
        quick = manifest.pictures[2].job.model_copy(update={"precision": "fp8"})
        pictures = (*manifest.pictures[:2], manifest.pictures[2].model_copy(update={"job": quick}))
        soon = datetime.now(UTC) + timedelta(seconds=60)
        summary = night.render(dataclasses.replace(manifest, pictures=pictures), deadline=soon)
        assert (summary.ending, counts(summary), night.began()) == ("deadline", (1, 1, 0, 1), ["p002"])

    def test_what_does_not_fit_is_asked_once(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """A thousand wait, none fits beside the one in flight, and its steps are heard without asking again."""
        first = make_manifest(("measured",))
        night.render(first)
        path = night.folder(first).sidecar("p000")
        sidecar = picture_files.read_sidecar(path)
        assert sidecar is not None
        slow = sidecar.model_copy(update={"timing": sidecar.timing.model_copy(update={"total_s": 40.0})})
        path.write_text(slow.model_dump_json())
        asked = 0
        real = Pace.expect_s

        def expect_s(self: Pace, item: Planned, profile: str) -> float | None:
            nonlocal asked
            asked += 1
            return real(self, item, profile)  # type: ignore[arg-type]

        most = 0

        def watch(what: events.Event) -> None:
            nonlocal most
            if isinstance(what, events.PictureStepped) and not most:
                most = asked

        monkeypatch.setattr(Pace, "expect_s", expect_s)
        pictures = [make_picture(0, "measured"), *(make_picture(number, "x") for number in range(1, 1001))]
        manifest = Manifest(file="jobs/test.yaml", name="test", pictures=tuple(pictures))
        hire = functools.partial(InlineWorker, behaviour=Behaviour(capacity=32))
        deadline = datetime.now(UTC) + timedelta(seconds=60)
        settings = dataclasses.replace(night.settings, hire=hire, deadline=deadline, max_failures=1)
        stop = StopRequests()

        def until_a_picture(what: events.Event) -> None:
            watch(what)
            stop.requests = int(isinstance(what, events.PictureDone)) or stop.requests

        run.render([manifest], settings, until_a_picture, stop)
        assert 0 < most < 20


def test_a_plan_keeps_no_second_job(tmp_path: Path) -> None:
    """What is known of a finished picture has the manifest's own job in it, not a copy."""
    manifest = make_manifest(("a",))
    make_night(manifest, tmp_path)
    (item,) = make_plan(manifest, tmp_path).items
    assert item.sidecar is not None
    assert item.sidecar.job is manifest.pictures[0].job


class TestReadingModels:
    def local(self, tmp_path: Path, demo_folder: Path) -> Manifest:
        """A manifest of a model in a folder, whose files nobody has read before."""
        folder = tmp_path / "models" / "mine"
        shutil.copytree(demo_folder, folder)
        job = make_manifest().pictures[0].job.model_copy(update={"model": str(folder)})
        pictures = (make_manifest().pictures[0].model_copy(update={"job": job}),)
        return dataclasses.replace(make_manifest(), pictures=pictures)

    def test_it_is_heard_to_end(
        self, night: Night, tmp_path: Path, demo_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Asked to stop while a model's files are hashed, it leaves them, and nothing is rendered."""
        manifest = self.local(tmp_path, demo_folder)
        stop, read = StopRequests(), 0

        def sha256_of(_piece: Piece, heard: Callable[[int], None]) -> str:
            nonlocal read
            read += 1
            stop.requests = 1
            while True:  # a file that is never read to its end
                heard(1)
                time.sleep(0.01)

        monkeypatch.setattr(hashes, "sha256_of", sha256_of)
        settings = dataclasses.replace(night.settings, hire=DyingWorker)
        (summary,) = run.render([manifest], settings, night.heard.append, stop)
        assert (summary.ending, summary.left, read > 0) == ("signal", 1, True)

    def test_it_is_said(self, night: Night, tmp_path: Path, demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """How much of how much, while it is read; the second time it is known, and nothing is said."""
        manifest = self.local(tmp_path, demo_folder)
        monkeypatch.setattr("renderer.supervisor.busy.TELL_AFTER_S", 0.0)
        real = hashes.sha256_of
        told = threading.Event()

        def sha256_of(piece: Piece, heard: Callable[[int], None]) -> str:
            told.wait(20)
            return real(piece, heard)

        def watch(what: events.Event) -> None:
            night.heard.append(what)
            if isinstance(what, events.Busy):
                told.set()

        monkeypatch.setattr(hashes, "sha256_of", sha256_of)
        run.render([manifest], dataclasses.replace(night.settings, profile="cpu"), watch, StopRequests())
        assert {what.what for what in night.of(events.Busy)} == {"reading a model's files, MB"}
        night.render(manifest, profile="cpu", hire=DyingWorker)
        assert night.of(events.Busy) == []
