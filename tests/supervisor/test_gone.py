"""Pictures that went in and have gone since: what the output folder keeps stands for them, and nothing else does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from renderer.cli import command
from renderer.errors import ManifestError
from renderer.manifest import manifest
from renderer.manifest.manifest import Manifest, Overrides
from renderer.outputs.folder import Own
from renderer.outputs.nights import NightAnswer
from renderer.planning import once_more, prune, sharding
from renderer.planning.plan import make_plan
from renderer.supervisor import events, merging
from renderer.supervisor.joining import AddedManifest, Additions, Arrival
from renderer.supervisor.preparing import Preparation
from tests.supervisor.running import Night, counts
from tests.waiting import until

UNKEPT = "no copy is kept (what is not rendered yet cannot be before it is back)"
HEAD = "defaults: {model: demo, size: 64x64, steps: 2}\n"
OF_A_PATTERN = f"""{HEAD}jobs:
  - {{id: "{{stem}}", prompt: a, image: photos/*.png}}
  - {{id: w, prompt: b, image: photos/a.png, mask: m.png}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest of three photos, one of which goes in within a mask as well."""
    (tmp_path / "photos").mkdir()
    for place, name in enumerate("abc"):
        Image.new("RGB", (64, 64), (0, 0, place)).save(tmp_path / "photos" / f"{name}.png")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (8, 8, 32, 32))
    mask.save(tmp_path / "m.png")
    (tmp_path / "m.yaml").write_text(OF_A_PATTERN, encoding="utf-8")
    return tmp_path


@pytest.fixture
def night(folder: Path) -> Night:
    return Night(folder / "out")


def load(folder: Path, *, proof: bool = False) -> Manifest:
    return manifest.load(folder / "m.yaml", Overrides(outputs=folder / "out", proof=proof))


def leave(folder: Path) -> None:
    """Everything that goes in has gone: its disk is not there."""
    shutil.rmtree(folder / "photos")
    (folder / "m.png").unlink()


def warned(found: Manifest) -> list[str]:
    return [str(each).partition(": warning: ")[2] for each in found.warnings]


def test_what_has_gone_is_what_it_was(folder: Path, night: Night) -> None:
    """Each picture is the same job under the same name, and done; one warning says so, at the line of the first."""
    whole = load(folder)
    assert counts(night.render(whole)) == (4, 0, 0, 0)
    leave(folder)
    found = load(folder)
    assert [(each.id, each.job, each.output) for each in found.pictures] == [
        (each.id, each.job, each.output) for each in whole.pictures
    ]
    place = f"jobs[0].image: photos/a.png and 3 other files are gone: they are taken from {folder}/out/m/inputs"
    assert (warned(found), found.warnings[0].line) == ([place], 3)
    assert counts(night.render(found)) == (0, 4, 0, 0)
    assert counts(night.render(load(folder), force=True)) == (4, 0, 0, 0)
    assert warned(load(folder)) == [place], "what is on record stays there"


def test_commands_that_read_go_on(
    folder: Path, night: Night, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing that went in is pruned."""
    monkeypatch.chdir(folder)
    night.render(load(folder))
    leave(folder)
    for name in ("validate", "status", "plan", "report", "prune"):
        assert command.main([name, "m.yaml", "--outputs", "out", *(["--yes"] if name == "prune" else [])]) == 0, name
    assert command.main(["compare", "m.yaml", "--outputs", "out", "--only", "nothing"]) == 2
    said, wrong = capsys.readouterr()
    assert "nothing" in wrong
    assert "fits no file" not in wrong
    assert "m: 4 done, 0 failed" in said
    assert "0 pictures to render, 4 done" in said
    assert "0 pictures removed" in said
    kept = list((folder / "out/m/inputs").iterdir())
    assert len(kept) == 4
    page = (folder / "out/m/index.html").read_text()
    mask = load(folder).pictures[3].inputs[1].sha256
    assert all(f"inputs/{path.name}" in page for path in kept if path.stem != mask)


def test_the_rest_of_a_night_is_rendered_from_what_is_kept(folder: Path, night: Night) -> None:
    """What no copy is kept of fails alone, and is rendered when it is back."""
    whole = load(folder)
    assert counts(night.render(whole, only=("a",)))[0] == 1
    photos = folder / "out" / "elsewhere"
    shutil.move(folder / "photos", photos)
    found = load(folder)
    assert sorted(warned(found)) == [
        f"jobs[0].image: photos/a.png is gone: it is taken from {folder}/out/m/inputs",
        f"jobs[0].image: photos/b.png and 1 other file are gone: {UNKEPT}",
    ]
    assert counts(night.render(found)) == (1, 1, 2, 0)
    failed = {what.item.picture.id: what.message for what in night.of(events.PictureFailed)}
    assert failed.keys() == {"b", "c"}
    assert all("there is no file" in message for message in failed.values())
    shutil.move(photos, folder / "photos")
    assert counts(night.render(load(folder))) == (2, 2, 0, 0)


def test_a_file_that_is_there_is_what_counts(folder: Path, night: Night) -> None:
    """One that has changed is another job; one that nobody has seen is a problem with its line."""
    night.render(whole := load(folder))
    Image.new("RGB", (64, 64), "red").save(folder / "photos/b.png")
    found = load(folder)
    assert [one.job == other.job for one, other in zip(whole.pictures, found.pictures, strict=True)] == [
        each.id != "b" for each in whole.pictures
    ]
    assert found.warnings == ()
    (folder / "m.png").unlink()
    (folder / "m.yaml").write_text(OF_A_PATTERN.replace("m.png", "n.png"), encoding="utf-8")
    with pytest.raises(ManifestError, match=r"m\.yaml:4:\d+ jobs\[1\]\.mask: there is no file n\.png"):
        load(folder)
    (folder / "m.yaml").write_text(HEAD + "jobs: [{prompt: a, image: m.png}]", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"there is no file m\.png"):  # it has been a mask, and no picture
        load(folder)


def test_a_photo_that_is_deleted_is_one_less_and_a_folder_that_is_gone_is_all(folder: Path, night: Night) -> None:
    """A pattern stands for what it fits, and where that is nothing for what it fitted last."""
    night.render(load(folder))
    (folder / "photos/c.png").unlink()
    found = load(folder)
    assert [each.id for each in found.pictures] == ["a", "b", "w"]
    assert found.warnings == ()
    night.render(found)
    leave(folder)
    (folder / "photos").mkdir()  # where a disk belongs
    assert [each.id for each in load(folder).pictures] == ["a", "b", "w"]
    (folder / "m.yaml").write_text(OF_A_PATTERN.replace("*.png", "*.jpg"), encoding="utf-8")
    with pytest.raises(ManifestError, match=r"photos/\*\.jpg fits no file"):
        load(folder)


def test_a_file_with_brackets_in_its_name_is_no_pattern_when_it_has_gone(folder: Path, night: Night) -> None:
    for name in ("a[1].png", "b[1].png"):
        Image.new("RGB", (64, 64), "teal").save(folder / "photos" / name)
    text = HEAD + 'jobs: [{prompt: a, image: "photos/a[1].png"}, {prompt: b, image: "photos/b[1].png"}]'
    (folder / "m.yaml").write_text(text, encoding="utf-8")
    night.render(whole := load(folder))
    leave(folder)
    assert [each.job for each in load(folder).pictures] == [each.job for each in whole.pictures]


def test_folders_beside_it_are_looked_into(folder: Path, night: Night) -> None:
    """What a rehearsal, a part, or a comparison keeps is the manifest's; what another manifest keeps is not."""
    part = sharding.cut(load(folder), sharding.Shard(1, 1), folder / "out")
    assert counts(night.render(part)) == (4, 0, 0, 0)
    leave(folder)
    found = load(folder)
    assert warned(found)[0].endswith(f"they are taken from {folder}/out/m-shard-1-of-1/inputs")
    again = once_more.once_more(found, found.pictures, once_more.Changes(steps=3))
    assert counts(night.render(again)) == (4, 0, 0, 0)
    assert merging.merge(found, folder / "out").moved == 4
    assert warned(load(folder))[0].endswith(f"they are taken from {folder}/out/m/inputs")
    assert prune.look(make_plan(load(folder), folder / "out")).inputs == {}
    (folder / "m-again.yaml").write_text(OF_A_PATTERN, encoding="utf-8")
    with pytest.raises(ManifestError, match="fits no file"):
        manifest.load(folder / "m-again.yaml", Overrides(outputs=folder / "out"))


def test_paths_of_a_manifest_that_is_extended(folder: Path, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are from its folder; and the project may be called from anywhere, and moved as a whole."""
    (folder / "base").mkdir()
    (folder / "base/base.yaml").write_text("defaults: {model: demo, size: 64x64, steps: 2, image: photos/a.png}")
    (folder / "m.yaml").write_text("{extends: base/base.yaml, jobs: [a, {prompt: a, image: photos/a.png, id: b}]}")
    shutil.copytree(folder / "photos", folder / "base/photos")
    Image.new("RGB", (64, 64), "red").save(folder / "base/photos/a.png")
    night.render(whole := load(folder))
    assert whole.pictures[0].job != whole.pictures[1].job
    leave(folder)
    shutil.rmtree(folder / "base/photos")
    (folder / "moved").mkdir()
    for name in ("m.yaml", "base", "out"):
        shutil.move(folder / name, folder / "moved" / name)
    monkeypatch.chdir(folder / "moved")
    assert [each.job for each in load(Path()).pictures] == [each.job for each in whole.pictures]
    assert [each.job for each in load(folder / "moved").pictures] == [each.job for each in whole.pictures]


@pytest.mark.parametrize(
    "told", ["", "[]", "{}", '{"name": "m", "files": {"picture photos/a.png": {"sha256": "../../x"}}}', None]
)
def test_a_record_that_is_none(folder: Path, night: Night, told: str | None) -> None:
    """It is as if nothing were on record."""
    night.render(load(folder))
    record = folder / "out/m" / Own.TAKEN_IN
    if told is None:
        told = json.dumps({**json.loads(record.read_text()), "name": "another"})
    record.write_text(told)
    leave(folder)
    with pytest.raises(ManifestError, match="fits no file"):
        load(folder)


def test_what_takes_in_nothing_leaves_no_record(folder: Path, night: Night) -> None:
    """Nor does a name that cannot be a folder's look into one."""
    night.render(load(folder))
    assert (folder / "out/m" / Own.TAKEN_IN).is_file()
    (folder / "m.yaml").write_text(HEAD + "jobs: [a]", encoding="utf-8")
    night.render(load(folder))
    assert not (folder / "out/m" / Own.TAKEN_IN).exists()
    (folder / "m.yaml").write_text("name: /x\n" + HEAD + "jobs: [{prompt: a, image: none.png}]", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"there is no file none\.png"):
        load(folder)


def test_a_copy_of_another_folder_is_kept_in_its_own(folder: Path, night: Night) -> None:
    """A rehearsal kept it, and the night renders from that."""
    night.render(load(folder, proof=True))
    leave(folder)
    found = load(folder)
    assert counts(night.render(found)) == (4, 0, 0, 0)
    shutil.rmtree(folder / "out/m-proof")
    assert counts(night.render(load(folder), force=True)) == (4, 0, 0, 0)


def test_a_manifest_that_joins_a_night_is_what_it_was(folder: Path, night: Night) -> None:
    """Read on the night's own thread, by the same record."""
    night.render(load(folder))
    leave(folder)
    told: list[events.Event] = []
    answers: list[NightAnswer] = []
    additions = Additions(night.settings, night.stop)
    additions.begin(Preparation(night.settings, told.append, night.stop).seats(), {})
    additions.ask(AddedManifest(folder / "m.yaml", answer=answers.append))
    arrived: list[Arrival] = []

    def has_come() -> bool:
        arrived.extend(additions.take(told.append))
        return bool(arrived or answers)

    until(has_come)
    assert answers == []
    assert arrived[0].plan.count("done") == 4
    arrived[0].held.close()
    additions.end()
