"""What is remembered of files that go in: they are decoded again only when they have changed."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from PIL import Image

from renderer.errors import ManifestError, PictureError
from renderer.job import Input
from renderer.manifest import looked_at, manifest
from renderer.manifest.looked_at import LookedAt, WantedFile
from renderer.outputs import input_files
from renderer.system import folders


@pytest.fixture(autouse=True)
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were decoded, by their names; the cache is empty, and files may have changed just now."""
    monkeypatch.setenv("RENDERER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(looked_at, "SETTLED_NS", -(10**18))
    monkeypatch.setattr(looked_at, "WORTH_S", 0.0)
    found: list[str] = []
    decode = input_files.decode

    def decoded(data: bytes, name: str, purpose: input_files.Purpose = "picture") -> input_files.Decoded:
        found.append(f"{name} {purpose}")
        return decode(data, name, purpose)

    monkeypatch.setattr(input_files, "decode", decoded)
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 48), (0, 0, number)).save(folder / f"{number}.png")
    (tmp_path / "m.yaml").write_text(
        'jobs: [{id: "{stem}", model: demo, prompt: a, image: photos/*.png, mask: photos/0.png}]', encoding="utf-8"
    )
    return folder


def wanted(folder: Path, name: str) -> WantedFile:
    return WantedFile(folder / name, "picture", name, name)


def test_a_look_that_is_interrupted_goes_on(
    tmp_path: Path, photos: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C among a thousand photos: those that were seen are not decoded again."""
    with monkeypatch.context() as patch:
        decode = input_files.decode

        def decoded(data: bytes, name: str, purpose: input_files.Purpose = "picture") -> input_files.Decoded:
            if len(read) == 2:
                raise KeyboardInterrupt
            return decode(data, name, purpose)

        patch.setattr(input_files, "decode", decoded)
        with pytest.raises(KeyboardInterrupt):
            manifest.load(tmp_path / "m.yaml")
    manifest.load(tmp_path / "m.yaml")
    assert len(read) == len(set(read)) == 4
    assert photos.is_dir()


def test_who_interrupts_a_look_waits_for_what_has_begun_alone(
    tmp_path: Path, photos: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for the thousand that are left."""
    for number in range(3, 20):
        Image.new("RGB", (64, 48), (0, 0, number)).save(photos / f"{number}.png")
    decode, never = input_files.decode, threading.Event()

    def slow(data: bytes, name: str, purpose: input_files.Purpose = "picture") -> input_files.Decoded:
        never.wait(0.1 if read else 0.0)
        return decode(data, name, purpose)

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(input_files, "decode", slow)
    with pytest.raises(KeyboardInterrupt):
        manifest.load(tmp_path / "m.yaml", heard=interrupt)
    assert len(read) < 20


def test_a_second_look_decodes_nothing(tmp_path: Path, photos: Path, read: list[str]) -> None:
    """The pictures are the same, whoever reads the manifest; what has changed is looked at, and nothing else."""
    first = manifest.load(tmp_path / "m.yaml").pictures
    assert sorted(read) == ["photos/0.png mask", *(f"photos/{number}.png picture" for number in range(3))]
    read.clear()
    assert manifest.load(tmp_path / "m.yaml").pictures == first
    assert read == []
    Image.new("RGB", (64, 48), "red").save(photos / "1.png")
    again = manifest.load(tmp_path / "m.yaml").pictures
    assert read == ["photos/1.png picture"]
    assert [one == other for one, other in zip(first, again, strict=True)] == [True, False, True]


def test_a_file_that_is_dated_back_is_looked_at(tmp_path: Path, photos: Path, read: list[str]) -> None:
    """In its place, with its size and its time: its inode tells."""
    path, before = photos / "1.png", (photos / "1.png").stat()
    manifest.load(tmp_path / "m.yaml")
    read.clear()
    data = bytearray(path.read_bytes())
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    manifest.load(tmp_path / "m.yaml")
    assert read == ["photos/1.png picture"]


def test_what_has_just_changed_is_not_remembered(
    tmp_path: Path, photos: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change again before its time tells."""
    monkeypatch.setattr(looked_at, "SETTLED_NS", 10**18)
    assert photos
    for _ in range(2):
        manifest.load(tmp_path / "m.yaml")
    assert len(read) == 8


@pytest.mark.parametrize("told", ["no JSON", "[]", '{"by": "another", "files": {}}', '{"by": 1, "files": 2}', None])
def test_a_memory_that_is_none(tmp_path: Path, photos: Path, read: list[str], told: str | None) -> None:
    """Files are looked at again; also where an entry is not as it is written, or nothing can be kept."""
    first = manifest.load(tmp_path / "m.yaml").pictures
    (memory,) = (folders.cache_folder() / "inputs").glob("*.json")
    if told is None:
        found = json.loads(memory.read_text())
        for each in found["files"].values():
            each["size"] = "large"
        told = json.dumps(found)
    memory.write_text(told)
    read.clear()
    assert manifest.load(tmp_path / "m.yaml").pictures == first
    assert len(read) == 4
    assert photos


def test_what_took_no_time_is_not_written_down(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a data set, and pictures that are replayed, are a manifest each."""
    monkeypatch.setattr(looked_at, "WORTH_S", 100.0)
    assert photos
    manifest.load(tmp_path / "m.yaml")
    assert not (folders.cache_folder() / "inputs").exists()


def test_where_nothing_can_be_kept(tmp_path: Path, photos: Path, read: list[str]) -> None:
    (tmp_path / "cache").write_text("a file where the folder belongs")
    for _ in range(2):
        assert len(manifest.load(tmp_path / "m.yaml").pictures) == 3
    assert len(read) == 8
    assert photos


def test_errors_are_not_remembered(tmp_path: Path, read: list[str]) -> None:
    """And a file that went is forgotten, once something is written down."""
    (tmp_path / "a.png").write_bytes(b"none")
    looking = LookedAt()
    assert isinstance(looking.look(wanted(tmp_path, "a.png")), PictureError)
    assert isinstance(looking.look(wanted(tmp_path, "a.png")), PictureError)
    looking.remember()
    assert read == ["a.png picture"]
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    for gone in ("a.png", "b.png"):
        looking = LookedAt()
        found = looking.look(wanted(tmp_path, gone))
        assert not isinstance(found, PictureError)
        assert isinstance(found[0], Input)
        looking.remember()
        (tmp_path / gone).unlink()
    (memory,) = (folders.cache_folder() / "inputs").glob("*.json")
    assert list(json.loads(memory.read_text())["files"]) == ["picture b.png"]


def test_whoever_waits_hears_how_many(tmp_path: Path, photos: Path, read: list[str]) -> None:
    """All files of all jobs are looked at together, once each; those that are known already are not counted."""
    heard: list[tuple[int, int]] = []
    (tmp_path / "m.yaml").write_text(
        "defaults: {model: demo}\njobs: ["
        '{id: "{stem}", prompt: a, image: photos/*.png}, {id: b, prompt: b, image: photos/1.png, mask: photos/0.png}]'
    )
    first = manifest.load(tmp_path / "m.yaml", heard=lambda done, total: heard.append((done, total)))
    assert heard == [(done, 4) for done in (1, 2, 3, 4)]
    assert len(read) == 4
    Image.new("RGB", (64, 48), "red").save(photos / "1.png")
    Image.new("RGB", (64, 48), "red").save(photos / "2.png")
    again = manifest.load(tmp_path / "m.yaml", heard=lambda done, total: heard.append((done, total)))
    assert heard[4:] == [(1, 2), (2, 2)]
    assert [one == other for one, other in zip(first.pictures, again.pictures, strict=True)] == [True, *3 * [False]]


def test_of_more_than_is_allowed_none_is_looked_at(tmp_path: Path, photos: Path, read: list[str]) -> None:
    """A pattern with too many files is refused at once: ten thousand photos would take an hour."""
    assert photos
    text = 'max_pictures: 5\njobs: [{id: "{stem}", model: demo, prompt: a, image: photos/*.png, seeds: [1, 2]}]'
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ManifestError, match="more than the 5 pictures"):
        manifest.load(tmp_path / "m.yaml")
    assert read == []


def test_a_manifests_name_needs_none_of_its_pictures(tmp_path: Path, photos: Path, read: list[str]) -> None:
    """Who stops a run asks for no more."""
    for path in photos.iterdir():
        path.unlink()
    (tmp_path / "m.yaml").write_text("{name: shop, jobs: [{prompt: a, image: photos/*.png}, {prompt: b, imag: c}]}")
    assert manifest.name_of(tmp_path / "m.yaml") == "shop"
    assert read == []
