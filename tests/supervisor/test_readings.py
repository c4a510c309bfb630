"""Lettering: read beside the night, taken again where it is wrong, and nothing lost or doubled wherever it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from renderer.errors import DiskError, MachineError
from renderer.job import Expect, Keep, Lettering, Sidecar, fingerprint
from renderer.lettering import asking, installed
from renderer.manifest.manifest import Manifest
from renderer.outputs import done, picture_files
from renderer.outputs.folder import OutputFolder, Own
from renderer.outputs.journal import MAX_CRASHES, Journal
from renderer.planning.plan import make_plan
from renderer.supervisor import events, readings
from renderer.system.files import WritePoint
from tests.fakes import InlineReader, draw
from tests.making import make_picture, pixels_of
from tests.supervisor.running import Night, counts
from tests.supervisor.test_torture import run_until_killed

IDENTITY = make_plan(Manifest("m", "m", (make_picture(),)), Path("/nowhere")).items[0].identity


def lettered(*takes: int, expect: float | None = None, texts: tuple[str, ...] = ("WORD",)) -> Manifest:
    """A manifest of one picture for each number, which says how often it may be taken; their seeds are far apart."""
    pictures = []
    for index, count in enumerate(takes):
        made = make_picture(index, f'says "WORD" {index}', expect=Expect(lettering=expect) if expect else None)
        job = made.job.model_copy(update={"seed": 10 * index})
        seeds = tuple(job.seed + number for number in range(count)) if count > 1 else ()
        pictures.append(made.model_copy(update={"job": job, "lettering": Lettering(texts=texts, seeds=seeds)}))
    return Manifest(file="jobs/test.yaml", name="test", pictures=tuple(pictures))


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> InlineReader:
    """Right are the third take of the second picture, and the first of the third."""
    made = InlineReader("WORD", frozenset({12, 20}))
    monkeypatch.setattr(readings, "LetterReader", lambda: made)
    return made


def sidecars(night: Night, manifest: Manifest) -> list[Sidecar]:
    folder = night.folder(manifest)
    found = [picture_files.read_sidecar(folder.sidecar(picture.output)) for picture in manifest.pictures]
    for one, picture in zip(found, manifest.pictures, strict=True):
        assert one is not None
        assert pixels_of(folder.picture(picture.output)) == draw(one.job)
        assert one.fingerprint == fingerprint(one.job, IDENTITY)
    assert not (folder.path / Own.TAKES).exists()
    return [one for one in found if one is not None]


def takes(sidecar: Sidecar) -> list[tuple[int, float]]:
    assert sidecar.lettering is not None
    return [(take.seed, take.score) for take in sidecar.lettering.takes]


def test_read_and_written_down(night: Night, reader: InlineReader) -> None:
    manifest = lettered(1, 1, 1)
    summary = night.render(manifest)
    assert counts(summary) == (3, 0, 0, 0)
    assert summary.lettering is not None
    assert (summary.lettering.read, summary.lettering.right, summary.lettering.retakes) == (3, 1, 0)
    read = [sidecar.lettering for sidecar in sidecars(night, manifest)]
    assert [each.score for each in read if each] == [0.75, 0.75, 1.0]
    assert read[0] is not None
    assert (read[0].texts[0].text, read[0].texts[0].read, read[0].reader) == ("WORD", "ORD", "fake")
    assert counts(night.render(manifest)) == (0, 3, 0, 0)
    assert sorted(reader.seeds) == [0, 10, 20]


def test_taken_again_until_it_is_right_and_the_best_is_kept(night: Night, reader: InlineReader) -> None:
    """Each take is a picture of its own seed; one that is right ends the row, and of equals the first is kept."""
    manifest = lettered(3, 4, 4)
    summary = night.render(manifest)
    assert counts(summary) == (3, 0, 0, 0)
    assert summary.lettering is not None
    assert (summary.lettering.read, summary.lettering.right, summary.lettering.retakes) == (3, 2, 4)
    found = sidecars(night, manifest)
    assert [sidecar.job.seed for sidecar in found] == [0, 12, 20]
    assert [takes(sidecar) for sidecar in found] == [
        [(0, 0.75), (1, 0.75), (2, 0.75)],
        [(10, 0.75), (11, 0.75), (12, 1.0)],
        [(20, 1.0)],
    ]
    assert counts(night.render(manifest)) == (0, 3, 0, 0)
    assert not night.began()
    assert len(reader.seeds) == 7


def test_pictures_that_were_there_before_are_read_and_not_rendered(night: Night, reader: InlineReader) -> None:
    manifest = lettered(1, 4)
    plain = [picture.model_copy(update={"lettering": None}) for picture in manifest.pictures]
    night.render(Manifest("jobs/test.yaml", "test", tuple(plain)))
    assert not reader.seeds
    assert counts(night.render(manifest)) == (1, 1, 0, 0)
    assert len(night.began()) == 2  # the second's second and third takes
    assert [sidecar.job.seed for sidecar in sidecars(night, manifest)] == [0, 12]


def test_what_is_kept_another_way_is_read_and_taken_again_in_the_same_run(night: Night, reader: InlineReader) -> None:
    """It can be read only when it lies there as it is to be, which may be after all that was to be rendered."""
    manifest = lettered(1, 4)
    plain = [picture.model_copy(update={"lettering": None}) for picture in manifest.pictures]
    night.render(Manifest("jobs/test.yaml", "test", tuple(plain)))
    kept = [picture.model_copy(update={"keep": Keep(format="webp")}) for picture in manifest.pictures]
    manifest = Manifest("jobs/test.yaml", "test", tuple(kept))
    assert counts(night.render(manifest)) == (1, 1, 0, 0)
    assert sorted(reader.seeds) == [0, 10, 11, 12]
    assert counts(night.render(manifest)) == (0, 2, 0, 0)


def test_a_reader_that_hangs_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended, the picture lies there unread, and it is not tried once more."""
    monkeypatch.setattr(readings, "_PATIENCE_S", 0.01)
    manifest = lettered(1)
    night = Night(tmp_path)
    night.render(Manifest("jobs/test.yaml", "test", (manifest.pictures[0].model_copy(update={"lettering": None}),)))
    (item,) = make_plan(manifest, tmp_path).items
    ended, tries = threading.Event(), []

    class Hanging(InlineReader):
        def read(self, path: Path) -> asking.Answer:
            tries.append(path)
            ended.wait(20)
            raise asking.ReadingError("the reader ended")

        def close(self) -> None:
            ended.set()

    told: list[Future[Sidecar]] = []
    with readings.Readings(Hanging("WORD", frozenset())) as reading:  # type: ignore[arg-type]
        reading.begin(night.folder(manifest), item, item.output, told.append)
        reading.begin(night.folder(manifest), item, item.output, told.append)
    assert ended.is_set()
    assert len(tries) <= 1
    assert not told


def test_other_texts_are_read_anew_and_renamed_pictures_are_found(night: Night, reader: InlineReader) -> None:
    manifest = lettered(4, 4)
    night.render(manifest)
    moved = [picture.model_copy(update={"output": f"new-{picture.id}"}) for picture in manifest.pictures]
    renamed = Manifest("jobs/test.yaml", "test", tuple(moved))
    assert counts(night.render(renamed)) == (0, 2, 0, 0)
    assert [sidecar.job.seed for sidecar in sidecars(night, renamed)] == [0, 12]
    asked = len(reader.seeds)
    others = [picture.model_copy(update={"lettering": Lettering(texts=("OTHER",))}) for picture in renamed.pictures[:1]]
    assert counts(night.render(Manifest("jobs/test.yaml", "test", tuple(others)))) == (0, 1, 0, 0)
    assert len(reader.seeds) == asked + 1


def test_what_is_expected_and_not_there_fails_and_stays(night: Night, reader: InlineReader) -> None:
    """The picture is kept, the run fails, no other run renders it again, and failures of this kind end no night."""
    manifest = lettered(2, 1, 1, expect=0.9)
    summary = night.render(manifest, max_failures=1)
    assert counts(summary) == (1, 0, 2, 0)
    told = {failure.id: failure.message for failure in summary.failures}
    assert told["p001"] == '"ORD" was read where "WORD" was to stand: 0.75 of 0.9'
    assert told["p000"] == f"{told['p001']}, the best of 2"
    again = night.render(manifest)
    assert counts(again) == (0, 1, 2, 0)
    assert not night.began()
    assert [sidecar.job.seed for sidecar in sidecars(night, manifest)] == [0, 10, 20]
    assert counts(night.render(lettered(2, 1, 1, expect=0.7))) == (0, 3, 0, 0)
    assert len(reader.seeds) == 4


def test_a_take_that_is_set_aside_is_not_begun_again(night: Night, reader: InlineReader) -> None:
    """It brought down three workers some other night: the picture is set aside with what is known of that."""
    manifest = lettered(3)
    folder = night.folder(manifest)
    folder.path.mkdir()
    second = manifest.pictures[0].job.model_copy(update={"seed": 1})
    for _ in range(MAX_CRASHES):
        Journal.read(folder).write("crashed", "p000", fingerprint(second, IDENTITY), "SIGSEGV")
    summary = night.render(manifest)
    assert (summary.set_aside, summary.left, len(night.began())) == (1, 0, 1)
    assert [(each.message, each.set_aside) for each in summary.failures] == [("SIGSEGV", True)]
    assert reader.seeds == [0]


def test_two_names_of_one_picture(night: Night, reader: InlineReader) -> None:  # noqa: ARG001
    """One that is taken once and one that is taken again begin with the same take, which is rendered once."""
    (often,) = lettered(4).pictures
    once = often.model_copy(update={"id": "once", "output": "once", "lettering": None})
    twin = often.model_copy(update={"id": "twin", "output": "twin"})
    manifest = Manifest("jobs/test.yaml", "test", (often, once, twin))
    assert counts(night.render(manifest))[2:] == (0, 0)
    assert len(night.began()) <= 7
    assert [sidecar.job.seed for sidecar in sidecars(night, manifest)] == [0, 0, 0]
    assert counts(night.render(manifest)) == (0, 3, 0, 0)


def test_a_picture_that_cannot_be_read_fails_alone_and_is_read_later(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(InlineReader):
        def read(self, path: Path) -> asking.Answer:
            if path.stem == "p001":
                raise asking.ReadingError("the lettering of p001.png could not be read: the reader ended")
            return super().read(path)

    monkeypatch.setattr(readings, "LetterReader", lambda: Broken("WORD", frozenset({0, 10, 20})))
    manifest = lettered(1, 1, 1)
    assert counts(night.render(manifest)) == (2, 0, 1, 0)
    monkeypatch.setattr(readings, "LetterReader", lambda: InlineReader("WORD", frozenset({0, 10, 20})))
    assert counts(night.render(manifest)) == (0, 3, 0, 0)
    assert not night.began()


def test_of_one_that_cannot_be_written_down_no_twin_is_forgotten(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(InlineReader):
        def read(self, path: Path) -> asking.Answer:
            raise DiskError(f"cannot write {path.name}")

    monkeypatch.setattr(readings, "LetterReader", lambda: Full("WORD", frozenset()))
    (first,) = lettered(2).pictures
    twin = first.model_copy(update={"id": "twin", "output": "twin"})
    assert counts(night.render(Manifest("jobs/test.yaml", "test", (first, twin)))) == (0, 0, 2, 0)


def test_without_a_reader_nothing_is_begun(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "_NEEDED", ("no_such_reader",))
    with pytest.raises(MachineError, match="no_such_reader is not installed"):
        night.render(lettered(1))
    assert not night.of(events.PictureBegan)


@pytest.mark.parametrize("point", ["renamed", "removed", "journal-written"])
def test_killed_at_every_write_point(point: WritePoint, tmp_path: Path) -> None:
    """It ends as if nobody had killed it, and no take that lay on the disk or was known is rendered again."""
    manifest = lettered(2, 3)

    def prepare() -> None:
        readings.LetterReader = lambda: InlineReader("WORD", frozenset({11}))  # type: ignore[misc,assignment,attr-defined]

    passing = 0
    while True:
        passing += 1
        outputs = tmp_path / str(passing)
        killed = run_until_killed(outputs, die_at=(point, passing), manifest=manifest, prepare=prepare) != 0
        folder = OutputFolder(outputs / manifest.name)
        known, begun = set(lying(folder)), attempts(folder)
        if killed:
            assert run_until_killed(outputs, manifest=manifest, prepare=prepare) == 0
            assert not known & set(attempts(folder)[len(begun) :])
        night = Night(outputs)
        assert [takes(sidecar) for sidecar in sidecars(night, manifest)] == [
            [(0, 0.75), (1, 0.75)],
            [(10, 0.75), (11, 1.0)],
        ]
        if not killed:
            return


def lying(folder: OutputFolder) -> Iterator[str]:
    """The fingerprints of takes that lie in a folder whole, or that a sidecar tells of."""
    for found in done.find_all(folder):
        sidecar = picture_files.read_sidecar(folder.sidecar(found.output))
        assert sidecar is not None
        if found.is_whole(folder, thorough=True):
            yield found.fingerprint
            for take in sidecar.lettering.takes if sidecar.lettering else ():
                yield fingerprint(sidecar.job.model_copy(update={"seed": take.seed}), sidecar.model)


def attempts(folder: OutputFolder) -> list[str]:
    lines = folder.journal.read_text("utf-8").splitlines() if folder.journal.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    return [entry["fingerprint"] for entry in entries if entry["what"] == "attempt"]
