"""What goes wrong costs no more than it has to: a picture, a model, a manifest, the night."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest

from renderer.errors import DiskError, MachineError
from renderer.job import Keep
from renderer.manifest.manifest import Manifest
from renderer.outputs import journal
from renderer.outputs.journal import Journal
from renderer.planning.plan import make_plan
from renderer.protocol import AnyOrder, Open, Setup
from renderer.supervisor import events, run
from renderer.supervisor.settings import StopRequests
from renderer.system import files
from tests.fakes import Behaviour, DyingWorker, InlineWorker
from tests.making import make_manifest, make_picture
from tests.supervisor.running import Night, counts


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
        two = make_manifest(("x", "y", "z"), name="two")
        write_whole = files.write_whole

        def full(path: Path, data: bytes, *, lasting: bool = True, guard: files.WriteGuard) -> None:
            if path.suffix == ".png":
                raise files.disk_error(path, OSError(28, "No space left on device"))
            write_whole(path, data, lasting=lasting, guard=guard)

        monkeypatch.setattr(files, "write_whole", full)
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

    def send(self, order: AnyOrder, payload: bytes = b"") -> None:
        if isinstance(order, Open):
            self._asked.append(order.setup)
            self._behaviour = Behaviour(refuses="no room for fp8" if order.setup.precision == "fp8" else "")
        super().send(order, payload)


def two_models(name: str) -> Manifest:
    """Two pictures at FP8, which come first, and one at bf16."""
    pictures = [
        picture.model_copy(update={"job": picture.job.model_copy(update={"precision": precision})})
        for picture, precision in zip(make_manifest().pictures, ("fp8", "fp8", "bf16"), strict=True)
    ]
    return dataclasses.replace(make_manifest(name=name), pictures=tuple(pictures))
