"""What a run does in its folder, and to the disk."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from renderer.errors import DiskError, LockedError, MachineError
from renderer.job import Keep
from renderer.machine import hardware
from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files
from renderer.planning.plan import make_plan
from renderer.supervisor import events, provision
from renderer.system import files
from tests.fakes import DyingWorker, draw
from tests.making import make_manifest, pixels_of
from tests.supervisor.running import Night, counts


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, in memory; only root may have one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class TestFolders:
    def test_two_runs_at_once(self, night: Night) -> None:
        """The second run is turned away before it touches anything."""
        manifest = make_manifest()
        with night.folder(manifest).locked(), pytest.raises(LockedError):
            night.render(manifest)
        assert not night.folder(manifest).picture("p000").exists()

    def test_leftovers_are_swept_up(self, night: Night) -> None:
        """Temporary files of dead runs are gone after the next one."""
        manifest = make_manifest()
        night.folder(manifest).path.mkdir()
        leftover = night.folder(manifest).path / ".part-dead"
        leftover.write_bytes(b"x")
        night.render(manifest)
        assert not leftover.exists()

    def test_a_full_disk_ends_the_run_and_keeps_what_is_there(
        self, night: Night, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When a picture cannot be written the run ends with the reason; the next one goes on."""
        manifest = make_manifest()
        write_whole = files.write_whole

        def full(path: Path, data: bytes, *, lasting: bool = True, guard: files.WriteGuard) -> None:
            if path.name == "p001.png":
                raise files.disk_error(path, OSError(28, "No space left on device"))
            write_whole(path, data, lasting=lasting, guard=guard)

        with monkeypatch.context() as patched:
            patched.setattr(files, "write_whole", full)
            with pytest.raises(DiskError, match="No space left"):
                night.render(manifest)
        assert counts(night.render(manifest)) == (2, 1, 0, 0)

    def test_a_disk_that_cannot_hold_the_pictures_is_refused_at_the_start(
        self, night: Night, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is fetched, nobody is hired and nothing is written; with room it goes on as ever."""
        manifest = make_manifest()
        with monkeypatch.context() as patched:
            patched.setattr(hardware, "free_disk_bytes", lambda _: 5000)
            patched.setattr(provision, "obtain", lambda *_: pytest.fail("models were asked for"))
            with pytest.raises(MachineError, match=r"3 pictures take .* at the least, likely .*, and 5 kB are free"):
                night.render(manifest)
        assert night.of(events.WorkerOpening) == []
        assert {path.name for path in night.folder(manifest).path.iterdir()} == {".lock", "summary.json"}
        assert "at the least" in night.summary(manifest).error
        assert counts(night.render(manifest)) == (3, 0, 0, 0)
        assert night.of(events.Remark) == []

    def test_a_disk_that_may_be_too_small_is_a_warning(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is said before anything is rendered, and everything is rendered."""
        monkeypatch.setattr(hardware, "free_disk_bytes", lambda _: 30_000)
        assert counts(night.render(make_manifest())) == (3, 0, 0, 0)
        (remark,) = night.of(events.Remark)
        assert "and 30 kB are free" in remark.text
        assert night.heard[0] == remark

    def test_a_night_with_a_deadline_is_not_to_do_it_all(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is room for one of three: with a deadline that is a warning."""
        monkeypatch.setattr(hardware, "free_disk_bytes", lambda _: 5000)
        soon = datetime.now(UTC) + timedelta(hours=1)
        assert counts(night.render(make_manifest(), deadline=soon)) == (3, 0, 0, 0)
        assert len(night.of(events.Remark)) == 1

    def test_a_small_disk_indeed(self, tmp_path: Path) -> None:
        """On a real file system of 64 kB: sixty are refused, and a full disk ends a run in good order."""
        with small_disk(tmp_path / "small", "64k") as outputs:
            night = Night(outputs)
            manifest = make_manifest([str(number) for number in range(60)])
            with pytest.raises(MachineError, match="60 pictures take"):
                night.render(manifest)
            assert night.of(events.BatchBegan) == []
            soon = datetime.now(UTC) + timedelta(hours=1)
            with pytest.raises(DiskError, match="No space left"):
                night.render(manifest, deadline=soon)
            assert night.of(events.Remark)
            done = make_plan(manifest, outputs, thorough=True).count("done")
            assert 1 <= done == len(night.of(events.PictureDone))
            assert not list(outputs.rglob(".part-*"))

    def test_the_pixels_are_the_worker_s(self, night: Night) -> None:
        """What the worker sent is what lies on the disk, under the right name."""
        manifest = make_manifest()
        night.render(manifest)
        for picture in manifest.pictures:
            assert pixels_of(night.folder(manifest).picture(picture.output)) == draw(picture.job)

    def test_another_format_costs_no_rendering(self, night: Night) -> None:
        """A finished picture that is to be kept another way is written anew from its file, and no worker is hired."""
        manifest = make_manifest()
        night.render(manifest)
        folder = night.folder(manifest)
        kept = Keep(format="webp", embed="basic")
        pictures = tuple(picture.model_copy(update={"keep": kept}) for picture in manifest.pictures)
        changed = Manifest(manifest.file, manifest.name, pictures)
        assert counts(night.render(changed, hire=DyingWorker)) == (0, 3, 0, 0)
        assert not folder.picture("p000").exists()
        assert pixels_of(folder.picture("p000", "webp")) == draw(manifest.pictures[0].job)
        sidecar = picture_files.read_sidecar(folder.sidecar("p000"))
        assert sidecar is not None
        assert (sidecar.keep, sidecar.file.name) == (kept, "p000.webp")
        assert counts(night.render(changed, hire=DyingWorker)) == (0, 3, 0, 0)
