"""A process that is stopped in the middle of its work, past its lease, and wakes: what it was at is another's by then.

And one whose clock is hours off. Real processes at one part, with fake workers: none lost, none twice.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files
from renderer.outputs.folder import OutputFolder, Own
from renderer.outputs.journal import JournalEntry
from renderer.planning import sharding
from renderer.report.page import PageWriter
from renderer.supervisor import events, readings, run, sharing
from renderer.supervisor.events import Watchers
from renderer.supervisor.settings import Settings, StopRequests
from renderer.supervisor.sharing import LEASES
from renderer.system import files
from renderer.system.leases import Leases
from tests.fakes import InlineReader, InlineWorker
from tests.making import make_manifest
from tests.supervisor import test_sharing
from tests.supervisor.test_taken_over import check, lying, pictures

NOBODY = StopRequests()
STALE_S = 0.3
"""The taker's: it looks on for a third of that, and what the other had is made to look old."""


def stop_here() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def once(owner: Any, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
    """Be stopped right before this function is called, the first time that its arguments are those."""
    real = getattr(owner, name)

    @functools.wraps(real)
    def called(*arguments: Any, **named: Any) -> Any:
        if when(*arguments):
            setattr(owner, name, real)
            stop_here()
        return real(*arguments, **named)

    setattr(owner, name, called)


def at(point: str, name: str) -> Callable[..., bool]:
    return lambda here, path: here == point and path.name == name


MOMENTS: dict[str, Callable[[], None]] = {
    "a picture is encoded": lambda: once(picture_files, "encode"),
    "it is about to be renamed": lambda: once(os, "replace", lambda _, path: Path(path).name == "new.png"),
    "a picture is there, its sidecar not": lambda: once(files, "reached", at("renamed", "new.png")),
    "twins are copied": lambda: once(files, "reached", at("part-synced", "twin.png")),
    "lettering is read": lambda: once(InlineReader, "read"),
    "a line is about to be written": lambda: once(files, "_write_all", lambda _, data: b'"done"' in data),
    "the status is about to be taken away": lambda: once(files, "remove", lambda path, _: path.name == "running.json"),
    "the summary is written": lambda: once(files, "reached", at("part-synced", "summary.json")),
    "the page is written": lambda: once(files, "reached", at("part-written", "index.html")),
}


def render(outputs: Path, whole: Manifest, stale_s: float) -> int:
    """One supervisor's run over the one part, with its page; how many it says that it rendered."""
    with Watchers() as watchers:
        pages = PageWriter(watchers)
        watchers.add("the page", pages.watch, pages.close)
        settings = Settings(outputs=outputs, hire=InlineWorker, stale_s=stale_s)
        (summary,) = run.render(sharding.share(whole, 1, outputs), settings, watchers, StopRequests())
    assert (summary.ending, summary.is_all_there) == ("complete", True)
    return summary.rendered


def stopped(outputs: Path, whole: Manifest, prepare: Callable[[], None]) -> int:
    """A supervisor that has been stopped, and whose lease looks old; its process."""
    child = os.fork()
    if child == 0:
        status = 9
        try:
            prepare()
            render(outputs, whole, 60.0)
            status = 0
        finally:
            os._exit(status)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    for lease in (outputs / LEASES).glob("test-*"):
        os.utime(lease, (1.0, 1.0))
    return child


def done(part: OutputFolder) -> Iterator[tuple[str, str]]:
    """What a journal says of each picture, one after the other; none is begun once it is done."""
    ended: set[str] = set()
    for entry in map(JournalEntry.model_validate_json, part.journal.read_bytes().splitlines()):
        assert entry.fingerprint not in ended or entry.what == "done", entry  # a twin's, or of one that was moved
        ended |= {entry.fingerprint} if entry.what == "done" else set()
        yield entry.id, entry.what


@pytest.mark.parametrize("moment", MOMENTS)
def test_who_is_stopped_and_wakes_changes_nothing(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another has the part, and all of it is there: what lies in it stays as it is, and all ends well for both."""
    monkeypatch.setattr(readings, "LetterReader", lambda: InlineReader("WORD", frozenset({11})))
    outputs = tmp_path / "outputs"
    first, then = pictures(tmp_path)
    whole = Manifest("jobs/test.yaml", "test", tuple(then))
    render(outputs, Manifest("jobs/test.yaml", "test", tuple(first)), 60.0)
    child = stopped(outputs, whole, MOMENTS[moment])
    try:
        render(outputs, whole, STALE_S)
        (part,) = sharding.folders(whole, outputs)
        there, told = lying(part.path), list(done(part))
        check(part, then)
    finally:
        os.kill(child, signal.SIGCONT)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lying(part.path) == there
    assert list(done(part)) == told
    assert {Own.SUMMARY, Own.PAGE} <= there.keys()
    assert Own.STATUS not in there


def lost(outputs: Path, manifest: Manifest) -> int:
    """How many parts a run over all of them loses to another, and has no picture of."""
    remarks: list[str] = []

    def watch(what: events.Event) -> None:
        if isinstance(what, events.Remark):
            remarks.append(what.text)

    found = run.render(
        sharding.share(manifest, 4, outputs), test_sharing.settings(outputs, stale_s=60.0), watch, NOBODY
    )
    return sum("thrown away" in each for each in remarks) + sum(not each.is_all_there for each in found)


@pytest.mark.parametrize("skew_s", [-7200.0, 7200.0])
def test_a_machine_whose_clock_is_hours_off(skew_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file system writes its own time too: what it renews looks dead to the other, or to be renewed in hours."""
    monkeypatch.setattr(sharing, "_LOOK_S", 0.05)
    manifest = make_manifest([f"picture {number}" for number in range(32)])
    write = Leases._write

    def written(path: Path, data: bytes) -> None:
        write(path, data)
        there = path.stat().st_mtime + skew_s
        os.utime(path, (there, there))

    child = os.fork()
    if child == 0:
        status = 9
        try:
            now = time.time
            time.time = lambda: now() + skew_s
            Leases._write = staticmethod(written)  # type: ignore[method-assign]
            status = lost(tmp_path, manifest)
        finally:
            os._exit(status)
    here = lost(tmp_path, manifest)
    assert (here, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) == (0, 0)
    test_sharing.check(tmp_path, manifest)
