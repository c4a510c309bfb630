"""The power goes at any moment: no finished picture is lost, doubled or not what its sidecar says, and runs go on.

A kill leaves the system's memory as it was; a power cut takes whatever was not synced. Here every call of a small run
is recorded (`power`), the power cut after each, and what is left on the meanest disk is looked at and rendered to its
end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from renderer.job import Keep, Picture
from renderer.manifest.manifest import Manifest
from renderer.outputs import journal, picture_files
from renderer.outputs.folder import OutputFolder, Own
from renderer.supervisor import events, run
from renderer.supervisor.settings import Settings, StopRequests
from renderer.system import files
from tests.fakes import InlineWorker, draw
from tests.making import finished, make_picture, pixels_of
from tests.power import Call, Cut, Disk, Killed, Recorder, Tree, put

PROMPTS = ("a", "fail-once", "c")
OUTPUTS = ("p0", "sub/p1", "sub/deep/p2")
JOURNAL_WRITTEN = "journal"


def make(outputs: Sequence[str] = OUTPUTS, keep: Keep | None = None) -> Manifest:
    pictures = (make_picture(index, prompt, output=outputs[index]) for index, prompt in enumerate(PROMPTS))
    kept = tuple(one.model_copy(update={"keep": keep or Keep()}) for one in pictures)
    return Manifest("jobs/test.yaml", "test", kept)


PNG, WEBP = make(), make(keep=Keep(format="webp"))


@pytest.fixture(autouse=True)
def a_short_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run writes its journal anew, as after years: that has to survive a cut too."""
    monkeypatch.setattr(journal, "_COMPACT_ABOVE_BYTES", 1)


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk here is the simulated one: it hears of every sync, and the real one need not."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def render(root: Path, manifest: Manifest, recorder: Recorder | None = None) -> list[str]:
    """A run, as a process of its own would do it; the ids of the pictures that it rendered."""
    files._lasting.clear()
    rendered: list[str] = []

    def watch(what: events.Event) -> None:
        if isinstance(what, events.PictureDone):
            rendered.append(what.item.picture.id)
            if recorder is not None:
                recorder.mark(what.item.picture.id)

    settings = Settings(outputs=root / "outputs", hire=InlineWorker)
    (summary,) = run.render([manifest], settings, watch, StopRequests())
    assert summary.failed == 0
    return rendered


def record(root: Path, *manifests: Manifest, kill_at: int | None = None) -> list[Call]:
    """What runs over `manifests`, one after the other, ask of the disk. With `kill_at`, the first dies at that call."""
    root.mkdir()
    recorder = Recorder(root)
    with pytest.MonkeyPatch.context() as patch, recorder.listening():
        patch.setattr(files, "reached", _marking_journal(recorder))
        for manifest in manifests:
            recorder.kill_at, kill_at = kill_at, None
            try:
                render(root, manifest, recorder)
            except Killed:
                recorder.kill_at = None
    assert not recorder.unseen, "files that are written past what can be recorded"
    return recorder.calls


def _marking_journal(recorder: Recorder) -> Callable[[files.WritePoint, Path], None]:
    def reached(point: files.WritePoint, _path: Path) -> None:
        if point == "journal-written":
            recorder.mark(JOURNAL_WRITTEN)

    return reached


@dataclass(frozen=True, slots=True)
class Left:
    """What a cut left: ids of pictures that are done, and how many entries the journal has."""

    done: frozenset[str]
    entries: int


def look(root: Path, pictures: Sequence[Picture]) -> Left:
    """What is there, by the program's own eyes; and that no picture is another than its sidecar's."""
    folder = OutputFolder(root / "outputs" / "test")
    done: set[str] = set()
    for picture in pictures:
        sidecar = picture_files.read_sidecar(folder.sidecar(picture.output))
        if sidecar and finished(folder, picture.output, sidecar.fingerprint, thorough=True):
            assert pixels_of(folder.picture(picture.output, sidecar.keep.format)) == draw(sidecar.job)
            done |= {picture.id} if sidecar.job == picture.job else set()
    return Left(frozenset(done), len(journal._entries(folder.journal)))


def cuts(calls: Sequence[Call], after: int = 0) -> Iterator[tuple[int, Cut, Tree]]:
    """What is left of a recorded run at every cut of every kind."""
    disk = Disk()
    for position, call in enumerate(calls):
        disk.do(call)
        if position >= after:
            for cut in get_args(Cut):
                yield position, cut, disk.left(cut, seed=position)


class Trial:
    """Puts what a cut left on a real disk and renders it to its end; what is the same is tried once."""

    def __init__(
        self, tmp_path: Path, manifest: Manifest, *, rendered_before: bool = False, moved: bool = False
    ) -> None:
        self._tmp_path = tmp_path
        self._manifest = manifest
        self._rendered_before = rendered_before or moved
        self._moved = moved
        self._seen: dict[int, Left] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def left(self, tree: Tree) -> Left:
        key = hash(tuple(tree.items()))
        if key not in self._seen:
            root = self._tmp_path / f"cut-{len(self._seen)}"
            put(tree, root)
            self._seen[key] = look(root, self._manifest.pictures)
            self._finish(root, self._seen[key])
        return self._seen[key]

    def _finish(self, root: Path, left: Left) -> None:
        rendered = render(root, self._manifest)
        if self._rendered_before:
            assert not rendered, "a picture that lay there under another name, or kept another way"
        else:
            assert sorted([*rendered, *left.done]) == [picture.id for picture in self._manifest.pictures], "twice"
        folder = root / "outputs" / "test"
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        suffix = {"png": ".png", "webp": ".webp"}[self._manifest.pictures[0].keep.format]
        expected = {f"{picture.output}{end}" for picture in self._manifest.pictures for end in (suffix, ".json")}
        left_over = {name for name in found if name.split("/")[0] not in set(Own)} - expected
        assert found >= expected
        # A name that a picture has left may come back, being what `prune` lists; never anything else.
        old = {f"{name}{end}" for name in OUTPUTS for end in (".png", ".json")} if self._moved else set()
        assert left_over <= old
        assert look(root, self._manifest.pictures).done == {picture.id for picture in self._manifest.pictures}


def try_all(trial: Trial, calls: Sequence[Call], done: Sequence[str] = (), after: int = 0) -> None:
    """At every cut behind the first calls: what was told to be done is there, and what the journal says it has, it has.

    `done` was told before.
    """
    told: list[tuple[set[str], int]] = []
    so_far, entries = set(done), 0
    for position, call in enumerate(calls):
        if call.what == "mark" and call.name == JOURNAL_WRITTEN:
            entries += 1
        elif call.what == "mark" and position >= after:
            so_far = so_far | {call.name}
        elif call.what == "move" and call.other.endswith(Own.JOURNAL):
            entries = 0  # written anew, without what is of no more use
        told.append((so_far, entries))
    for position, cut, tree in cuts(calls, after):
        promised, entries = told[position]
        left = trial.left(tree)
        where = f"{cut} at call {position}, {calls[position]}"
        assert left.done >= promised, f"a finished picture is lost: {where}"
        assert left.entries >= entries, f"the journal forgets: {where}"


def test_a_first_run(tmp_path: Path) -> None:
    """Folders, journal, pictures in folders of their own, a failure that is tried again, and the summary."""
    calls = record(tmp_path / "disk", PNG)
    trial = Trial(tmp_path, PNG)
    try_all(trial, calls)
    assert len(trial) > 50, "that was no run"


def after_the_first(calls: Sequence[Call]) -> int:
    """Where in a recording of two runs the first has ended, by the lock that the second opens."""
    return [position for position, call in enumerate(calls) if call.what == "open" and call.name.endswith(Own.LOCK)][-1]


def test_another_format(tmp_path: Path) -> None:
    """From PNG to WebP and its sidecars: whatever is left, no picture is rendered again."""
    calls = record(tmp_path / "disk", PNG, WEBP)
    try_all(
        Trial(tmp_path, WEBP, rendered_before=True), calls, [one.id for one in PNG.pictures], after_the_first(calls)
    )


@pytest.mark.parametrize(
    "outputs", [("new/p0", "new/p1", "p2"), ("sub/p1", "sub/deep/p2", "p3"), ("sub/deep/p2", "p0", "sub/p1")]
)
def test_other_names(tmp_path: Path, outputs: tuple[str, str, str]) -> None:
    """To new folders, one along, round in a circle: whatever is left, no picture is rendered again."""
    moved = make(outputs)
    calls = record(tmp_path / "disk", PNG, moved)
    try_all(Trial(tmp_path, moved, moved=True), calls, after=after_the_first(calls))


def test_a_kill_and_then_a_power_cut(tmp_path: Path) -> None:
    """A run makes last what the one before it left unsynced when it died: folders, names, the journal's entry."""
    whole = record(tmp_path / "whole", PNG)
    kills = [
        position + 1
        for position, call in enumerate(whole)
        if call.what == "mkdir"
        or (call.what == "move" and call.other.endswith((*(f"{name}.json" for name in OUTPUTS), Own.JOURNAL)))
    ]
    assert len(kills) > 5
    trial = Trial(tmp_path, PNG)
    for kill_at in kills:
        calls = record(tmp_path / f"disk-{kill_at}", PNG, PNG, kill_at=kill_at)
        try_all(trial, calls, [one.id for one in PNG.pictures], len(calls) - 1)


def test_a_folder_that_went_and_came_back(tmp_path: Path) -> None:
    """One that was seen to before is seen to again when it had to be made anew."""
    root = tmp_path / "disk"
    root.mkdir()
    recorder = Recorder(root)
    with recorder.listening():
        for name in ("a", "b"):
            files.write_whole(root / "sub" / "deep" / name, b"kept")
            if name == "a":
                (root / "sub" / "deep" / name).unlink()
                (root / "sub" / "deep").rmdir()
                (root / "sub").rmdir()
    *_, (_, _, tree) = (each for each in cuts(recorder.calls) if each[1] == "lost")
    assert tree == {"sub": None, "sub/deep": None, "sub/deep/b": b"kept"}
