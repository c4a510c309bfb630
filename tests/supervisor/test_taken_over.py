"""A part that is lost while it is rendered: from then on whoever had it writes nothing there, whatever it was at."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from renderer.errors import LeaseLostError
from renderer.job import Keep, Lettering, Picture, Sidecar
from renderer.manifest import manifest as manifests
from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files
from renderer.outputs.folder import OutputFolder, Own
from renderer.outputs.journal import Journal
from renderer.planning import sharding
from renderer.report.page import PageWriter
from renderer.supervisor import events, readings, run
from renderer.supervisor.events import Watchers
from renderer.supervisor.settings import Settings, StopRequests
from renderer.supervisor.sharing import LEASES, leases_in
from renderer.system import files
from renderer.system.files import PART_PREFIX
from renderer.system.leases import Lease, Leases
from tests.fakes import InlineReader, InlineWorker, draw
from tests.making import make_picture, pixels_of

POINTS = {"part-written", "line-ready", "linked", "removed"}
_MOST_LINES = 6


def taken_over(outputs: Path, name: str) -> None:
    """Another machine has the lease on a part, is through with it at once, and lets it go."""
    leases = Leases(outputs / LEASES)
    seen = leases.latest(name)
    assert seen is not None
    assert leases._made(leases.path(name, seen.number + 1), leases._text("free"))
    leases.path(name, seen.number).unlink()


def lying(folder: Path) -> dict[str, bytes]:
    """All that lies in a folder, but for what nobody looks at: parts of files, and what workers printed."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if not path.name.startswith(PART_PREFIX) and path.suffix != ".log"
    }


class Losing:
    """Takes a part over at each point of each file's writing, once: what lies there then stays, until it is claimed."""

    def __init__(self, outputs: Path, name: str, patch: pytest.MonkeyPatch) -> None:
        self.lost: list[str] = []
        self._outputs, self._name, self._folder = outputs, name, outputs / name
        self._there: dict[str, bytes] | None = None
        self._lock = threading.Lock()
        self._lines = 0
        claim = Leases.claim

        def claimed(leases: Leases, name: str) -> Lease | None:
            self.look()
            return claim(leases, name)

        patch.setattr(files, "reached", self._reached)
        patch.setattr(Leases, "claim", claimed)

    def look(self) -> None:
        """See that nothing has changed since it was lost."""
        with self._lock:
            if self._there is not None:
                assert lying(self._folder) == self._there, self.lost[-1]
                self._there = None

    def _reached(self, point: str, path: Path) -> None:
        with self._lock:
            if self._there is not None or point not in POINTS or not path.is_relative_to(self._folder):
                return
            what = f"{point} {self._kind(point, path)}"
            if what not in self.lost:
                self.lost.append(what)
                taken_over(self._outputs, self._name)
                self._there = lying(self._folder)

    def _kind(self, point: str, path: Path) -> str:
        name = str(path.relative_to(self._folder))
        if name.startswith((Own.THUMBS, Own.ASSETS, Own.CONTACT_SHEET)):
            return "beside the page"
        if name.startswith((Own.TAKES, "more")):
            return f"…{path.suffix}"
        if point == "line-ready":
            self._lines += 1
            return f"{name} {min(self._lines, _MOST_LINES)}"
        return PART_PREFIX if path.name.startswith(PART_PREFIX) else name


def named(picture: Picture, name: str, **changes: object) -> Picture:
    return picture.model_copy(update={"id": name, "output": name, **changes})


def pictures(folder: Path) -> tuple[list[Picture], list[Picture]]:
    """What is rendered first; and then: with one under another name, one in another format, and those of all kinds."""
    Image.new("RGB", (64, 64), "teal").save(folder / "shop.png")
    path = folder / "edit.yaml"
    path.write_text("jobs: [{prompt: a, model: demo, size: 64x64, steps: 2, image: shop.png, precision: bf16}]\n")
    plain = [named(make_picture(number, "plain"), f"plain-{number}") for number in range(3)]
    moved, kept = named(plain[1], "moved"), named(plain[2], "plain-2", keep=Keep(format="webp"))
    new = make_picture(3, "new")
    layered = make_picture(4, "layered")
    layered = named(layered, "layered", job=layered.job.model_copy(update={"layer_num": 2}))
    told = named(make_picture(10, "says"), "told", lettering=Lettering(texts=("WORD",), seeds=(10, 11)))
    edit = named(manifests.load(path).pictures[0], "edit")
    return plain, [plain[0], moved, kept, named(new, "new"), named(new, "twin"), layered, told, edit]


def rendered(outputs: Path, those: list[Picture], watch: Callable[[events.Event], None]) -> None:
    """One run over the one part that these are."""
    whole = Manifest("jobs/test.yaml", "test", tuple(those))
    parts = sharding.share(whole, 1, outputs)
    (summary,) = run.render(parts, Settings(outputs=outputs, hire=InlineWorker), watch, StopRequests())
    assert (summary.ending, summary.is_all_there) == ("complete", True)


def test_nothing_is_written_into_a_part_that_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no point of no file: pictures, layers, twins, takes, what is moved or kept another way, journal and page."""
    monkeypatch.setattr(readings, "LetterReader", lambda: InlineReader("WORD", frozenset({11})))
    outputs, remarks = tmp_path / "outputs", []
    first, then = pictures(tmp_path)
    rendered(outputs, first, lambda _: None)
    (part,) = sharding.folders(Manifest("jobs/test.yaml", "test", ()), outputs)
    losing = Losing(outputs, part.path.name, monkeypatch)
    with Watchers() as watchers:
        pages = PageWriter(watchers)
        watchers.add("the page", pages.watch, pages.close)
        watchers.add("the test", lambda what: remarks.append(what) if isinstance(what, events.Remark) else None)
        before = -1
        while len(losing.lost) > before:  # what comes at the end is not come to where all is done
            before = len(losing.lost)
            rendered(outputs, then, watchers)
            then.append(named(make_picture(100 + len(then), "more"), f"more-{len(then)}"))
    losing.look()
    del then[-1]
    told = [each.text for each in remarks if "this machine computes in" not in each.text]  # of a CPU without bf16
    assert len([each for each in told if "thrown away" in each]) == len(told), told
    kinds = {each.split(" ", 1)[1] for each in losing.lost}
    assert {"told.png", "told.json", "twin.png", "moved.png", "plain-2.webp", "layered.layer-2.png"} <= kinds
    assert {"journal.jsonl 6", "running.json", "summary.json", "index.html", "beside the page", PART_PREFIX} <= kinds
    check(part, then)


def check(part: OutputFolder, those: list[Picture]) -> None:
    """All are there, each as it is to be, and nothing is left over."""
    for picture in those:
        sidecar = picture_files.read_sidecar(part.sidecar(picture.output))
        assert isinstance(sidecar, Sidecar)
        path = part.picture(picture.output, picture.keep.format)
        assert sidecar.file.sha256 == files.sha256_of(path)
        assert pixels_of(path) == draw(sidecar.job)
    assert not list(part.path.rglob(f"{PART_PREFIX}*"))
    assert not part.takes.exists()


def test_a_run_that_is_stopped_while_another_has_its_part_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it lost the part is no error of its own: it ends as any other that was asked to, and may be begun again."""
    (part,) = sharding.share(Manifest("jobs/test.yaml", "test", (make_picture(),)), 1, tmp_path)
    stop = StopRequests()

    def reached(point: str, path: Path) -> None:
        if point == "part-written" and path.name == "p000.png":
            monkeypatch.undo()
            taken_over(tmp_path, part.name)

    def watch(what: events.Event) -> None:
        if isinstance(what, events.Remark) and "thrown away" in what.text:
            stop.request()

    monkeypatch.setattr(files, "reached", reached)
    (summary,) = run.render([part], Settings(outputs=tmp_path, hire=InlineWorker), watch, stop)
    assert (summary.ending, summary.left, summary.error) == ("signal", 1, "")


# ---- between the question and the write ------------------------------------------------------------------------------


def test_who_stops_between_the_question_and_the_renaming_renames_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes a part over sweeps it first: what was about to be renamed is not there any more."""
    leases = leases_in(tmp_path)
    lease = leases.claim("part")
    assert lease is not None
    folder = OutputFolder(tmp_path / "part").guarded(lease.check)
    replace = os.replace

    def late(source: Path, target: Path) -> None:
        if target == folder.status:
            monkeypatch.setattr(os, "replace", replace)
            taken_over(tmp_path, "part")
            picture_files.sweep(OutputFolder(folder.path))
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    with pytest.raises(LeaseLostError):
        folder.write(folder.status, b"mine")
    assert not list(folder.path.iterdir())
    lease.release()


def test_who_stops_between_the_question_and_a_removal_puts_back_what_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another picture stands under that name by then."""
    lease = leases_in(tmp_path).claim("part")
    assert lease is not None
    folder = OutputFolder(tmp_path / "part").guarded(lease.check)
    path, replace = folder.picture("p"), os.replace
    folder.write(path, b"mine")

    def late(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        taken_over(tmp_path, "part")
        OutputFolder(folder.path).write(path, b"theirs")
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    with pytest.raises(LeaseLostError):
        folder.remove(path)
    assert [each.read_bytes() for each in folder.path.iterdir()] == [b"theirs"]
    lease.release()


def test_who_stops_between_the_question_and_a_line_writes_it_into_no_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes a part over writes its journal anew: what has the old one open writes into that."""
    folder = OutputFolder(tmp_path)
    Journal.read(folder).write("attempt", "p", "1" * 64)
    theirs, write = Journal.read(folder), files._write_all

    def late(descriptor: int, data: bytes) -> None:
        monkeypatch.setattr(files, "_write_all", write)
        theirs.take_over()
        write(descriptor, data)

    mine = Journal.read(folder)
    monkeypatch.setattr(files, "_write_all", late)
    mine.write("dropped", "p", "1" * 64)
    theirs.write("done", "p", "1" * 64)
    assert [entry.what for entry in Journal.read(folder).read_on()] == []
    again = Journal(folder)
    assert [entry.what for entry in again.read_on()] == ["attempt", "done"]
