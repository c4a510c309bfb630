from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from renderer.cli import command as cli
from renderer.errors import DiskError, LeaseLostError
from renderer.outputs import picture_files
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal
from renderer.system import files
from tests.outputs.test_picture_files import MARK, save
from tests.system.test_lock import MANIFEST
from tests.users import as_another, needs_root


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path / "out")


class TestWhatAnErrorEnds:
    @pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "ENODEV", "ENXIO", "ESTALE", "ENOTCONN", "ENOMEM"])
    def test_a_disk_that_takes_nothing_more_ends_the_night(self, name: str) -> None:
        """Full, used up, read-only, taken out, its server away: no other picture could be written either."""
        assert disk_error_of(name).ends_the_night

    @pytest.mark.parametrize("name", ["EISDIR", "ENOTDIR", "ENAMETOOLONG", "EACCES", "EPERM", "EIO", "EFBIG", "ELOOP"])
    def test_one_path_does_not(self, name: str) -> None:
        """A folder in a picture's place, a name too long, a bad block: the others can be written."""
        assert not disk_error_of(name).ends_the_night

    def test_a_folder_in_a_picture_s_place_is_one_path(self, folder: OutputFolder) -> None:
        """The hint says what stands there."""
        folder.picture("p").mkdir(parents=True)
        with pytest.raises(DiskError, match="directory") as raised:
            save(folder)
        assert "a folder stands in its place" in raised.value.hint
        assert not raised.value.ends_the_night

    def test_what_leads_out_is_one_path(self, folder: OutputFolder, tmp_path: Path) -> None:
        """One link in the folder does not stop the others."""
        folder.path.mkdir()
        (folder.path / "sub").symlink_to(tmp_path)
        with pytest.raises(DiskError, match="leads out") as raised:
            save(folder, "sub/p")
        assert not raised.value.ends_the_night

    def test_the_real_error_is_said_when_nothing_can_be_removed_either(
        self, folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a file system that has become read-only, removing the part fails too: what is told is the first error."""

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(os, "fsync", refuse)
        monkeypatch.setattr(Path, "unlink", refuse)
        with pytest.raises(DiskError, match="cannot write") as raised:
            save(folder)
        assert raised.value.ends_the_night
        assert "read-only" in raised.value.hint


def disk_error_of(name: str) -> DiskError:
    number = getattr(errno, name)
    return files.disk_error(Path("x.png"), OSError(number, os.strerror(number)))


def failing(number: int, *, only: Callable[[int], bool]) -> Callable[[int], None]:
    """An fsync that fails for some descriptors."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if only(descriptor):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    return fsync


def is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


class TestSyncing:
    @pytest.mark.parametrize("name", ["EINVAL", "EBADF", "EACCES", "ENOTSUP", "ENOSYS", "EPERM"])
    def test_a_folder_that_cannot_be_synced_takes_files(
        self, folder: OutputFolder, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """Shares of virtual machines, some of FUSE and CIFS know no such thing: nothing can be done about it."""
        monkeypatch.setattr(os, "fsync", failing(getattr(errno, name), only=is_folder))
        save(folder, "new/p")
        Journal.read(folder).write("attempt", "p", MARK)
        assert folder.picture("new/p").is_file()

    def test_a_folder_whose_disk_fails_is_an_error(self, folder: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        """A fault of the disk is not passed over: what was written may not be there."""
        monkeypatch.setattr(os, "fsync", failing(errno.EIO, only=is_folder))
        with pytest.raises(DiskError, match="Input/output error"):
            save(folder)

    def test_a_file_that_cannot_be_synced_is_an_error(
        self, folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of files there is no file system that cannot."""
        monkeypatch.setattr(os, "fsync", failing(errno.EINVAL, only=lambda descriptor: not is_folder(descriptor)))
        with pytest.raises(DiskError, match="Invalid argument"):
            save(folder)


class TestShortWrites:
    def test_what_the_disk_takes_in_pieces_is_written_whole(
        self, folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A call that takes only a part of the bytes is followed by another, for pictures and for the journal."""
        real = os.write
        monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:7]))
        save(folder)
        Journal.read(folder).write("failed", "p", MARK, "why")
        assert Journal.read(folder).record(MARK).failure == "why"
        assert folder.sidecar("p").read_bytes().endswith(b"}\n")

    def test_an_entry_that_did_not_fit_does_not_count(
        self, folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Half an entry on a disk that became full is said; the next one stands on a line of its own."""
        book, real = Journal.read(folder), os.write
        pieces = iter((20,))

        def write(descriptor: int, data: bytes) -> int:
            if (size := next(pieces, None)) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, bytes(data)[:size])

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(DiskError) as raised:
                book.write("failed", "p", MARK, "lost")
        assert raised.value.ends_the_night
        assert book.record(MARK).failure == ""
        book.write("failed", "p", MARK, "kept")
        assert Journal.read(folder).record(MARK).failure == "kept"


class TestWords:
    def test_a_link_to_nowhere_is_named(self, tmp_path: Path) -> None:
        """`outputs` that leads to a disk which is not there: "File exists" would be true and of no use."""
        (tmp_path / "outputs").symlink_to("/nowhere/usb")
        with pytest.raises(DiskError, match="outputs is a link to /nowhere/usb, which is not there") as raised:
            files.write_whole(tmp_path / "outputs" / "m" / "p.png", b"")
        assert raised.value.ends_the_night
        assert "mount" in raised.value.hint

    def test_a_file_in_a_folder_s_place_is_named(self, folder: OutputFolder) -> None:
        """A picture that needs a folder where a file stands: that path alone."""
        folder.path.mkdir()
        (folder.path / "sub").write_text("a file")
        with pytest.raises(DiskError) as raised:
            save(folder, "sub/p")
        assert "a file stands in the place of its folder" in raised.value.hint
        assert not raised.value.ends_the_night

    def test_a_journal_that_cannot_be_read_is_an_error(self, folder: OutputFolder) -> None:
        """Taken for an empty one, it would forget which pictures bring workers down."""
        folder.journal.mkdir(parents=True)
        with pytest.raises(DiskError, match="cannot read"):
            Journal.read(folder)

    @needs_root
    def test_folders_of_another_user(self) -> None:
        """Neither reading nor locking nor writing where one may not: a sentence and what helps, each time."""

        def try_all(root: Path) -> list[str]:
            folder = OutputFolder(root / "theirs")
            said = []
            for attempt in (lambda: Journal.read(folder), lambda: folder.locked().__enter__(), lambda: save(folder)):
                try:
                    attempt()
                except DiskError as error:
                    said.append(f"{error.message.replace(str(root), '')} ({error.hint})")
            return [*said, folder.hold()]

        def prepare(root: Path) -> None:
            (root / "theirs").mkdir(mode=0o700)

        reading, locking, writing, hold = as_another(prepare, try_all)
        assert reading.startswith("cannot read /theirs/journal.jsonl: Permission denied (change who owns")
        assert locking.startswith("cannot lock /theirs/.lock: Permission denied (change who owns")
        assert writing.startswith("cannot write /theirs/p.png: Permission denied (change who owns")
        assert hold == "unknown"

    @needs_root
    @pytest.mark.parametrize("closed", ["outputs", "outputs/m", "."])
    def test_commands_over_another_user_s_outputs(self, closed: str) -> None:
        """Whichever folder may not be entered, no command shows a traceback, or takes what it cannot see for absent."""
        commands = (["status"], ["plan"], ["report"], ["render"])

        def run_all(root: Path) -> list[str]:
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                codes = [
                    cli.main([*command, str(root / "m.yaml"), "--outputs", str(root / "outputs")])
                    for command in commands
                ]
            return [*map(str, codes), said.getvalue()]

        def prepare(root: Path) -> None:
            (root / "m.yaml").write_text(MANIFEST)
            (root / "empty").mkdir()
            with (
                contextlib.redirect_stderr(io.StringIO()),
                contextlib.redirect_stdout(io.StringIO()),
                OutputFolder(root / "held" / "m").locked(),
            ):
                for command in commands:  # what they import, only root may read
                    cli.main([*command, str(root / "m.yaml"), "--outputs", str(root / "held")])
            (root / "outputs" / "m").mkdir(parents=True)
            (root / closed).chmod(0o700)

        *codes, said = as_another(prepare, run_all)
        assert "Traceback" not in said
        if closed == ".":
            assert set(codes) == {"2"}, said  # the manifest is in there too
        else:
            assert codes == ["1"] * 4, said
            assert said.count("cannot read") == 3
            assert said.count("\nerror: cannot lock") == 1  # the summary before it has its own words


class TestRemovingTooLate:
    """Whoever is about to remove a file, and learns then that the folder is another's by now."""

    def remove(self, path: Path, meanwhile: Callable[[], object] = lambda: None) -> LeaseLostError:
        """Remove a file, and lose the folder between the question and the end; what is said then."""
        with pytest.raises(LeaseLostError) as lost:
            files.remove(path, passing_once(LeaseLostError("it is another's"), meanwhile))
        return lost.value

    def test_it_is_put_back(self, folder: OutputFolder) -> None:
        """Unless there is a newer one; nothing else is left."""
        folder.path.mkdir()
        path = folder.path / "p.json"
        path.write_text("theirs")
        assert self.remove(path).message == "it is another's"
        assert path.read_text() == "theirs"
        self.remove(path, lambda: path.write_text("newer"))
        assert path.read_text() == "newer"
        assert [each.name for each in folder.path.iterdir()] == ["p.json"]

    def test_one_that_cannot_be_put_back_is_kept_and_told(
        self, folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And is there again when somebody puts the folder in order, once the disk is well."""
        folder.path.mkdir()
        path = folder.path / "p.json"
        path.write_text("theirs")

        def fails(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def breaks() -> None:
            monkeypatch.setattr(os, "link", fails)
            monkeypatch.setattr(os, "replace", fails)

        lost = self.remove(path, breaks)
        (kept,) = folder.path.iterdir()
        assert kept.read_text() == "theirs"
        said = f"{path} could not be put back, and lies as {kept.name} beside its place: {os.strerror(errno.EIO)}"
        assert str(lost) == f"it is another's; {said}"
        picture_files.sweep(folder)
        assert kept.read_text() == "theirs", "it is not swept away either"
        monkeypatch.undo()
        picture_files.sweep(folder)
        assert [(each.name, each.read_text()) for each in folder.path.iterdir()] == [("p.json", "theirs")]

    def test_a_name_that_is_none_costs_nobody_anything(self, folder: OutputFolder) -> None:
        """Whatever else lies in a folder is no reason to render nothing."""
        folder.path.mkdir()
        names = [
            f"{files.REMOVING_PREFIX}{rest}" for rest in ("", "12345678", "12345678-", "12345678-.", "12345678-..")
        ]
        for name in names:
            (folder.path / name).write_text("x")
        assert picture_files.sweep(folder) == len(names)

    def test_a_run_that_dies_in_between_loses_nothing(self, folder: OutputFolder) -> None:
        """The next one finds it where it was."""
        folder.path.mkdir()
        (folder.path / "p.json").write_text("theirs")
        with pytest.raises(KeyboardInterrupt):
            files.remove(folder.path / "p.json", passing_once(KeyboardInterrupt()))
        picture_files.sweep(folder)
        assert [(each.name, each.read_text()) for each in folder.path.iterdir()] == [("p.json", "theirs")]


def passing_once(error: BaseException, meanwhile: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """A guard that lets one write pass; before it is asked again, something happens, and then it raises."""
    answers = iter((True, False))

    def guard() -> None:
        if not next(answers):
            meanwhile()
            raise error

    return guard
