"""Nights on a cluster: real actors on two machines, with workers' processes that draw at once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from renderer.errors import MachineError, UsageError
from renderer.manifest.manifest import Manifest
from renderer.outputs.folder import OutputFolder
from renderer.ray import arrival, cluster_fleet, cluster_worker, connecting, node_worker
from renderer.ray.cluster_fleet import ClusterFleet, WantedWorkers
from renderer.ray.node_worker import NodeWorker
from renderer.supervisor import events
from renderer.supervisor.settings import Terms
from tests.fakes import draw
from tests.making import make_manifest, pixels_of
from tests.ray.conftest import FAKE, WORKERS, Rendered
from tests.supervisor.running import Night, counts

ALL = bool(os.environ.get("RENDERER_CLUSTER_ALL"))
KILLS = int(os.environ.get("RENDERER_CLUSTER_KILLS", "3"))
PICTURES = int(os.environ.get("RENDERER_CLUSTER_PICTURES", "40"))


def check(night: Night, manifest: Manifest) -> None:
    """Each picture is there, as one worker draws it, and no other file of a picture."""
    folder = night.folder(manifest)
    for picture in manifest.pictures:
        assert pixels_of(folder.picture(picture.output)) == draw(picture.job), picture.id
    assert len(list(folder.path.glob("p*.png"))) == len(manifest.pictures)


def done(night: Night) -> Counter[str]:
    """How often each picture has come."""
    return Counter(what.item.picture.id for what in night.of(events.PictureDone))


def crashes(folder: OutputFolder) -> list[str]:
    """What the journal holds against pictures."""
    entries = (json.loads(line) for line in folder.journal.read_text().splitlines())
    return [entry["id"] for entry in entries if entry["what"] == "crashed"]


def actors_of(fleet: ClusterFleet) -> list[Any]:
    return [worker._actor for worker in fleet._hired if worker._actor is not None]


def processes(of: str) -> list[psutil.Process]:
    """The processes whose command line has this in it."""
    return [each for each in psutil.process_iter(["cmdline"]) if of in " ".join(each.info["cmdline"] or ())]


def gone(of: str, within_s: float = 30.0) -> bool:
    """Whether no such process is left, after a while."""
    until = time.monotonic() + within_s
    while processes(of):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


class TestARun:
    def test_actors_that_are_killed_cost_nothing(self, render: Rendered, night: Night) -> None:
        """At random moments, with pictures in flight: those are given out again, and nothing is held against them.

        Four actors on two machines share a batch: each picture comes once, with the bits that one worker gives it. At
        the end nobody holds a core of the cluster.
        """
        chance = random.Random(4)  # noqa: S311  # no secret
        manifest = make_manifest([f"picture {number} says{' slow' * (number < 20)}" for number in range(PICTURES)])
        killed = 0
        due = sorted(chance.sample(range(1, PICTURES - 2), KILLS))

        def kill(what: events.Event, fleet: ClusterFleet) -> None:
            nonlocal killed
            is_due = isinstance(what, events.PictureBegan) and killed < KILLS and len(done(night)) >= due[killed]
            if is_due and (there := actors_of(fleet)):
                connecting.library().kill(chance.choice(there))
                killed += 1

        summary = render(manifest, workers=WORKERS, watch=kill)
        assert counts(summary) == (PICTURES, 0, 0, 0)
        assert killed == KILLS
        check(night, manifest)
        assert set(done(night).values()) == {1}
        assert crashes(night.folder(manifest)) == []
        assert night.of(events.WorkerLost) == []
        logs = [path.read_text() for path in night.folder(manifest).path.glob("worker*.log")]
        assert sum("drawing picture" in log for log in logs) > 1
        ray = connecting.library()
        until = time.monotonic() + 20
        while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
            assert time.monotonic() < until
            time.sleep(0.1)

    def test_what_a_worker_dies_of_counts(self, render: Rendered, night: Night) -> None:
        """Its actor tells how its process ended, and that is held against what it had begun."""
        manifest = make_manifest(("crash", "b"))
        summary = render(manifest, workers=1, max_failures=1)
        assert summary.ending == "failures"
        assert [what.reason for what in night.of(events.WorkerLost)] == ["the worker ended with status 66"]
        assert crashes(night.folder(manifest)) == ["p000"]

    def test_an_actor_that_is_ended_after_its_worker_costs_nothing(
        self, render: Rendered, night: Night, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ray ends what an actor has started first, and then the actor: the pictures had no part in that."""

        class NotesIt(NodeWorker):
            def arrive(self) -> arrival.Introduction:
                node_worker.ENDS_TOO_WITHIN_S = 20.0  # this machine may be a busy one
                return super().arrive()

        ended: list[psutil.Process] = []

        def end(what: events.Event, fleet: ClusterFleet) -> None:
            if isinstance(what, events.PictureBegan) and not ended:
                (worker,) = processes("tests.fakes --capacity 2")
                actor = worker.parent()
                assert actor is not None
                ended.append(actor)
                worker.kill()
                fleet._hired[-1].wait(0.7)  # the actor would have told of it
                actor.kill()

        monkeypatch.setattr(cluster_fleet, "NodeWorker", NotesIt)
        manifest = make_manifest([f"slow {number}" for number in range(4)])
        summary = render(manifest, workers=1, watch=end)
        assert counts(summary) == (4, 0, 0, 0)
        assert crashes(night.folder(manifest)) == []
        assert night.of(events.WorkerLost) == []

    def test_a_machine_that_vanishes_costs_nothing(self, cluster: Any, render: Rendered, night: Night) -> None:
        """With workers on it that have begun pictures: they go on elsewhere."""
        spot = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        manifest = make_manifest([f"slow {number}" for number in range(20)], steps=8)  # till all five are there
        taken: list[threading.Thread] = []

        def take_away(_what: events.Event, _fleet: ClusterFleet) -> None:
            opened, begun = len(night.of(events.WorkerOpened)), len(night.of(events.PictureBegan))
            if not taken and opened == 5 and begun - len(done(night)) == 5:
                taken.append(threading.Thread(target=cluster.remove_node, args=(spot, False)))
                taken[0].start()

        summary = render(manifest, workers=5, watch=take_away, command=FAKE)
        taken[0].join()
        assert counts(summary) == (20, 0, 0, 0)
        assert crashes(night.folder(manifest)) == []
        assert [what for what in night.of(events.Remark) if "left the cluster" in what.text]

    @pytest.mark.skipif(not ALL, reason="tried by hand: RENDERER_CLUSTER_ALL=1")
    def test_an_actor_that_answers_no_more_is_replaced(
        self, render: Rendered, night: Night, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is stopped, and its machine lives: it is out of reach like any other, after some seconds."""
        monkeypatch.setattr(cluster_worker, "SIGN_OF_LIFE_S", 0.2)
        monkeypatch.setattr(cluster_worker, "LOST_AFTER_S", 2.0)
        stopped: list[psutil.Process] = []

        def stop(what: events.Event, _fleet: ClusterFleet) -> None:
            if isinstance(what, events.PictureBegan) and not stopped:
                (actor,) = {each.parent() for each in processes("tests.fakes --capacity 2")}
                assert actor is not None
                actor.suspend()
                stopped.append(actor)

        manifest = make_manifest([f"slow {number}" for number in range(4)])
        summary = render(manifest, workers=1, watch=stop)
        assert counts(summary) == (4, 0, 0, 0)
        assert [what.text for what in night.of(events.Remark) if "has not answered for 2 s" in what.text]

    def test_an_actor_that_freezes_before_it_has_answered_is_replaced(
        self, render: Rendered, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has its place: from then on it is not waited for without end, and its machine is named."""
        monkeypatch.setattr(cluster_worker, "ARRIVED_WITHIN_S", 0.6)
        monkeypatch.setattr(cluster_worker, "_ASK_EVERY", 1)
        monkeypatch.setattr(cluster_worker, "_WAITING_S", 0.2)
        frozen = tmp_path / "frozen"

        class FreezesOnce(NodeWorker):
            def arrive(self) -> arrival.Introduction:
                if not frozen.exists():
                    frozen.write_text(str(os.getpid()))
                    os.kill(os.getpid(), signal.SIGSTOP)
                return super().arrive()

        def is_patient_again(what: events.Event, _fleet: ClusterFleet) -> None:
            if isinstance(what, events.Remark) and frozen.exists():
                monkeypatch.setattr(cluster_worker, "ARRIVED_WITHIN_S", 180.0)  # this machine may be a busy one

        monkeypatch.setattr(cluster_fleet, "NodeWorker", FreezesOnce)
        manifest = make_manifest(("a", "b"))
        summary = render(manifest, workers=1, watch=is_patient_again)
        assert counts(summary) == (2, 0, 0, 0)
        assert crashes(night.folder(manifest)) == []
        node = connecting.nodes()[0].address
        lost = [what.text for what in night.of(events.Remark) if "has not answered" in what.text]
        assert f"{node} has not answered for 1 s" in lost[-1]  # 0.6, in whole seconds
        assert [what for what in night.of(events.WorkerOpening) if f"it starts on {node}" in what.what]

    def test_a_supervisor_that_is_killed_leaves_nobody(self, cluster: Any, render: Rendered, night: Night) -> None:
        """Its actors go with it, and their workers; the same command goes on from there."""
        manifest = make_manifest([f"slow {number}" for number in range(12)])
        script = textwrap.dedent(
            f"""
            import sys
            from pathlib import Path
            from renderer.ray import connecting
            from renderer.ray.cluster_fleet import ClusterFleet, WantedWorkers
            from renderer.supervisor import events, run
            from renderer.supervisor.settings import Settings, StopRequests, Terms
            from tests.making import make_manifest
            def tell(what):
                if isinstance(what, events.PictureDone):
                    print("done", flush=True)
            manifest = make_manifest([f"slow {{number}}" for number in range(12)])
            command = (sys.executable, "-m", "tests.fakes", "--capacity", "2", "--opened-in", "7")
            outputs = Path({str(night.settings.outputs)!r})
            with connecting.connected({cluster.address!r}):
                with ClusterFleet(WantedWorkers(most=2), Terms(), command=command) as fleet:
                    run.render([manifest], Settings(outputs, fleet=fleet), tell, StopRequests())
            """
        )
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert any(line == b"done\n" for line in process.stdout)  # Ray may say something before
            process.send_signal(signal.SIGKILL)
        assert gone("tests.fakes --capacity 2 --opened-in 7")
        summary = render(manifest, workers=2)
        assert summary.rendered < 12
        assert summary.rendered + summary.skipped == 12
        check(night, manifest)


class TestWhatMustBeAlike:
    def test_a_machine_with_another_renderer_is_refused(
        self, render: Rendered, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All machines have it, so nothing is rendered: what differs is named, and what to do."""
        there = arrival.tell()
        monkeypatch.setattr(arrival, "tell", lambda: {**there, "torch": "9.9.9"})
        with pytest.raises(MachineError, match=r"has torch .*, and 9\.9\.9 is here") as caught:
            render(make_manifest())
        assert "constraints.txt" in caught.value.hint

    def test_a_worker_that_lands_on_such_a_machine_renders_nothing(
        self, render: Rendered, night: Night, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A machine that came later is seen when a worker lands there: it opens nothing, and the message says why."""
        there = arrival.tell()

        def change(what: events.Event, _fleet: ClusterFleet) -> None:
            if isinstance(what, events.BatchBegan):
                monkeypatch.setattr(arrival, "tell", lambda: {**there, "source": "0"})

        with pytest.raises(MachineError, match="has another renderer of version"):
            render(make_manifest(), workers=1, watch=change)
        assert night.of(events.PictureBegan) == []

    def test_where_another_machine_is_alike_the_worker_is_had_there(
        self, render: Rendered, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The one that differs is named, and given no worker any more: its place is none of the run's."""
        first = tmp_path / "first"

        class FirstDiffers(NodeWorker):
            def arrive(self) -> arrival.Introduction:
                there = super().arrive()
                if not first.exists():
                    first.write_text(there["id"])
                return {**there, "torch": "9"} if there["id"] == first.read_text() else there

        monkeypatch.setattr(cluster_fleet, "NodeWorker", FirstDiffers)
        refused: list[set[str]] = []
        summary = render(make_manifest(), workers=1, watch=lambda _, fleet: refused.append(fleet._refused))
        assert summary.rendered == summary.pictures
        assert refused[-1] == {first.read_text()}
        (told,) = [what.text for what in night.of(events.Remark) if "has torch 9" in what.text]
        assert told.endswith("what it held goes on elsewhere")


def test_a_cluster_gives_out_its_own_devices(cluster: Any) -> None:  # noqa: ARG001
    with pytest.raises(UsageError, match="a cluster gives out its own devices"):
        ClusterFleet(WantedWorkers(gpus="0,1"), Terms())


def test_ray_leaves_what_stops_a_run_alone(cluster: Any) -> None:
    """SIGTERM is still the run's: Ray takes it over where nobody gives it back."""
    script = (
        "import signal\nfrom renderer.ray import connecting\n"
        f"with connecting.connected({cluster.address!r}):\n"
        "    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, cwd=Path.cwd())
    assert told.stdout.splitlines()[-1] == b"True"


def whoever() -> str:
    return "an answer"


def fails() -> str:
    raise ValueError("no answer")


def test_each_machine_is_asked(cluster: Any) -> None:  # noqa: ARG001
    """One that cannot answer costs nobody else's answer."""
    nodes = connecting.nodes()
    assert [node.cpus for node in nodes] == [WORKERS // 2] * 2
    assert connecting.ask_each(nodes, whoever) == ["an answer"] * 2
    (first, _) = connecting.ask_each(nodes, fails)
    assert isinstance(first, MachineError)
    assert first.message.endswith("ValueError: no answer")
