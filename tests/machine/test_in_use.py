"""Runs of one machine side by side: each has a GPU of its own where there are enough, and is told where not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from renderer.machine import hardware
from renderer.machine.hardware import Machine
from renderer.machine.in_use import GpuMarks
from renderer.supervisor.local_worker import ThisMachine
from tests.machine.test_devices import CARDS, machine
from tests.nvml import GIB, Card

OLD = Card("GPU-dddd-4", b"NVIDIA T4", 16 * GIB, capability=(7, 5), cores=2560)

OTHER = """
import sys
from renderer.machine import in_use
marks = in_use.GpuMarks()
with marks.choosing() as users:
    class Gpu:
        uuid = sys.argv[1]
    marks.mark([Gpu])
print(users, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with three cards, the fastest of which renders, and no marks yet."""
    monkeypatch.setenv("RENDERER_CACHE", str(tmp_path / "cache"))
    found = machine(monkeypatch, *CARDS)
    monkeypatch.setattr(hardware, "look", lambda: found)
    return found


@contextmanager
def rendered_on(uuid: str) -> Iterator[int]:
    """Another run renders on a GPU meanwhile; its process, which is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, uuid], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        process.stdout.readline()
        yield process.pid
        process.kill()


def chosen(gpus: str | None = None) -> tuple[list[str], list[str]]:
    """The GPUs that a run takes, by their UUIDs, and what it says of them."""
    said: list[str] = []
    one = ThisMachine(gpus, None)
    found = [each.machine.visible or "" for each in one.devices(said.append, lambda: None)]
    again = [each.machine.visible or "" for each in one.devices(said.append, lambda: None)]
    one.close()
    assert found == again, "it is in nobody's way itself"
    return found, said


def test_a_gpu_that_another_run_has_is_left_to_it(here: Machine) -> None:
    """The next best is taken, and that is said; when the other is gone, however it went, it is as before."""
    assert chosen() == (["GPU-aaaa-1"], [])
    with rendered_on("GPU-aaaa-1") as pid:
        told = (
            f"GPU 0 (NVIDIA H100) is another run's, process {pid}: this one renders on GPU 2 (NVIDIA GeForce RTX 4090)"
        )
        assert chosen() == (["GPU-abcc-3"], [told])
    assert chosen() == (["GPU-aaaa-1"], [])
    assert here.gpu is not None


def test_where_none_is_left_they_share_and_it_is_said(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one taken on which nothing can be rendered as it should, nor another than those that are named."""
    monkeypatch.setattr(hardware, "look", lambda: machine(monkeypatch, CARDS[0], OLD))
    with rendered_on("GPU-aaaa-1") as pid:
        told = (
            f"GPU 0 (NVIDIA H100) is rendered on by another run too, process {pid}: each plans with the memory that is"
            " free when it begins; --gpus names another"
        )
        assert chosen() == (["GPU-aaaa-1"], [told])
        monkeypatch.setattr(hardware, "look", lambda: here)
        assert chosen("0") == (["GPU-aaaa-1"], [told])
        assert chosen("all")[1] == [told]


def test_parts_with_slashes_in_their_names_are_marked_too(here: Machine) -> None:
    """Older drivers call them so."""
    assert here.gpus
    with rendered_on("MIG-GPU-aaaa/1/0") as pid, GpuMarks().choosing() as users:
        assert users == {"MIG-GPU-aaaa/1/0": pid}


def test_without_a_folder_for_marks_all_is_as_if_there_were_none(
    here: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No run fails for it."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RENDERER_CACHE", str(tmp_path / "file"))
    with ExitStack() as held:
        one = ThisMachine(None, None)
        held.callback(one.close)
        assert one.devices(pytest.fail, lambda: None)[0].machine.gpu == here.gpu
