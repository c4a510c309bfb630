"""Manifests that come while a night is at its end, or waits: each has its turn until the night has really ended."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from renderer.cli.refusals import Refusals
from renderer.lettering import asking
from renderer.manifest.manifest import Manifest, load
from renderer.outputs.summary import Summary
from renderer.planning.plan import Plan
from renderer.report import page
from renderer.supervisor import events, joining, readings, run
from renderer.supervisor.events import Watch
from tests import driving
from tests.fakes import InlineReader
from tests.making import make_manifest
from tests.supervisor.running import Night
from tests.supervisor.test_readings import lettered
from tests.supervisor.test_together import _inbox

LETTERED = "defaults: {model: demo, size: 64x64, steps: 4, precision: bf16%s}\njobs:\n  - {prompt: 'says \"WORD\"'}\n"


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is looked into often, and a file is still sooner."""
    monkeypatch.setattr("renderer.supervisor.watched._STILL_S", 0.1)
    monkeypatch.setattr("renderer.supervisor.joining._LOOK_S", 0.05)
    monkeypatch.setattr("renderer.supervisor.rendering.TICK_S", 0.02)


def plain(manifest: Manifest) -> Manifest:
    """The same, of which nothing is read."""
    return dataclasses.replace(
        manifest, pictures=tuple(each.model_copy(update={"lettering": None}) for each in manifest.pictures)
    )


def wait_for(night: Night, inbox: Path, last: str, *manifests: Manifest) -> Sequence[Summary]:
    """A night over manifests and a folder, which is stopped when the one called `last` is through; soon, at worst."""

    def watch(what: events.Event) -> None:
        night.heard.append(what)
        if isinstance(what, events.BatchEnded) and what.summary.name == last:
            night.stop.request()

    deadline = datetime.now(UTC) + timedelta(seconds=90)
    settings = dataclasses.replace(night.settings, watch_folder=inbox, deadline=deadline)
    return run.render(manifests, settings, watch, night.stop)


def test_what_comes_during_the_last_reading_is_rendered_beside_it(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that was there before is read for as long as the other takes."""
    inbox, rendered = _inbox(tmp_path), threading.Event()

    class Slow(InlineReader):
        def read(self, path: Path) -> asking.Answer:
            _inbox(tmp_path, m="a")
            assert rendered.wait(60), "it was not rendered before all had been read"
            return super().read(path)

    manifest = lettered(1)
    night.render(plain(manifest))
    monkeypatch.setattr(readings, "LetterReader", lambda: Slow("WORD", frozenset({0})))

    def watch(what: events.Event) -> None:
        if isinstance(what, events.PictureDone) and what.item.batch == "m":
            rendered.set()
        elif isinstance(what, events.Waiting):
            night.stop.request()

    settings = dataclasses.replace(night.settings, watch_folder=inbox)
    found = run.render([manifest], settings, watch, night.stop)
    assert [(each.name, each.ending, each.left) for each in found] == [("test", "complete", 0), ("m", "complete", 0)]


def test_what_comes_and_is_only_to_be_read_is_read(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is rendered, and the run waits for more meanwhile: it ends all the same, long before the run."""
    monkeypatch.setattr(readings, "LetterReader", lambda: InlineReader("WORD", frozenset()))
    inbox = _inbox(tmp_path)
    (inbox / "m.yaml").write_text(LETTERED % "")
    night.render(load(inbox / "m.yaml"))
    (inbox / "m.yaml").write_text(LETTERED % ", lettering: auto")
    (found,) = wait_for(night, inbox, "m")
    assert (found.ending, found.lettering and found.lettering.read) == ("complete", 1)


def test_what_the_run_began_with_is_not_found_once_more(night: Night, tmp_path: Path) -> None:
    """It lies in the folder and was named as well: with `--force` too it is rendered once, until it is changed."""
    inbox = _inbox(tmp_path)
    driving.write_manifest(inbox, "a", "b")
    driving.write_manifest(inbox, "c", name="z")
    night.settings = dataclasses.replace(night.settings, force=True)
    wait_for(night, inbox, "z", load(inbox / "m.yaml"))
    assert night.began() == ["001", "002", "001"]


def test_what_comes_and_is_only_to_be_kept_another_way_is(night: Night, tmp_path: Path) -> None:
    inbox = _inbox(tmp_path)
    driving.write_manifest(inbox, "a")
    night.render(load(inbox / "m.yaml"))
    (inbox / "m.yaml").write_text((inbox / "m.yaml").read_text().replace("bf16}", "bf16, format: webp}"))
    (found,) = wait_for(night, inbox, "m")
    assert (found.ending, (tmp_path / "m/001.webp").is_file()) == ("complete", True)


def test_one_that_is_mended_is_refused_no_more(night: Night, tmp_path: Path) -> None:
    """What is wrong at the end is what the exit code and the morning's message say, and nothing that was mended."""
    inbox, refusals = _inbox(tmp_path, good="a"), Refusals()
    (inbox / "bad.yaml").write_text("jobs: [{promt: a}]")
    (inbox / "worse.yaml").write_text("jobs: [")

    def watch(what: events.Event) -> None:
        night.heard.append(what)
        refusals.watch(what)
        if len(refusals.problems) == 2 and "promt" in (inbox / "bad.yaml").read_text():
            driving.write_manifest(inbox, "b", name="bad")
        elif isinstance(what, events.BatchEnded) and what.summary.name == "bad":
            night.stop.request()

    deadline = datetime.now(UTC) + timedelta(seconds=90)
    settings = dataclasses.replace(night.settings, watch_folder=inbox, deadline=deadline)
    found = run.render([], settings, watch, night.stop)
    assert {each.name: each.rendered for each in found} == {"good": 1, "bad": 1}
    assert [problem.file.rsplit("/", 1)[-1] for problem in refusals.problems] == ["worse.yaml"]


def test_whatever_goes_wrong_with_one_the_others_join(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of our own with one that is not well: it is told, and the run hears of the next one and ends."""

    def fails(_path: Path) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(joining, "bases_of", fails)
    inbox = _inbox(tmp_path, good="a")
    (inbox / "bad.yaml").write_text("jobs: [{promt: a}]")
    (found,) = wait_for(night, inbox, "good")
    assert (found.ending, found.rendered) == ("complete", 1)
    assert [what.text for what in night.of(events.Remark)] == [
        "bad.yaml is not rendered: ZeroDivisionError: a mistake of ours"
    ]


def test_a_folder_that_is_away_is_told_and_waited_for(night: Night, tmp_path: Path) -> None:
    """A share that is unmounted for a while: once that, once that it is back, and what lies there then is rendered."""
    inbox, away = _inbox(tmp_path), tmp_path / "away"

    def watch(what: events.Event) -> None:
        night.heard.append(what)
        if isinstance(what, events.Waiting) and not night.of(events.Remark):
            inbox.rename(away)
        elif isinstance(what, events.Remark) and "cannot be looked into" in what.text:
            driving.write_manifest(away, "a")
            away.rename(inbox)
        elif isinstance(what, events.BatchEnded):
            night.stop.request()

    deadline = datetime.now(UTC) + timedelta(seconds=90)
    settings = dataclasses.replace(night.settings, watch_folder=inbox, deadline=deadline)
    (found,) = run.render([], settings, watch, night.stop)
    assert (found.ending, found.rendered) == ("complete", 1)
    assert [what.text.removeprefix(f"{inbox} ") for what in night.of(events.Remark)] == [
        "cannot be looked into: No such file or directory; it is waited for",
        "can be looked into again",
    ]


@pytest.mark.parametrize("asked", [1, 2])
def test_pages_that_wait_are_given_up_when_the_run_is_to_end(
    night: Night, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    """Hundreds of manifests that ended in a moment, and somebody asks to stop while their pages are written.

    The one that is being written is; asked once, the others have some time, which is told, and how many are not there.
    """
    wrote, told, given_up = list[str](), list[events.Event](), threading.Event()

    def write(plan: Plan, _watch: object) -> Path:
        assert given_up.wait(10)
        wrote.append(plan.manifest.name)
        return plan.folder.page

    def tell(what: events.Event) -> None:
        told.append(what)
        if isinstance(what, events.Remark) and "not written" in what.text:
            given_up.set()

    monkeypatch.setattr(page, "write", write)
    monkeypatch.setattr(page, "_LEAST_S", 1.0)
    monkeypatch.setattr(page, "TELL_AFTER_S", 0.0)
    monkeypatch.setattr(page, "_LOOK_S", 0.01)
    writer = page.PageWriter(tell, night.stop, 0.1)

    def watch(what: events.Event) -> None:
        if isinstance(what, events.NightEnded):
            night.stop.request()
            night.stop.requests = asked
        writer.watch(what)

    run.render([make_manifest("a", name=f"m{number}") for number in range(6)], night.settings, watch, night.stop)
    writer.close()
    assert len(wrote) == 1
    first, *others = (what.text for what in reversed(told) if isinstance(what, events.Remark))
    assert first == "5 pages not written: the run was asked to end; the next one writes what is missing"
    assert [each.split(", ")[0] for each in others] == ["6 pages left to write"][asked - 1 :]


@pytest.mark.parametrize(("manifests", "told"), [(1, {"making thumbnails"}), (3, {"writing pages"})])
def test_one_thing_is_told_of_pages_at_the_end(
    night: Night, monkeypatch: pytest.MonkeyPatch, manifests: int, told: set[str]
) -> None:
    """Of one how its thumbnails come, of several how many are there: lines that take turns would fill a log."""
    heard, ends = list[events.Event](), threading.Event()

    def write(plan: Plan, watch: Watch) -> Path:
        watch(events.Busy(plan.manifest.name, "making thumbnails", 1, 9))
        assert ends.wait(10)
        return plan.folder.page

    def tell(what: events.Event) -> None:
        heard.append(what)
        if len(heard) == 4:
            ends.set()

    for name, seconds in (("TELL_AFTER_S", 0.0), ("_EVERY_S", 0.0)):
        monkeypatch.setattr(f"renderer.supervisor.busy.{name}", seconds)
    monkeypatch.setattr(page, "write", write)
    monkeypatch.setattr(page, "_LOOK_S", 0.01)
    writer = page.PageWriter(tell)
    those = [make_manifest("a", name=f"m{number}") for number in range(manifests)]
    run.render(those, night.settings, writer.watch, night.stop)
    writer.close()
    assert {what.what for what in heard if isinstance(what, events.Busy)} == told
