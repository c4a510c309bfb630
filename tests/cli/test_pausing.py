"""`pause`, `resume` and `stop` from another terminal: the real commands on a run with the fakes' worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from renderer.cli import command, wishing
from renderer.errors import EXIT_STOPPED
from renderer.outputs import nights, status
from renderer.outputs.folder import OutputFolder
from renderer.outputs.status import RunStatus
from tests import driving
from tests.waiting import freeze, until

Say = Callable[..., tuple[int, str]]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """A command in the working folder: its exit code, and all that it said."""
    monkeypatch.chdir(tmp_path)

    def say(*arguments: str) -> tuple[int, str]:
        code = command.main(arguments)
        said = capsys.readouterr()
        return code, said.out + said.err

    return say


@contextlib.contextmanager
def running(folder: Path, *manifests: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A run that is rendering its first picture."""
    process = driving.start(
        "render", *manifests, "--log-format", "plain", cwd=folder, stderr=subprocess.PIPE, **options
    )
    try:
        name = Path(manifests[0]).stem
        until(lambda: (found := stands(folder, name)) is not None and bool(found.in_flight or found.done))
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def stands(folder: Path, name: str = "m") -> RunStatus | None:
    return status.read(OutputFolder(folder / "outputs" / name))


def test_a_night_pauses_goes_on_and_stops(tmp_path: Path, say: Say) -> None:
    """What is in flight finishes, nothing else begins, `status` says so; then it goes on, and ends as by Ctrl-C."""
    manifest = driving.write_manifest(tmp_path, *["slow"] * 40)
    with running(tmp_path, manifest) as process:
        assert say("pause", manifest) == (
            0,
            "m: it pauses: what is in flight finishes; the GPU's memory is given back 1 min 00 s later\n",
        )
        assert say("pause") == (0, "m: it is paused already\n")
        until(lambda: (found := stands(tmp_path)) is not None and found.phase == "paused" and not found.in_flight)
        there = driving.pictures(tmp_path)
        code, told = say("status", manifest)
        assert (code, "paused, begun at" in told) == (0, True)
        assert "nothing is begun before renderer resume; the GPU's memory is held for a while" in told
        assert driving.pictures(tmp_path) == there
        assert say("resume", "m") == (0, "m: it goes on\n")
        assert say("resume") == (0, "m: it is not paused\n")
        until(lambda: len(driving.pictures(tmp_path)) > len(there))
        assert say("stop", "outputs/m/")[0] == 0
        _, said = process.communicate(timeout=60)
        assert process.returncode == 4
    for told in ("paused: nothing is begun before renderer resume", "going on", "stopping", "stopped on request"):
        assert told in said.decode()
    assert not (tmp_path / "outputs" / nights.NIGHTS).exists()


def test_which_one_is_meant(tmp_path: Path, say: Say) -> None:
    """None on, another one, several, a broken manifest, another machine's: each says what to do, and exits with 2."""
    code, told = say("pause")
    assert (code, told.splitlines()[0]) == (2, "error: no run is on in outputs")
    one, two = (driving.write_manifest(tmp_path, *["slow"] * 99, name=name) for name in ("m", "n"))
    with running(tmp_path, one) as first, running(tmp_path, two):
        code, told = say("stop", "x.yaml")
        assert code == 2
        assert "no run that is on renders x.yaml" in told
        assert "those that are render m; n" in told
        code, told = say("pause")
        assert (code, "2 runs are on in outputs" in told) == (2, True)
        assert say("pause", str(first.pid))[1].startswith("m: it pauses")
        assert say("resume", "m") == (0, "m: it goes on\n")
        (tmp_path / "m.yaml").write_text("jobs: [")
        assert say("pause", "m.yaml")[0] == 0
        folder, night = wishing.find(Path("outputs"), "n")
        folder.post(night.model_copy(update={"machine": "elsewhere"}))
        code, told = say("pause", "n.yaml")
        assert (code, "on another machine, elsewhere" in told) == (2, True)


def test_a_run_over_parts_is_named_by_the_whole(tmp_path: Path, say: Say) -> None:
    """`status` says who is at a part, which no lock tells; and `stop` finds the run by the manifest that was cut."""
    manifest = driving.write_manifest(tmp_path, *(f"slow {number}" for number in range(40)))
    share = ("--share", "1", "--log-format", "plain")
    with driving.start("render", manifest, *share, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: any(tmp_path.rglob("outputs/m-share-*/0*.json")))
            assert f"  process {process.pid} on " in say("status", manifest, "--share", "1")[1]
            code, said = say("stop", manifest)
            assert (code, process.wait(20)) == (0, EXIT_STOPPED), said
            assert "renders it" not in say("status", manifest, "--share", "1")[1]
        finally:
            process.kill()


def test_one_that_does_not_answer_and_one_that_was_killed(
    tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that Ctrl-Z stopped: the wish is taken back, and not fulfilled later. What a dead one left is swept."""
    monkeypatch.setattr(wishing, "_PATIENCE_S", 0.5)
    manifest = driving.write_manifest(tmp_path, *["slow"] * 99)
    with running(tmp_path, manifest) as process:
        freeze(process.pid)
        code, told = say("stop")
        assert (code, "does not answer" in told) == (1, True)
        os.kill(process.pid, signal.SIGCONT)
        monkeypatch.setattr(wishing, "_PATIENCE_S", 60.0)
        assert say("pause")[1].startswith("m: it pauses")
        until(lambda: (found := stands(tmp_path)) is not None and found.phase == "paused")
        process.kill()
        process.wait()
        left = nights.NightFolder.of_process(tmp_path / "outputs", process.pid).path
        assert left.is_dir()
        assert say("stop")[0] == 2
    nights.sweep(tmp_path / "outputs")
    assert left.is_dir(), "one that begins at this moment has no lock yet"
    nights.sweep(tmp_path / "outputs", 0.0)
    assert not list((tmp_path / "outputs" / nights.NIGHTS).iterdir())
