from __future__ import annotations

import errno
import json
import os
import resource
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from renderer.errors import DiskError
from renderer.job import Engine, FileFacts, Memory, ModelIdentity, Sidecar, Timing
from renderer.outputs import done, picture_files
from renderer.outputs.encode import Pixels
from renderer.outputs.folder import OutputFolder
from renderer.system import files
from tests.fakes import SOFTWARE, draw
from tests.making import finished, make_picture

MARK = "a" * 64


def describe_as(mark: str = MARK) -> Callable[[FileFacts, float], Sidecar]:
    def describe(file: FileFacts, save_s: float) -> Sidecar:
        picture, now = make_picture(), datetime.now(UTC)
        return Sidecar(
            fingerprint=mark,
            id=picture.id,
            place=picture.place,
            job=picture.job,
            model=ModelIdentity(id="demo"),
            engine=Engine(name="fake", profile="cpu", device="cpu"),
            software=SOFTWARE,
            timing=Timing(began_at=now, ended_at=now, save_s=save_s),
            memory=Memory(),
            file=file,
        )

    return describe


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path / "out")


def save(folder: OutputFolder, output: str = "p", mark: str = MARK, pixels: Pixels | None = None) -> Sidecar:
    return picture_files.save(folder, output, pixels or draw(make_picture().job), describe_as(mark))


class TestSave:
    def test_the_file_holds_the_very_pixels(self, folder: OutputFolder) -> None:
        """What is read back from the PNG is what was given, byte for byte."""
        pixels = draw(make_picture().job)
        save(folder, pixels=pixels)
        with Image.open(folder.picture("p")) as image:
            assert image.size == (pixels.width, pixels.height)
            assert image.tobytes() == pixels.rgb

    def test_the_sidecar_tells_of_the_file(self, folder: OutputFolder) -> None:
        """The sidecar on disk is the one returned, and its hash and size are the file's."""
        sidecar = save(folder)
        assert picture_files.read_sidecar(folder.sidecar("p")) == sidecar
        assert sidecar.file.bytes == folder.picture("p").stat().st_size
        assert sidecar.file.sha256 == files.sha256_of(folder.picture("p"))

    def test_it_makes_the_folders_a_name_asks_for(self, folder: OutputFolder) -> None:
        """A name with a slash lands in a folder of its own."""
        save(folder, "posters/de/p")
        assert (folder.path / "posters/de/p.png").is_file()

    def test_it_leaves_no_temporary_file(self, folder: OutputFolder) -> None:
        """After a save, the picture and its sidecar are all there is."""
        save(folder)
        assert sorted(path.name for path in folder.path.iterdir()) == ["p.json", "p.png"]

    def test_a_link_that_leads_out_is_refused(self, folder: OutputFolder, tmp_path: Path) -> None:
        """A folder inside the output folder that is a link elsewhere takes no pictures."""
        outside = tmp_path / "outside"
        outside.mkdir()
        folder.path.mkdir()
        (folder.path / "sub").symlink_to(outside)
        with pytest.raises(DiskError, match="leads out"):
            save(folder, "sub/p")
        assert list(outside.iterdir()) == []

    def test_a_link_in_the_picture_s_place_is_replaced_not_followed(self, folder: OutputFolder, tmp_path: Path) -> None:
        """A picture whose name is taken by a link replaces the link; what it pointed to is untouched."""
        victim = tmp_path / "victim"
        victim.write_text("precious")
        folder.path.mkdir()
        folder.picture("p").symlink_to(victim)
        save(folder)
        assert victim.read_text() == "precious"
        assert not folder.picture("p").is_symlink()


class TestFullDisk:
    def test_old_files_survive_a_file_size_limit(self, folder: OutputFolder) -> None:
        """When the new picture does not fit, the old one and its sidecar stay whole, and nothing else is left."""
        before = save(folder)
        big = Pixels(512, 512, os.urandom(512 * 512 * 3))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(DiskError) as raised:
                save(folder, mark="b" * 64, pixels=big)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "ulimit" in raised.value.hint
        assert finished(folder, "p", MARK, thorough=True) == before
        assert sorted(path.name for path in folder.path.iterdir()) == ["p.json", "p.png"]

    def test_no_space_says_what_to_do(self) -> None:
        """A full disk is named as such, with what helps."""
        error = files.disk_error(Path("x.png"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        assert "cannot write x.png: No space left" in error.message
        assert "free some space" in error.hint


class TestFinished:
    def test_a_saved_picture_is_finished(self, folder: OutputFolder) -> None:
        """The same fingerprint and the same bytes: done."""
        save(folder)
        assert finished(folder, "p", MARK, thorough=True)

    def test_another_fingerprint_is_not(self, folder: OutputFolder) -> None:
        """A changed job is not done."""
        save(folder)
        assert finished(folder, "p", "b" * 64, thorough=True) is None

    def test_a_flipped_bit_is_seen_when_thorough(self, folder: OutputFolder) -> None:
        """One changed byte of the same length passes the quick look and fails the thorough one."""
        save(folder)
        data = bytearray(folder.picture("p").read_bytes())
        data[len(data) // 2] ^= 1
        folder.picture("p").write_bytes(data)
        assert finished(folder, "p", MARK, thorough=False)
        assert finished(folder, "p", MARK, thorough=True) is None

    def test_a_truncated_picture_is_seen_at_once(self, folder: OutputFolder) -> None:
        """A shorter file is not done, also at a quick look."""
        save(folder)
        os.truncate(folder.picture("p"), 100)
        assert finished(folder, "p", MARK, thorough=False) is None

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"null", b"[]", b'{"sidecar_version": 1}', b"\xff\xfe", b"9" * 2**21]
    )
    def test_what_is_no_sidecar_is_not_done(self, folder: OutputFolder, content: bytes) -> None:
        """A damaged, foreign or enormous file in the sidecar's place is passed over without a traceback."""
        save(folder)
        folder.sidecar("p").write_bytes(content)
        assert finished(folder, "p", MARK, thorough=True) is None

    def test_a_sidecar_without_end_is_not_read(self, folder: OutputFolder) -> None:
        """A good one with a mebibyte of nothing behind it is none: somebody's file is not taken into memory."""
        save(folder)
        with folder.sidecar("p").open("a") as stream:
            stream.write(" " * 2**20)
        assert picture_files.read_sidecar(folder.sidecar("p")) is None
        assert finished(folder, "p", MARK, thorough=True) is None

    def test_a_sidecar_with_more_fields_is_not_ours(self, folder: OutputFolder) -> None:
        """The fields are a closed list: one more, and it is another version's."""
        save(folder)
        content = json.loads(folder.sidecar("p").read_text())
        folder.sidecar("p").write_text(json.dumps({**content, "host": "example"}))
        assert picture_files.read_sidecar(folder.sidecar("p")) is None


class TestCarry:
    def test_two_names_of_one_file(self, folder: OutputFolder) -> None:
        """Where both names are the same file (a disk that ignores case; here a link), leaving one loses nothing."""
        save(folder, "Sub/p")
        (folder.path / "sub").symlink_to("Sub")
        picture_files.carry(folder, "Sub/p", "sub/p", lambda sidecar: sidecar, leaves=True)
        assert finished(folder, "sub/p", MARK, thorough=True)

    def test_a_second_link_is_no_such_name(self, folder: OutputFolder) -> None:
        """A move that died after it had linked the file is gone on with, and the old name goes."""
        save(folder)
        os.link(folder.picture("p"), folder.picture("q"))
        picture_files.carry(folder, "p", "q", lambda sidecar: sidecar, leaves=True)
        assert finished(folder, "q", MARK, thorough=True)
        assert not folder.picture("p").exists()

    def test_what_is_a_link_itself_comes_as_a_file(self, folder: OutputFolder, tmp_path: Path) -> None:
        """Somebody keeps pictures elsewhere: a link's second name in another folder would lead nowhere."""
        save(folder)
        elsewhere = folder.picture("p").rename(tmp_path / "elsewhere.png")
        folder.picture("p").symlink_to(Path("..") / elsewhere.name)
        picture_files.carry(folder, "p", "sub/deep/p", lambda sidecar: sidecar, leaves=True)
        assert finished(folder, "sub/deep/p", MARK, thorough=True)
        assert not folder.picture("sub/deep/p").is_symlink()
        assert elsewhere.exists()

    def test_a_link_that_leads_out_takes_nothing(self, folder: OutputFolder, tmp_path: Path) -> None:
        """As with a picture that is rendered."""
        save(folder)
        (tmp_path / "outside").mkdir()
        (folder.path / "sub").symlink_to(tmp_path / "outside")
        with pytest.raises(DiskError, match="leads out"):
            picture_files.carry(folder, "p", "sub/p", lambda sidecar: sidecar, leaves=True)
        assert list((tmp_path / "outside").iterdir()) == []
        assert finished(folder, "p", MARK, thorough=True)


class TestPlaces:
    @pytest.mark.parametrize("taken", ["p.png", "p.json"])
    def test_a_folder_in_a_file_s_place_is_known_before(self, folder: OutputFolder, taken: str) -> None:
        """Nothing is rendered that could not be kept; where a file stands, it will be replaced."""
        picture_files.check_place(folder, "p", "png")
        save(folder)
        picture_files.check_place(folder, "p", "png")
        (folder.path / taken).unlink()
        (folder.path / taken).mkdir()
        with pytest.raises(DiskError, match="Is a directory"):
            picture_files.check_place(folder, "p", "png")

    def test_a_folder_goes_with_its_last_picture_and_that_of_takes_stays(self, folder: OutputFolder) -> None:
        """Another take may be on its way there."""
        for output in ("sub/p", ".takes/p"):
            save(folder, output)
            picture_files.remove(folder, output, "png")
        assert [path.name for path in folder.path.iterdir()] == [".takes"]


class TestSweep:
    def test_one_file_that_cannot_be_read_or_removed_stops_nothing(self, folder: OutputFolder) -> None:
        """A folder of a temporary file's name stays, and the others go."""
        save(folder)
        (folder.path / ".part-change-1").mkdir()
        (folder.path / ".part-change-2").write_bytes(b"\xff no note")
        (folder.path / ".part-3").write_bytes(b"half")
        picture_files.sweep(folder)
        assert {path.name for path in folder.path.glob(".part-*")} == {".part-change-1"}

    def test_a_note_that_leads_out_removes_nothing(self, folder: OutputFolder, tmp_path: Path) -> None:
        """Somebody's own, in a folder that many may write into."""
        theirs = OutputFolder(tmp_path / "theirs")
        save(theirs)
        theirs.picture("p", "webp").write_bytes(b"precious")
        save(folder)
        note = picture_files._Change(name="../theirs/p", formats=("png", "webp"))
        (folder.path / ".part-change-1").write_text(note.model_dump_json())
        assert picture_files.sweep(folder) == 1
        assert theirs.picture("p", "webp").exists()

    def test_it_follows_no_link(self, folder: OutputFolder, tmp_path: Path) -> None:
        """What a link leads to is somebody else's, temporary or not; and a link may lead in a circle."""
        save(folder)
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs" / ".part-1").write_bytes(b"theirs")
        (folder.path / "out").symlink_to(tmp_path / "theirs")
        (folder.path / "round").symlink_to(folder.path)
        assert picture_files.sweep(folder) == 0
        assert (tmp_path / "theirs" / ".part-1").exists()

    def test_it_removes_what_dead_runs_left(self, folder: OutputFolder) -> None:
        """Temporary files go, also in sub-folders; pictures and the user's own files stay."""
        save(folder, "sub/p")
        (folder.path / "sub" / ".part-0123").write_bytes(b"half")
        (folder.path / "notes.txt").write_text("mine")
        assert picture_files.sweep(folder) == 1
        assert sorted(path.name for path in folder.path.rglob("*") if path.is_file()) == [
            "notes.txt",
            "p.json",
            "p.png",
        ]


def test_names_that_a_disk_takes_apart(folder: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mac's disk gives a name back with its accents apart: it is the picture's own, and not another picture."""
    save(folder, "\u00e9t\u00e9/\u00e9")
    walk = os.walk

    def apart(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for place, folders, names in walk(top):
            yield place, folders, [unicodedata.normalize("NFD", name) for name in names]

    monkeypatch.setattr(os, "walk", apart)
    assert [found.output for found in done.find_all(folder)] == ["\u00e9t\u00e9/\u00e9"]
    assert not list(done.find_all(folder, {"\u00e9t\u00e9/\u00e9"}))
