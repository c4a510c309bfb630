"""A run that is asked to stop, or whose time is up, ends in good order."""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime, timedelta, tzinfo

import pytest

from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files
from renderer.planning.plan import make_plan
from renderer.supervisor import events, run
from renderer.supervisor.settings import Pause, Settings, StopRequests, uptime_s
from tests.fakes import Behaviour, InlineWorker
from tests.making import make_manifest, make_picture
from tests.supervisor.running import FAKE, FAKE_OF_EIGHT, Night, counts, journal_open


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
        assert time.monotonic() - began < 30
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
        assert time.monotonic() - began < 30
        assert summary.ending == "signal"

    def test_no_picture_starts_after_the_deadline(self, night: Night) -> None:
        """When the time is up nothing begins, and the summary says why."""
        summary = night.render(make_manifest(), deadline=datetime.now(UTC) - timedelta(seconds=1))
        assert (summary.ending, summary.left) == ("deadline", 3)

    def test_the_earlier_of_two_deadlines_counts(self, night: Night) -> None:
        """An hour of the day, and so many hours from the beginning."""
        soon, later = datetime.now(UTC) - timedelta(seconds=1), datetime.now(UTC) + timedelta(hours=1)
        for changes in ({"deadline": soon, "ends_s": uptime_s() + 3600}, {"deadline": later, "ends_s": uptime_s() - 1}):
            assert night.render(make_manifest(), **changes).ending == "deadline"
        assert night.render(make_manifest(), deadline=later, ends_s=uptime_s() + 3600).ending == "complete"

    def test_hours_are_hours_whatever_the_clock_shows(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """A machine without a clock of its own begins its night in another year, and is told the time meanwhile."""

        class Jumped(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Jumped:
                return cls(2099, 1, 1, tzinfo=tz)

        monkeypatch.setattr("renderer.supervisor.settings.datetime", Jumped)
        assert night.render(make_manifest(), ends_s=uptime_s() + 3600).ending == "complete"
        assert night.render(make_manifest("x"), deadline=datetime(2098, 1, 1, tzinfo=UTC)).ending == "deadline"

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


class TestPausing:
    def test_workers_go_after_a_while_and_come_again(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """A paused night gives the GPU's memory back, and opens the model anew when it goes on: nothing is lost."""
        pause = Pause(keeps_s=0.3)
        monkeypatch.setattr(run, "Pause", lambda: pause)
        phases: list[str] = []

        def watch(what: events.Event) -> None:
            night.heard.append(what)
            if isinstance(what, events.PictureDone):
                pause.is_on |= len(night.of(events.PictureDone)) == 1
            elif isinstance(what, events.Pausing) and what.let_go:
                assert len(night.of(events.PictureDone)) < 3
                pause.is_on = False
            elif isinstance(what, events.Tick) and what.status is not None:
                phases.append(what.status.phase)

        settings = Settings(outputs=night.settings.outputs, hire=FAKE)
        (summary,) = run.render([make_manifest(["slow"] * 3)], settings, watch, StopRequests())
        assert counts(summary) == (3, 0, 0, 0)
        assert [(what.paused, what.let_go) for what in night.of(events.Pausing)] == [
            (True, False),
            (True, True),
            (False, False),
        ]
        assert len(night.of(events.WorkerOpened)) == 2
        assert "paused" in phases

    def test_what_was_given_back_begins_in_its_order(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker that holds eight gives seven back when a pause comes: they wait where they were."""
        pause, manifest = Pause(), make_manifest(["slow", *"bcdefghij"])
        monkeypatch.setattr(run, "Pause", lambda: pause)

        def watch(what: events.Event) -> None:
            night.heard.append(what)
            if isinstance(what, events.PictureBegan) and len(night.began()) == 1:
                pause.is_on = True
            elif isinstance(what, events.Tick) and what.status is not None and what.status.phase == "paused":
                pause.is_on = bool(what.status.in_flight or what.status.queued)

        settings = Settings(outputs=night.settings.outputs, hire=FAKE_OF_EIGHT)
        (summary,) = run.render([manifest], settings, watch, StopRequests())
        assert counts(summary) == (10, 0, 0, 0)
        assert (night.folder(manifest).path / "journal.jsonl").read_text().count('"dropped"') == 7
        assert night.began() == [picture.id for picture in manifest.pictures]

    def test_a_paused_night_can_be_stopped(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """It ends, and what it had not begun is left."""
        pause, stop = Pause(is_on=True), StopRequests()
        monkeypatch.setattr(run, "Pause", lambda: pause)

        def watch(what: events.Event) -> None:
            if isinstance(what, events.Tick) and what.status is not None:
                stop.request()

        (summary,) = run.render([make_manifest("abc")], night.settings, watch, stop)
        assert (summary.ending, counts(summary)) == ("signal", (0, 0, 0, 3))
