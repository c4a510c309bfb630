"""Nothing twice: a picture that lies in its folder under another name is moved, copied or kept another way."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from renderer.job import Format, Keep, Picture, Place
from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files
from renderer.outputs.folder import OutputFolder
from renderer.planning.plan import make_plan
from renderer.supervisor import events, run
from renderer.supervisor.moving import Move, Stow, arrange
from renderer.supervisor.settings import StopRequests
from renderer.system import files
from renderer.system.files import WritePoint
from tests.fakes import DyingWorker, draw
from tests.making import make_job, pixels_of
from tests.supervisor.running import FAKE, Night, counts
from tests.supervisor.test_torture import run_until_killed


def named(**prompts: str) -> Manifest:
    """A manifest of pictures that are called like this; the same prompt is the same picture."""
    return with_keep({name: (prompt, Keep()) for name, prompt in prompts.items()})


def with_keep(pictures: dict[str, tuple[str, Keep]]) -> Manifest:
    made = tuple(
        Picture(
            id=name,
            output=name,
            job=make_job(prompt),
            place=Place(manifest="jobs/test.yaml", line=index + 1, job_id=name, index=index),
            keep=keep,
        )
        for index, (name, (prompt, keep)) in enumerate(pictures.items())
    )
    return Manifest(file="jobs/test.yaml", name="test", pictures=made)


def check(outputs: Path, manifest: Manifest) -> None:
    """Every picture is in its place, with a sidecar that names it, and nothing else is there."""
    folder = OutputFolder(outputs / manifest.name)
    for picture in manifest.pictures:
        sidecar = picture_files.read_sidecar(folder.sidecar(picture.output))
        assert sidecar is not None
        assert (sidecar.id, sidecar.place, sidecar.keep) == (picture.id, picture.place, picture.keep)
        path = folder.picture(picture.output, picture.keep.format)
        assert (sidecar.file.name, sidecar.file.sha256) == (path.name, files.sha256_of(path))
        if picture.keep.format != "jpeg":
            assert pixels_of(path) == draw(picture.job)
    assert pictures_in(folder) == {picture.output for picture in manifest.pictures}
    assert not list(folder.path.rglob(".part-*"))


def pictures_in(folder: OutputFolder) -> set[str]:
    """The output names of all pictures and sidecars in a folder, however they are hidden."""
    own = {"summary", "journal", "running"}
    found = [path for path in folder.path.rglob("*") if path.suffix in {".png", ".webp", ".jpg", ".json"}]
    return {path.relative_to(folder.path).with_suffix("").as_posix() for path in found} - own


CHANGES = {
    "a prompt inserted at the top": (named(n1="b", n2="c", n3="d"), named(n1="a", n2="b", n3="c", n4="d")),
    "one taken away at the top": (named(n1="a", n2="b", n3="c"), named(n1="b", n2="c")),
    "two change places": (named(n1="a", n2="b", n3="c"), named(n1="b", n2="a", n3="c")),
    "two circles and a chain": (
        named(n1="a", n2="b", n3="c", n4="d", n5="e", n6="f"),
        named(n1="c", n2="a", n3="b", n4="e", n5="d", n7="f", n6="g"),
    ),
    "ids renamed": (named(n1="a", n2="b"), named(moon="a", sun="b")),
    "another folder": (named(n1="a", n2="b"), named(**{"x/n1": "a", "x/n2": "b"})),
    "one becomes two": (named(n1="a"), named(n1="b", n2="a", n3="a")),
    "two become one": (named(n1="a", n2="a"), named(n3="a")),
}


@pytest.fixture(params=CHANGES)
def change(request: pytest.FixtureRequest) -> tuple[Manifest, Manifest]:
    return CHANGES[request.param]


class TestNothingTwice:
    def test_what_was_rendered_is_moved(self, night: Night, change: tuple[Manifest, Manifest]) -> None:
        """Only prompts that are new are rendered, each picture is in its place, and no old name is left behind."""
        before, after = change
        night.render(before)
        new = {each.job.prompt for each in after.pictures} - {each.job.prompt for each in before.pictures}
        summary = night.render(after)
        assert {what.item.picture.job.prompt for what in night.of(events.PictureBegan)} == new
        assert (summary.rendered, summary.ending, counts(summary)[2:]) == (len(new), "complete", (0, 0))
        gone = {each.output for each in before.pictures} - {each.output for each in after.pictures}
        left = pictures_in(night.folder(after)) - {each.output for each in after.pictures}
        assert left <= gone
        check_places(night, after, left)

    def test_the_plan_says_so(self, night: Night) -> None:
        """What will be moved is to do, and not to be rendered; nothing is moved by looking."""
        night.render(named(n1="b", n2="c"))
        plan = make_plan(named(n1="a", n2="b", n3="c"), night.settings.outputs)
        assert [(item.state, item.note) for item in plan.items] == [
            ("to do", "the job has changed"),
            ("to do", "rendered already, as n1"),
            ("to do", "rendered already, as n2"),
        ]
        assert [item.picture.id for item in plan.to_render()] == ["n1"]

    def test_what_nobody_names_any_more_is_found_again(self, night: Night) -> None:
        """A prompt is taken out and comes back under another name: its picture is still there."""
        night.render(named(n1="a", n2="b"))
        night.render(named(n1="a"))
        assert counts(night.render(named(n1="a", n7="b"), hire=DyingWorker)) == (0, 2, 0, 0)
        check(night.settings.outputs, named(n1="a", n7="b"))

    def test_two_names_of_one_picture_are_rendered_once(self, night: Night) -> None:
        """The other is a copy with a sidecar of its own: whoever paints into one leaves the other alone."""
        manifest = named(n1="a", n2="b", n3="a")
        summary = night.render(manifest)
        assert (counts(summary), summary.brought, night.began()) == ((2, 1, 0, 0), 1, ["n1", "n2"])
        check(night.settings.outputs, manifest)
        folder = night.folder(manifest)
        assert folder.picture("n1").stat().st_ino != folder.picture("n3").stat().st_ino
        assert counts(night.render(manifest, hire=DyingWorker)) == (0, 3, 0, 0)

    def test_what_fails_fails_under_all_its_names(self, night: Night) -> None:
        """Tried under one of them alone, and no second row of failures."""
        summary = night.render(named(n1="fail", n2="fail", n3="b"), max_failures=4)
        assert (counts(summary), summary.ending, night.began().count("n2")) == ((1, 0, 2, 0), "complete", 0)
        summary = night.render(named(n1="crash", n2="crash"), hire=FAKE)
        assert (counts(summary), summary.set_aside, set(night.began())) == ((0, 0, 2, 0), 2, {"n1"})

    @pytest.mark.parametrize("when", ["before", "when it comes"])
    def test_a_path_that_cannot_be_written_is_no_failure_of_its_other_names(
        self, night: Night, monkeypatch: pytest.MonkeyPatch, when: str
    ) -> None:
        """The picture is rendered once, and lies under every name that can be written."""
        manifest = named(n1="a", n2="a", n3="a")
        night.folder(manifest).picture("n1").mkdir(parents=True)
        if when == "when it comes":
            monkeypatch.setattr(picture_files, "check_place", lambda *_: None)
        summary = night.render(manifest)
        assert (counts(summary), summary.failures[0].id, len(night.began())) == ((1, 1, 1, 0), "n1", 1)
        assert pixels_of(night.folder(manifest).picture("n3")) == draw(manifest.pictures[0].job)

    @pytest.mark.parametrize("form", get_args(Format))
    @pytest.mark.parametrize("first", get_args(Format))
    def test_names_and_formats_change_together(self, night: Night, first: Format, form: Format) -> None:
        """A picture goes to another name and another format without being rendered; only from JPEG none comes back."""
        before = with_keep({"n1": ("a", Keep(format=first)), "n2": ("b", Keep(format=first))})
        after = with_keep({"n1": ("b", Keep(format=form)), "n2": ("a", Keep(format=form))})
        night.render(before)
        summary = night.render(after)
        assert summary.rendered == (2 if first == "jpeg" != form else 0)
        check(night.settings.outputs, after)
        with Image.open(night.folder(after).picture("n1", form)) as image:
            assert image.format == form.upper()

    def test_twins_of_two_formats_are_rendered_once(self, night: Night) -> None:
        """The one that keeps every pixel is rendered, whichever stands first."""
        manifest = with_keep({"n1": ("a", Keep(format="jpeg")), "n2": ("a", Keep()), "n3": ("a", Keep(format="webp"))})
        assert counts(night.render(manifest)) == (1, 2, 0, 0)
        assert night.began() == ["n2"]
        check(night.settings.outputs, manifest)

    def test_only_loses_nothing_of_the_others(self, night: Night) -> None:
        """What is chosen is rendered over a name; the picture that lies there has gone to its own before."""
        night.render(named(n1="b", n2="c"))
        after = named(n1="a", n2="b", n3="c")
        assert counts(night.render(after, only=("n1",))) == (1, 0, 0, 0)
        check(night.settings.outputs, after)

    def test_force_renders_what_is_chosen(self, night: Night) -> None:
        """Under force nothing that is chosen is moved, and what others need is."""
        night.render(named(n1="a", n2="b"))
        after = named(n1="b", n2="a", n3="c")
        assert counts(night.render(after, only=("n1",), force=True)) == (1, 0, 0, 0)
        assert night.began() == ["n1"]
        assert counts(night.render(after)) == (1, 2, 0, 0)
        assert night.began() == ["n3"]
        check(night.settings.outputs, after)

    def test_a_damaged_picture_is_not_moved(self, night: Night) -> None:
        """What is found under another name is held against its sidecar's SHA-256 before it is taken."""
        night.render(named(n1="a"))
        path = night.folder(named()).picture("n1")
        data = bytearray(path.read_bytes())
        data[60] ^= 1
        path.write_bytes(data)
        assert counts(night.render(named(n2="a"))) == (1, 0, 0, 0)

    def test_foreign_files_stay(self, night: Night) -> None:
        """A picture without a sidecar, somebody's JSON, a note: nobody touches them."""
        night.render(named(n1="a", n2="b"))
        folder = night.folder(named()).path
        foreign = {"mine.png": b"x", "notes.txt": b"y", "data.json": b"{}", "sub/n1.json": b"[]"}
        for name, data in foreign.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
        night.render(named(n1="b", n2="a"))
        assert {name: (folder / name).read_bytes() for name in foreign} == foreign

    def test_a_path_that_cannot_be_written_loses_no_picture(self, night: Night) -> None:
        """Its target is a folder: the picture fails, is kept aside, and is in its place once the way is free."""
        night.render(named(n1="a", n2="b"))
        after = named(n1="c", n2="b", n3="a")
        blocked = night.folder(after).picture("n3")
        blocked.mkdir()
        summary = night.render(after)
        assert (counts(summary), summary.failures[0].id, night.began()) == ((1, 1, 1, 0), "n3", ["n1"])
        blocked.rmdir()
        assert counts(night.render(after, hire=DyingWorker)) == (0, 3, 0, 0)
        check(night.settings.outputs, after)

    def test_moving_is_heard_to_stop(self, night: Night) -> None:
        """Asked to stop in the middle, it ends there; the next run goes on, and nothing was rendered for it."""
        names = [f"n{number}" for number in range(20)]
        before = named(**{name: str(number) for number, name in enumerate(names)})
        after = named(**{name: str(19 - number) for number, name in enumerate(names)})
        night.render(before)
        stop = StopRequests()
        moves = 0

        def move(*arguments: object, **more: object) -> object:
            nonlocal moves
            moves += 1
            stop.requests = int(moves == 3)
            return carry(*arguments, **more)

        carry: Callable[..., object] = picture_files.carry
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(picture_files, "carry", move)
            (summary,) = run.render([after], night.settings, lambda _: None, stop)
        assert (summary.ending, summary.rendered, moves) == ("signal", 0, 3)
        assert counts(night.render(after, hire=DyingWorker)) == (0, 20, 0, 0)
        check(night.settings.outputs, after)


def check_places(night: Night, manifest: Manifest, left: set[str]) -> None:
    """As `check`, but for what nobody names any more."""
    folder = night.folder(manifest)
    for output in left:
        for path in (folder.picture(output), folder.sidecar(output)):
            path.unlink(missing_ok=True)
    check(night.settings.outputs, manifest)


class TestOrder:
    @pytest.mark.parametrize("count", [1, 2, 3, 4])
    def test_no_picture_is_written_over_before_it_has_gone(self, tmp_path: Path, count: int) -> None:
        """Every way in which up to four names can be filled from four others, held against a folder of letters."""
        names = [f"n{number}" for number in range(count)]
        base = make_plan(named(**{name: name for name in names}), tmp_path).items
        for wanted in itertools.product([*names, "old"], repeat=count):
            items = [
                replace(item, fingerprint=source, source=source_of(source))
                for item, source in zip(base, wanted, strict=True)
                if source != item.picture.output
            ]
            staying = {name for name, source in zip(names, wanted, strict=True) if name == source}
            folder = {name: name for name in [*names, "old"]}
            for step in arrange(items, staying, "aside"):
                if isinstance(step, Stow):
                    folder[step.aside] = folder.pop(step.source)
                    continue
                assert isinstance(step, Move)
                folder[step.item.picture.output] = folder[step.source]
                if step.leaves:
                    del folder[step.source]
            assert [folder[name] for name in names] == list(wanted)
            assert not [name for name in folder if name.startswith("aside")]


def source_of(name: str):  # type: ignore[no-untyped-def]  # noqa: ANN201
    from renderer.outputs.sources import Location  # noqa: PLC0415

    return Location(name, Keep())


POINTS: Sequence[WritePoint] = (
    "linked",
    "part-opened",
    "part-written",
    "part-synced",
    "renamed",
    "folder-synced",
    "removed",
    "journal-written",
)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs with four pictures, as a run has left them."""
    outputs = tmp_path_factory.mktemp("four")
    assert run_until_killed(outputs, manifest=named(n1="a", n2="b", n3="c", n4="d")) == 0
    return outputs


@pytest.mark.parametrize("point", POINTS)
def test_death_while_pictures_are_moved(tmp_path: Path, four: Path, point: WritePoint) -> None:
    """Die at every passing of a write point in a circle, a chain and a change of format.

    The next run has all, and renders none. Where a point is not passed so often, the run is through.
    """
    after = with_keep({"n1": ("b", Keep()), "n2": ("a", Keep()), "n4": ("c", Keep()), "n5": ("d", Keep(format="webp"))})
    for passing in itertools.count(1):
        outputs = shutil.copytree(four, tmp_path / str(passing))
        ended = run_until_killed(outputs, die_at=(point, passing), manifest=after)
        night = Night(outputs)
        assert counts(night.render(after, hire=DyingWorker)) == (0, 4, 0, 0)
        left = pictures_in(night.folder(after)) - {each.output for each in after.pictures}
        assert left <= {"n3"}  # which nobody names any more: prune removes it
        check_places(night, after, left)
        if ended == 0:
            break
    assert passing > 1, "it is passed"


def test_a_file_system_without_links_copies(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT and some shares refuse a second name: then it is a copy, and the old file goes as ever."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    night.render(named(n1="a", n2="b"))
    monkeypatch.setattr(os, "link", refuse)
    assert counts(night.render(named(n1="b", n2="a"), hire=DyingWorker)) == (0, 2, 0, 0)
    check(night.settings.outputs, named(n1="b", n2="a"))
