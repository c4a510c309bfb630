"""Many workers: what the supervisor does for a word does not grow with how many there are (`crowd` measures it)."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import pytest

from renderer.job import Job
from renderer.machine.hardware import Machine
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal
from renderer.planning import fitting
from renderer.protocol import AnyOrder, Render, Setup
from renderer.supervisor import events, rendering, run
from renderer.supervisor.pool import Seat, WorkerPool
from renderer.supervisor.settings import Settings, StopRequests
from renderer.system import files
from tests.making import make_manifest
from tests.supervisor.crowd import Crowd, CrowdWorker, measure

WORKERS = 40


def test_of_many_workers_only_those_are_asked_that_have_rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what each is given is written down for all at once, before any of them hears of it."""
    asked, synced, heard = [0], [0], [0]
    hear, append, send = Seat.hear, files.append_line, CrowdWorker.send
    known: set[str] = set()

    def hearing(self: Seat, timeout_s: float) -> object:
        asked[0] += 1
        found = hear(self, timeout_s)
        heard[0] += found is not None
        return found

    def appending(path: Path, line: bytes, guard: files.WriteGuard) -> None:
        append(path, line, guard)
        if path.name == "journal.jsonl":
            synced[0] += 1
            known.update(Journal.read(folder).records)

    def sending(self: CrowdWorker, order: AnyOrder, payload: bytes = b"") -> None:
        if isinstance(order, Render):
            given.append(order.key)
            assert fingerprints[order.key] in known, "sent before it was written down"
        send(self, order, payload)

    monkeypatch.setattr(Seat, "hear", hearing)
    monkeypatch.setattr(files, "append_line", appending)
    monkeypatch.setattr(CrowdWorker, "send", sending)
    manifest = make_manifest([f"{number}" for number in range(WORKERS * 3)])
    given: list[str] = []
    fingerprints: dict[str, str] = {}
    began = StopRequests()

    def watch(what: events.Event) -> None:
        if isinstance(what, events.BatchBegan):
            fingerprints.update({item.picture.id: item.fingerprint for item in what.plan.items})

    folder = OutputFolder(tmp_path / manifest.name)
    settings = Settings(tmp_path, fleet=Crowd(WORKERS, 0.02))
    (summary,) = run.render([manifest], settings, watch, began)
    assert summary.rendered == len(manifest.pictures)
    assert heard[0] > 4 * len(manifest.pictures)
    assert asked[0] < 3 * heard[0]
    assert synced[0] < len(manifest.pictures) + len(given) / 3


def test_devices_that_are_alike_are_reckoned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand of one kind take as long to plan for as one."""
    counted: list[Setup] = []
    refusals = fitting.refusals

    def counting(jobs: Sequence[Job], setup: Setup, machine: Machine) -> dict[Job, fitting.SizeRefusal]:
        counted.append(setup)
        return refusals(jobs, setup, machine)

    monkeypatch.setattr(fitting, "refusals", counting)
    manifest = make_manifest(["a"])
    run.render([manifest], Settings(tmp_path, fleet=Crowd(WORKERS, 0.01)), lambda _: None, StopRequests())
    assert len(counted) == 1


@pytest.mark.parametrize("workers", [WORKERS, 2])
def test_what_a_crowd_holds_is_not_looked_through_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """For what nobody holds any more: that takes longer than a crowd may be left alone. Afterwards it is."""
    freeze, frozen = gc.freeze, [0]

    def freezing() -> None:
        frozen[0] += 1
        freeze()

    monkeypatch.setattr(rendering, "_FREEZE_S", 0.0)
    monkeypatch.setattr(gc, "freeze", freezing)
    manifest = make_manifest([f"{number}" for number in range(workers * 3)])
    run.render([manifest], Settings(tmp_path, fleet=Crowd(workers, 0.1)), lambda _: None, StopRequests())
    assert (frozen[0] > 1) is (workers == WORKERS)
    assert gc.get_freeze_count() == 0


def test_the_measurement_measures(tmp_path: Path) -> None:
    """A short one, of few: it is stopped in the middle, and says what it took."""
    found = measure(20, 1.5, tmp_path, step_s=0.01)
    assert (found["workers"], found["rendered"] != 0) == (20, True)
    assert WorkerPool.hear.__qualname__ == "WorkerPool.hear", "nothing is left of it"
