"""What a command on a cluster loses to it: nothing, whatever is ended or cut. Tried by hand: RENDERER_CLUSTER_ALL=1.

Each has a cluster of its own processes (`holding`), and the real command (`driving`).
"""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from renderer.errors import EXIT_DONE, EXIT_MACHINE, EXIT_STOPPED
from renderer.manifest.manifest import load
from renderer.outputs.folder import OutputFolder
from renderer.planning import sharding
from renderer.supervisor import merging
from tests import tools
from tests.driving import ROOT, write_manifest
from tests.fakes import draw
from tests.making import pixels_of
from tests.ray.driving import COMMAND
from tests.ray.holding import HeldCluster
from tests.ray.test_cluster_fleet import gone, processes

pytestmark = [
    pytest.mark.skipif(not os.environ.get("RENDERER_CLUSTER_ALL"), reason="tried by hand: RENDERER_CLUSTER_ALL=1"),
    pytest.mark.timeout(1800),
]

PICTURES = int(os.environ.get("RENDERER_CLUSTER_SHARED", "10000"))
SLOW = [f"slow {number}" for number in range(60)]
LONG = [f"slow {number}" for number in range(300)]
MARK = "--opened-in 31"
"""By which the workers of these tests are known."""

PATIENCE = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}


@pytest.fixture
def held() -> Iterator[HeldCluster]:
    if not tools.HERE["ray"]:
        pytest.skip("no Ray here (it is in the extras cluster and dev)")
    with HeldCluster(cores=4) as found:
        yield found


class Run:
    """A command that renders a manifest on a cluster, and what it says."""

    def __init__(self, folder: Path, address: str, *more: str, fake: str = "--capacity 2", **environment: str) -> None:
        self._folder, self._began_s = folder, time.monotonic()
        arguments = ("render", "m.yaml", "--cluster", address, "--workers", "6", "--log-format", "json", *more)
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "FAKE": f"{fake} {MARK}", **environment}
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder,
            env=variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        """Always, for what is said to a pipe that nobody reads is lost."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def until(self, event: str, count: int) -> None:
        """Wait until something has been said so often."""
        while self.said.count(event) < count:
            line = self._lines.get(timeout=120)
            assert line.startswith("{"), line
            self.said.append(json.loads(line)["event"])

    def ends(self, code: int, within_s: float = 120.0) -> list[str]:
        """Wait for its end; what it has said to people: one error at most, with its hint, and nothing of Ray's."""
        assert self.process.wait(within_s) == code
        self._reading.join()
        told = []
        while not self._lines.empty():
            if (line := self._lines.get()).startswith("{"):
                self.said.append(json.loads(line)["event"])
            else:
                told.append(line.rstrip())
        return told


def check(folder: Path) -> None:
    """Every picture is there and right, none was begun once it was done, and nobody is left of those who did it."""
    manifest = load(folder / "m.yaml")
    found = OutputFolder(folder / "outputs" / "m")
    done: set[str] = set()
    for line in found.journal.read_text().splitlines():
        entry = json.loads(line)
        assert entry["id"] not in done or entry["what"] == "done", entry
        assert entry["what"] != "crashed", entry
        done |= {entry["id"]} if entry["what"] == "done" else set()
    for picture in manifest.pictures:
        assert pixels_of(found.picture(picture.output)) == draw(picture.job)
    assert gone(MARK)


@pytest.mark.parametrize("through", ["address", "client"])
@pytest.mark.parametrize("what", ["kill gcs", "kill all", "kill client server"])
def test_a_head_that_is_gone_for_good(held: HeldCluster, tmp_path: Path, what: str, through: str) -> None:
    """The command ends with 3 and says why in one sentence; on another cluster the same command goes on."""
    if what == "kill client server" and through != "client":
        pytest.skip("nobody asks it")
    write_manifest(tmp_path, *LONG)
    run = Run(tmp_path, getattr(held, through), **PATIENCE)
    run.until("picture-done", 4)
    held.does(what)
    told = run.ends(EXIT_MACHINE)
    assert told[0] == "error: the cluster's head has not answered for 10.0 s"
    assert "the same command goes on" in told[1]
    assert len(told) == 2
    held.end()
    with HeldCluster(cores=4) as another:
        Run(tmp_path, getattr(another, through)).ends(EXIT_DONE)
    check(tmp_path)


@pytest.mark.parametrize("through", ["address", "client"])
def test_a_head_that_is_cut_off_for_a_while(held: HeldCluster, tmp_path: Path, through: str) -> None:
    """Nothing happens; what is in flight goes on."""
    write_manifest(tmp_path, *LONG)
    run = Run(tmp_path, getattr(held, through))
    run.until("picture-done", 4)
    held.does("stop gcs")
    run.until("picture-done", 12)
    time.sleep(15)
    held.does("continue gcs")
    run.ends(EXIT_DONE)
    check(tmp_path)


def test_a_run_that_is_stopped_while_its_head_is_gone(held: HeldCluster, tmp_path: Path) -> None:
    """It is heard, also where Ray waits."""
    write_manifest(tmp_path, *LONG)
    run = Run(tmp_path, held.address)
    run.until("picture-done", 4)
    held.does("kill all")
    run.process.send_signal(signal.SIGTERM)
    run.ends(EXIT_STOPPED, within_s=60)
    held.end()
    with HeldCluster(cores=4) as another:
        Run(tmp_path, another.address).ends(EXIT_DONE)
    check(tmp_path)


@pytest.mark.parametrize("through", ["address", "client"])
def test_a_machine_goes_and_another_comes(held: HeldCluster, tmp_path: Path, through: str) -> None:
    """What was in flight on the one goes on elsewhere, and the other gets work."""
    write_manifest(tmp_path, *SLOW)
    run = Run(tmp_path, getattr(held, through))
    run.until("picture-done", 4)
    held.does("kill node")
    run.until("picture-done", 20)
    held.does("add node")
    run.ends(EXIT_DONE)
    check(tmp_path)


@pytest.mark.parametrize("moment", ["worker-opening", "worker-opened", "picture-began", "stepped", "picture-done"])
def test_actors_are_killed_at_every_stage(held: HeldCluster, tmp_path: Path, moment: str) -> None:
    """While they open, between pictures, in the middle of one, and while large pixels travel: three times each."""
    prompts = SLOW[:36] if moment == "picture-done" else LONG
    manifest = tmp_path / write_manifest(tmp_path, *prompts)
    if moment == "picture-done":
        manifest.write_text(manifest.read_text().replace("64x64", "1024x1024"))
    run = Run(tmp_path, held.address)
    for turn in range(3):
        run.until(moment, 6 + 2 * turn)
        for actor in processes("ray::NodeWorker")[:2]:
            actor.kill()
    run.ends(EXIT_DONE)
    check(tmp_path)


def test_a_supervisor_that_is_killed_and_begun_again(held: HeldCluster, tmp_path: Path) -> None:
    """Three times; its workers go with it."""
    write_manifest(tmp_path, *SLOW)
    for _ in range(3):
        run = Run(tmp_path, held.address)
        run.until("picture-done", 4)
        run.process.kill()
        run.process.wait()
        assert gone(MARK)
    Run(tmp_path, held.address).ends(EXIT_DONE)
    check(tmp_path)


def test_two_supervisors_share_ten_thousand_pictures(held: HeldCluster, tmp_path: Path) -> None:
    """Over eight workers of one cluster: none lost, none twice. Says what it took."""
    write_manifest(tmp_path, *(f"picture {number}" for number in range(PICTURES)))
    began_s = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    more = ("--share", "40", "--workers", "4")
    runs = [Run(tmp_path, held.address, *more, fake="--capacity 8", LOOP="1") for _ in range(2)]
    told = [run.ends(0, within_s=1200) for run in runs]
    took_s = time.monotonic() - began_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    manifest = load(tmp_path / "m.yaml")
    done: set[str] = set()
    for part in sharding.folders(manifest, tmp_path / "outputs"):
        for line in part.journal.read_text().splitlines():
            entry = json.loads(line)
            assert entry["id"] not in done, entry
            done |= {entry["id"]} if entry["what"] == "done" else set()
    assert len(done) == PICTURES
    merged = merging.merge(manifest, tmp_path / "outputs")
    assert (merged.moved, merged.held) == (PICTURES, ())
    cores = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / took_s / 2
    each = [run.said.count("picture-done") for run in runs]
    sys.stderr.write(f"\n{PICTURES} pictures in {took_s:.0f} s, {each} each, {cores:.2f} cores a supervisor, {told}\n")
    assert gone(MARK)
