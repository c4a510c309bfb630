"""The demo model's folder: found, made, made again; by one process, by two, by one that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from renderer import machine
from renderer.catalog import DEMO
from renderer.demo import cache, weights
from renderer.errors import MachineError

MAKE = (sys.executable, "-c", "from renderer.demo import cache; print(cache.folder().stat().st_ino)")
PLACE = f"demo-{DEMO.revision}"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RENDERER_CACHE", str(tmp_path))
    return tmp_path


def leftovers(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} - {PLACE, f"{PLACE}.lock"}


class TestCache:
    def test_own_variable_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The cache is RENDERER_CACHE, else a folder in XDG_CACHE_HOME, else one in ~/.cache; empty counts as unset."""
        monkeypatch.setenv("RENDERER_CACHE", "/own")
        monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
        monkeypatch.setenv("HOME", "/home/someone")
        assert machine.cache_folder() == Path("/own")
        monkeypatch.setenv("RENDERER_CACHE", "")
        assert machine.cache_folder() == Path("/shared/renderer")
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert machine.cache_folder() == Path("/home/someone/.cache/renderer")


class TestFolder:
    def test_made_once(self, root: Path) -> None:
        """The first call makes the whole model within three seconds, the second finds it and touches nothing."""
        assert weights.SEED  # torch's import, which who renders needs anyway, is not counted
        began = time.monotonic()
        folder = cache.folder()
        assert time.monotonic() - began < 3
        made = folder.stat()
        assert cache.folder() == folder == root / PLACE
        assert (folder.stat().st_ino, folder.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
        assert not leftovers(root)

    @pytest.mark.parametrize("file", ["vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json", "made.json"])
    @pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
    def test_damaged_one_is_made_again(self, root: Path, file: str, damage: str) -> None:
        """A model with a missing, shortened or altered file is made anew, and nothing of the old one stays."""
        path = cache.folder() / file
        whole = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            half = len(whole) // 2
            path.write_bytes(whole[:half] if damage == "truncated" else whole[:half] + b"\x01" + whole[half + 1 :])
        assert (cache.folder() / file).read_bytes() == whole
        assert cache.is_whole(root / PLACE)
        assert not leftovers(root)

    def test_place_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where no folder can be made, the error names the place and the variable that moves it."""
        (tmp_path / "file").touch()
        monkeypatch.setenv("RENDERER_CACHE", str(tmp_path / "file"))
        with pytest.raises(MachineError, match="file/demo-") as caught:
            cache.folder()
        assert "RENDERER_CACHE" in caught.value.hint

    def test_two_processes_at_once(self, root: Path) -> None:
        """Two processes that start together find the same model, made once, and leave nothing else."""
        both = [subprocess.Popen(MAKE, stdout=subprocess.PIPE) for _ in range(2)]
        first, second = (process.communicate(timeout=60)[0] for process in both)
        assert int(first) == int(second) == (root / PLACE).stat().st_ino
        assert cache.is_whole(root / PLACE)
        assert not leftovers(root)

    def test_killed_while_making(self, root: Path) -> None:
        """What a maker that was killed leaves is not taken for a model, and is swept by the next one."""
        process = subprocess.Popen(MAKE)
        while not list(root.glob("*.tmp")):
            assert process.poll() is None
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
        assert leftovers(root)
        assert not (root / PLACE).exists()
        assert cache.is_whole(cache.folder())
        assert not leftovers(root)
