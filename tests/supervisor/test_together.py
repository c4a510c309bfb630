"""Several manifests in one night: what is opened, in which order they come, and what one of them costs the others."""

from __future__ import annotations

import dataclasses
import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from renderer.errors import DiskError
from renderer.manifest.manifest import Manifest, load
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal, JournalEntry
from renderer.outputs.picture_files import read_sidecar
from renderer.outputs.summary import Summary
from renderer.supervisor import events, run
from renderer.supervisor.batch import Batch
from renderer.supervisor.settings import Settings, StopRequests
from tests import driving
from tests.fakes import Behaviour, DiesWithAll, InlineWorker, draw
from tests.making import make_manifest, pixels_of
from tests.supervisor.running import FAKE, Night, counts
from tests.supervisor.test_several import TWO, Workers, mixed


def render(night: Night, *manifests: Manifest, **changes: object) -> list[Summary]:
    night.heard.clear()
    settings = dataclasses.replace(night.settings, **changes)  # type: ignore[arg-type]
    return run.render(manifests, settings, night.heard.append, night.stop)


def of(manifest: Manifest, name: str, priority: float = 0.0) -> Manifest:
    """The same with another name, and other pictures."""
    changed = tuple(
        each.model_copy(update={"job": each.job.model_copy(update={"prompt": f"{each.job.prompt} {name}"})})
        for each in manifest.pictures
    )
    return dataclasses.replace(manifest, name=name, file=f"jobs/{name}.yaml", pictures=changed, priority=priority)


def began(night: Night) -> list[str]:
    return [f"{what.item.batch}/{what.item.picture.id}" for what in night.of(events.PictureBegan)]


def opened(hire: Workers) -> list[str]:
    return [setup.precision for setups in hire.opened.values() for setup in setups]


class TestOnePlan:
    def test_weights_are_opened_once_for_all(self, night: Night) -> None:
        """Each of three manifests wants two models: two openings, where one after the other takes six."""
        hire = Workers(capacity=4)
        three = [of(mixed(("bf16", 2), ("fp8", 2)), name) for name in ("one", "two", "three")]
        assert [counts(each) for each in render(night, *three, hire=hire)] == [(4, 0, 0, 0)] * 3
        assert opened(hire) == ["bf16", "fp8"]

    def test_pictures_of_one_id_go_to_their_own_folders(self, night: Night) -> None:
        """Both manifests have a p000; they are with one worker at the same time."""
        one, two = of(make_manifest(), "one"), of(make_manifest(), "two")
        hire = Workers(capacity=6)
        assert [counts(each)[0] for each in render(night, one, two, hire=hire)] == [3, 3]
        assert hire.given["worker.log"] == ["p000", "p001", "p002", "two/p000", "two/p001", "two/p002"]
        done = {(what.item.batch, what.sidecar.job.prompt) for what in night.of(events.PictureDone)}
        assert done == {(name, f"{prompt} {name}") for name in ("one", "two") for prompt in "abc"}

    def test_each_ends_when_it_is_through(self, night: Night) -> None:
        """Its summary is there while the other is rendered still, and what is all there already ends at once."""
        one, two, there = make_manifest(["a"], "one"), make_manifest(["slow"] * 12, "two"), make_manifest(name="there")
        render(night, there)
        one_ended: list[tuple[str, int]] = []
        two_began: list[str] = []

        def watch(what: events.Event) -> None:
            if isinstance(what, events.BatchEnded):
                one_ended.append((what.summary.name, len(two_began)))
            elif isinstance(what, events.PictureBegan) and what.item.batch == "two":
                two_began.append(what.item.picture.id)

        settings = dataclasses.replace(night.settings, hire=FAKE)
        run.render([one, two, there], settings, watch, night.stop)
        assert [name for name, _ in one_ended] == ["there", "one", "two"]
        assert one_ended[1][1] < 12

    def test_there_is_one_bar_and_one_end_time(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """A tick counts all pictures, and what each folder says of itself says how all of them stand."""
        monkeypatch.setattr("renderer.supervisor.heartbeat._FLYING_S", 0.0)
        monkeypatch.setattr("renderer.outputs.status._EVERY_S", 0.0)
        one, two = make_manifest(["slow"] * 2, "one"), make_manifest(["slow"] * 4, "two")
        said: list[str] = []

        def watch(what: events.Event) -> None:
            night.heard.append(what)
            path = night.folder(two).status
            if isinstance(what, events.Tick) and path.exists():
                said.append(path.read_text())

        run.render([one, two], dataclasses.replace(night.settings, hire=FAKE), watch, night.stop)
        ticks = [what.status for what in night.of(events.Tick) if what.status is not None]
        assert {(tick.name, tick.to_render) for tick in ticks} == {("2 manifests", 6)}
        assert any(tick.left_s for tick in ticks)
        assert any('"phase":"waiting"' in text and '"manifests":2,"to_render":6' in text for text in said)
        (ended,) = night.of(events.NightEnded)
        assert [summary.name for summary in ended.summaries] == ["one", "two"]

    def test_a_failure_is_tried_again_and_counted_where_it_belongs(self, night: Night) -> None:
        one, two = make_manifest(["fail", "a"], "one"), make_manifest(["b"], "two")
        assert [counts(each) for each in render(night, one, two)] == [(1, 0, 1, 0), (1, 0, 0, 0)]
        assert began(night) == ["one/p000", "one/p001", "two/p000", "one/p000", "one/p000"]

    def test_a_worker_that_dies_with_pictures_of_both_is_one_failure(self, night: Night) -> None:
        """Though three failures would do: each journal has what was its own, and all are rendered, alone."""
        one, two = make_manifest("abcd", "one"), make_manifest("efgh", "two")
        hired: list[Path] = []

        def hire(log: Path) -> InlineWorker:
            hired.append(log)
            return _of_four(log) if len(hired) > 1 else DiesWithAll(log)

        summaries = render(night, one, two, hire=hire, max_failures=3)
        assert [counts(each) for each in summaries] == [(4, 0, 0, 0), (4, 0, 0, 0)]
        assert [len(what.items) for what in night.of(events.WorkerLost)] == [8]
        for manifest in (one, two):
            text = night.folder(manifest).journal.read_text()
            assert text.count('"crashed"') == 4

    def test_more_folders_than_a_shell_lets_a_process_open(self, night: Night) -> None:
        """Each has a lock that stays open; 1,024 files are what most shells allow, and the system many more."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        there = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
        free = [number for number in range(1000) if number not in there]
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[30], hard))
        try:
            found = render(night, *(make_manifest(["a"], f"m{number}") for number in range(40)))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [counts(each)[0] for each in found] == [1] * 40


class TestPriority:
    def test_the_higher_comes_first(self, night: Night) -> None:
        """Whatever stands first on the command line, though a model is opened twice for it; a tie keeps its order."""
        low, high = of(mixed(("bf16", 1), ("fp8", 1)), "low"), of(mixed(("fp8", 1), ("bf16", 1)), "high", 5)
        hire = Workers()
        render(night, low, of(make_manifest(["x"]), "tie"), high, hire=hire)
        assert began(night) == ["high/p000", "high/p001", "low/p000", "tie/p000", "low/p001"]
        assert opened(hire) == ["fp8", "bf16", "fp8"]

    def test_workers_side_by_side_go_to_the_higher_first(self, night: Night) -> None:
        """Two workers: all of the urgent one's pictures are given out before any of the other."""
        low, high = of(make_manifest("abcdef"), "low"), of(make_manifest("abcdef"), "high", 1)
        render(night, low, high, gpus=TWO, hire=Workers())
        assert {name.split("/")[0] for name in began(night)[:6]} == {"high"}

    def test_it_is_a_manifest_s_own(self, tmp_path: Path) -> None:
        """`priority:` at its top; it changes no fingerprint."""
        path = tmp_path / "m.yaml"
        path.write_text("priority: 2.5\njobs: [a]\n")
        first = load(path)
        path.write_text("jobs: [a]\n")
        assert (first.priority, load(path).priority) == (2.5, 0.0)
        assert first.pictures[0].job == load(path).pictures[0].job


class TestWhatOneCostsTheOthers:
    def test_a_journal_that_is_lost_costs_its_manifest(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the middle of a sweep with pictures of both: the other is rendered, and the summary says what it was."""
        one, two = make_manifest("abcd", "one"), make_manifest("efgh", "two")
        write = Journal.write

        def lost(book: Journal, what: str, picture_id: str, *rest: str) -> None:
            if what == "done" and book.path.parent.name == "one" and picture_id == "p001":
                raise DiskError("cannot write journal.jsonl: Permission denied")
            write(book, what, picture_id, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(Journal, "write", lost)
        first, second = render(night, one, two, hire=Workers(capacity=8))
        assert (first.ending, "Permission denied" in first.error) == ("error", True)
        assert (second.ending, counts(second)) == ("complete", (4, 0, 0, 0))
        with pytest.raises(DiskError, match="Permission denied"):
            render(night, one, two, strict=True, force=True)

    def test_asked_to_stop_both_say_so(self, night: Night) -> None:
        """What was begun is finished, and the next run renders what is left of both, once."""
        one, two = make_manifest(["slow"] * 3, "one"), make_manifest(["slow"] * 3, "two")
        stop = StopRequests()

        def watch(what: events.Event) -> None:
            if isinstance(what, events.PictureBegan):
                stop.request()

        summaries = run.render([one, two], dataclasses.replace(night.settings, hire=FAKE), watch, stop)
        assert [(each.ending, each.left) for each in summaries] == [("signal", 2), ("signal", 3)]
        assert [counts(each) for each in render(night, one, two)] == [(2, 1, 0, 0), (3, 0, 0, 0)]


class TestJoining:
    def test_failures_in_a_row_end_a_watched_folder_too(self, night: Night, tmp_path: Path) -> None:
        """It does not wait for more, of which nothing would be begun."""
        inbox = _inbox(tmp_path, m="fail")
        (summary,) = render(night, make_manifest(["fail"] * 3), max_failures=2, retries=0, watch_folder=inbox)
        assert (summary.ending, summary.left) == ("failures", 1)

    def test_one_that_cannot_begin_is_answered(
        self, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its folder takes nothing: whoever gave it hears why, and the others are rendered."""
        begin = Batch.begin

        def fails(batch: Batch) -> Any:
            if batch.name == "m":
                raise DiskError("cannot write m/001.png: Permission denied")
            return begin(batch)

        def watch(what: events.Event) -> None:
            night.heard.append(what)
            if isinstance(what, events.Waiting) and "n" in {each.summary.name for each in night.of(events.BatchEnded)}:
                night.stop.request()  # a busy machine may have found only the other one before

        monkeypatch.setattr(Batch, "begin", fails)
        settings = dataclasses.replace(night.settings, hire=FAKE, watch_folder=_inbox(tmp_path, m="a", n="b"))
        summaries = run.render([make_manifest(["slow"] * 4)], settings, watch, night.stop)
        assert {each.name: each.ending for each in summaries} == {"test": "complete", "m": "error", "n": "complete"}
        assert "m.yaml is not rendered: cannot write m/001.png: Permission denied" in [
            what.text for what in night.of(events.Remark)
        ]

    def test_a_journal_that_is_lost_leaves_those_that_come(
        self, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The only one on its way: what is found in the folder meanwhile is rendered all the same."""
        write, inbox = Journal.write, _inbox(tmp_path)

        def lost(book: Journal, what: str, *rest: str) -> None:
            if what == "done" and book.path.parent.name == "test":
                _inbox(tmp_path, m="a")
                raise DiskError("cannot write journal.jsonl: Permission denied")
            write(book, what, *rest)  # type: ignore[arg-type]

        def watch(what: events.Event) -> None:
            if isinstance(what, events.BatchEnded) and what.summary.name == "m":
                night.stop.request()

        monkeypatch.setattr(Journal, "write", lost)
        settings = dataclasses.replace(night.settings, hire=FAKE, watch_folder=inbox)
        first, second = run.render([make_manifest("a")], settings, watch, night.stop)
        assert (first.ending, "Permission denied" in first.error) == ("error", True)
        assert (second.ending, counts(second)) == ("complete", (1, 0, 0, 0))


def _inbox(folder: Path, **prompts: str) -> Path:
    """A folder of manifests with one small picture each, which have lain there for long."""
    inbox = folder / "inbox"
    inbox.mkdir(exist_ok=True)
    for name, prompt in prompts.items():
        driving.write_manifest(inbox, prompt, name=name)
    return inbox


def test_kills_lose_nothing_in_any_folder(tmp_path: Path) -> None:
    """`kill -9` at random moments of a night of three manifests: all is rendered, once, in its own folder."""
    dice = random.Random(20261127)  # noqa: S311
    three = [of(make_manifest([str(number) for number in range(16)]), f"m{name}", name % 2) for name in range(3)]
    for _ in range(12):
        _killed_after(tmp_path, three, dice.uniform(0.0, 0.15))
    _killed_after(tmp_path, three, None)
    for manifest in three:
        lines = (tmp_path / manifest.name / "journal.jsonl").read_bytes().splitlines()
        told = Counter((entry.what, entry.id) for entry in map(JournalEntry.model_validate_json, lines))
        assert all(count == 1 and what == "done" for (what, _), count in told.items() if what not in _OPEN)
        folder = OutputFolder(tmp_path / manifest.name)
        assert all(pixels_of(folder.picture(each.output)) == draw(each.job) for each in manifest.pictures)
        assert all(read_sidecar(folder.sidecar(each.output)) is not None for each in manifest.pictures)


_OPEN = ("attempt", "dropped")


def _killed_after(outputs: Path, manifests: Sequence[Manifest], after_s: float | None) -> None:
    child = os.fork()
    if child == 0:
        try:
            run.render(manifests, Settings(outputs=outputs, hire=_of_four), lambda _: None, StopRequests())
        finally:
            os._exit(0)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _of_four(log: Path) -> InlineWorker:
    return InlineWorker(log, Behaviour(capacity=4))
