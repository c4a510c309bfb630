from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from renderer.errors import DiskError, LockedError
from renderer.outputs.folder import OutputFolder
from renderer.system import lock
from tests.users import as_another, needs_root


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path / "out")


def _hold(path: Path, taken: multiprocessing.synchronize.Event, release: multiprocessing.synchronize.Event) -> None:
    with OutputFolder(path).locked():
        taken.set()
        release.wait(30)


class TestTheSystemsLock:
    def test_a_second_run_is_turned_away_at_once(self, folder: OutputFolder) -> None:
        """While one process holds the folder another is refused; when it lets go, the next may have it."""
        context = multiprocessing.get_context("fork")
        taken, release = context.Event(), context.Event()
        child = context.Process(target=_hold, args=(folder.path, taken, release))
        child.start()
        assert taken.wait(30)
        with pytest.raises(LockedError) as raised, folder.locked():
            pass
        assert raised.value.exit_code == 75
        release.set()
        child.join(30)
        with folder.locked():
            pass

    def test_a_killed_run_leaves_no_lock(self, folder: OutputFolder) -> None:
        """The system takes the lock back from a process that was killed."""
        context = multiprocessing.get_context("fork")
        taken, release = context.Event(), context.Event()
        child = context.Process(target=_hold, args=(folder.path, taken, release))
        child.start()
        assert taken.wait(30)
        child.kill()
        child.join(30)
        with folder.locked():
            pass

    @needs_root
    def test_a_lock_s_file_of_another_user_can_be_locked(self) -> None:
        """A folder that several users write into: who made the lock's file does not matter."""

        def prepare(root: Path) -> None:
            with OutputFolder(root / "shared").locked():
                pass
            (root / "shared").chmod(0o777)
            (root / "shared" / ".lock").chmod(0o644)

        def hold(root: Path) -> list[str]:
            folder = OutputFolder(root / "shared")
            with folder.locked():
                return [folder.hold()]

        assert as_another(prepare, hold) == ["held"]


@pytest.fixture(params=["ENOLCK", "EOPNOTSUPP", "ENOSYS", "EINVAL"])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no locks, as it says so."""
    number = getattr(errno, request.param)

    def flock(_descriptor: int, _how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


class TestWaiting:
    """A model that another process fetches is waited for."""

    def test_until_it_lets_go(self, folder: OutputFolder) -> None:
        """As long as that process has it, and no longer; its folder is made."""
        context = multiprocessing.get_context("fork")
        taken, release = context.Event(), context.Event()
        child = context.Process(target=_hold, args=(folder.path, taken, release))
        child.start()
        assert taken.wait(30)
        waiting = threading.Timer(0.3, release.set)
        waiting.start()
        with lock.waited(folder.path / ".lock"):
            assert release.is_set()
        child.join(30)

    @pytest.mark.usefixtures("no_locks")
    def test_where_there_are_no_locks(self, tmp_path: Path) -> None:
        """A marker does there too: models lie on NFS more often than pictures do."""
        with lock.waited(tmp_path / "models/.lock"):
            assert (tmp_path / "models/.lock.held").exists()

    def test_where_it_cannot_be(self, tmp_path: Path) -> None:
        """An error in words, and not a process that waits for ever."""
        (tmp_path / "file").touch()
        with pytest.raises(DiskError), lock.waited(tmp_path / "file/.lock"):
            pass


@pytest.mark.usefixtures("no_locks")
class TestWithoutLocks:
    def test_a_marker_stands_for_the_lock(self, folder: OutputFolder) -> None:
        """A second run is turned away all the same, and told what to do when there is no first."""
        with folder.locked():
            assert folder.hold() == "held"
            with pytest.raises(LockedError) as raised, folder.locked():
                pass
        assert "remove" in raised.value.hint
        assert folder.hold() == "free"
        with folder.locked():
            pass

    def test_a_killed_run_s_marker_is_passed_over(self, folder: OutputFolder) -> None:
        """Its process is dead, and was this machine's."""
        context = multiprocessing.get_context("fork")
        taken, release = context.Event(), context.Event()
        child = context.Process(target=_hold, args=(folder.path, taken, release))
        child.start()
        assert taken.wait(30)
        assert folder.hold() == "held"
        child.kill()
        child.join(30)
        assert folder.hold() == "free"
        with folder.locked():
            pass

    def test_another_machine_s_marker_is_not(self, folder: OutputFolder) -> None:
        """Whether its process lives cannot be seen from here."""
        folder.path.mkdir()
        (folder.path / ".lock").touch()
        (folder.path / ".lock.held").write_text("1\nanother-machine\n")
        assert folder.hold() == "held"
        with pytest.raises(LockedError), folder.locked():
            pass

    def test_a_folder_nobody_rendered_into_is_free(self, folder: OutputFolder) -> None:
        """No lock was ever made there."""
        assert folder.hold() == "free"


def test_a_lock_that_fails_otherwise_is_an_error(folder: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is neither "held" nor "there are none" is said as it is."""

    def flock(_descriptor: int, _how: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(DiskError, match="cannot lock"), folder.locked():
        pass
    assert folder.hold() == "unknown"


MANIFEST = """\
version: 1
defaults: {model: demo, precision: bf16, size: 64x64, steps: 2, seed: 1}
jobs: [{id: a, prompt: a}]
"""


def _cannot_mount() -> str:
    """Why nothing can be mounted here, or nothing."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    done = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True, check=False
    )
    return done.stderr.strip()


@pytest.mark.skipif(bool(_cannot_mount()), reason=f"nothing can be mounted: {_cannot_mount()}")
@pytest.mark.parametrize("begun", [False, True])
def test_a_read_only_mount(tmp_path: Path, begun: bool) -> None:  # noqa: FBT001
    """A disk that is mounted read-only takes no run, which is said in a sentence; how things stand is told."""
    (tmp_path / "m.yaml").write_text(MANIFEST)
    (tmp_path / "disk").mkdir()
    prepare = "mkdir disk/m; touch disk/m/.lock" if begun else "true"
    script = f"""
        mount -t tmpfs none disk; {prepare}; mount -o remount,ro disk
        "$0" -m renderer render m.yaml --outputs disk; echo "render: $?"
        "$0" -m renderer status m.yaml --outputs disk; echo "status: $?"
        "$0" -m renderer plan m.yaml --outputs disk > /dev/null; echo "plan: $?"
    """
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, sys.executable],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert "Traceback" not in done.stderr
    assert "cannot lock disk/m/.lock: Read-only file system" in done.stderr
    assert "the file system is read-only: choose another folder with --outputs" in done.stderr
    said = done.stdout.splitlines()
    assert "render: 1" in said
    assert "status: 0" in said
    assert "plan: 0" in said
    assert "m: 0 done, 0 failed, 0 set aside, 1 to do of 1" in done.stdout
