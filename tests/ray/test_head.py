"""What a run does when the head of its cluster answers no more."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from renderer.errors import ClusterLostError, MachineError
from renderer.ray import cluster_fleet, connecting, head
from renderer.ray.cluster_fleet import ClusterFleet
from renderer.ray.head import HeadWatch
from renderer.supervisor import events
from tests.making import make_manifest
from tests.ray.conftest import Rendered
from tests.ray.test_cluster_fleet import check, crashes
from tests.supervisor.running import Night


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch's seconds are hundredths."""
    monkeypatch.setattr(head, "_COUNT_S", 0.01)
    monkeypatch.setattr(head, "_ASK_EVERY_S", 0.02)
    monkeypatch.setattr(head, "_LOOK_S", 0.01)


def lost(ask: Callable[[], object], within_s: float = 10.0) -> HeadWatch:
    """A watch that waits for an answer for a tenth of a second, once it has lost the head."""
    watch = HeadWatch(ask, 0.1)
    watch.begin()
    until = time.monotonic() + within_s
    while not watch._is_lost:
        assert time.monotonic() < until
        time.sleep(0.01)
    return watch


def refuses() -> None:
    raise ConnectionError("no such cluster")


@pytest.mark.usefixtures("quick")
class TestAWatch:
    @pytest.mark.parametrize("ask", [refuses, threading.Event().wait], ids=["refuses", "never answers"])
    def test_a_head_that_is_gone_is_lost(self, ask: Callable[[], object]) -> None:
        """Whether what asks it fails, or waits for ever."""
        with pytest.raises(ClusterLostError, match="the cluster's head has not answered for") as caught:
            lost(ask).check()
        assert "the same command goes on" in caught.value.hint

    def test_one_that_comes_back_in_time_is_not(self) -> None:
        """It is silent for a while again and again, and what it was silent for before does not count."""
        asked: list[float] = []

        def now_and_then() -> None:
            asked.append(time.monotonic())
            if len(asked) % 3:
                refuses()

        watch = HeadWatch(now_and_then, 5.0)
        watch.begin()
        until = time.monotonic() + 10
        while len(asked) < 12:
            assert time.monotonic() < until
            time.sleep(0.01)
        watch.end()
        watch.check()

    def test_a_call_is_waited_for_so_long(self) -> None:
        """What it answers or raises comes; whoever asks to stop is heard meanwhile."""
        assert head.within(lambda: 4) == 4
        with pytest.raises(ConnectionError, match="no such cluster"):
            head.within(refuses)
        with pytest.raises(MachineError, match="has not answered"):
            head.within(threading.Event().wait, 0.05)
        with pytest.raises(ConnectionError):
            head.within(threading.Event().wait, check=refuses)


def test_without_its_head_a_run_ends_and_goes_on_later(render: Rendered, night: Night) -> None:
    """As it ends otherwise: with one reason, which every summary has, and nothing held against what was in flight."""
    manifest = make_manifest([f"slow {number}" for number in range(5)])

    def lose(what: events.Event, fleet: ClusterFleet) -> None:
        if isinstance(what, events.PictureDone):
            fleet._head._is_lost = True

    with pytest.raises(ClusterLostError):
        render(manifest, workers=2, watch=lose)
    assert night.summary(manifest).ending == "error"
    assert "the cluster's head has not answered" in night.summary(manifest).error
    assert crashes(night.folder(manifest)) == []
    summary = render(manifest, workers=2)
    assert 0 < summary.rendered < 5
    assert summary.rendered + summary.skipped == 5
    check(night, manifest)


def test_to_let_a_worker_go_waits_for_nobody(render: Rendered, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray ends an actor when its head answers; without it the loop would stand still for ever."""
    gone, asked, let_go = threading.Event(), threading.Event(), connecting.library().kill

    def kill(actor: Any) -> None:
        asked.set()
        gone.wait()
        let_go(actor)

    monkeypatch.setattr(connecting.library(), "kill", kill)
    monkeypatch.setattr(cluster_fleet, "_PATIENCE_S", 0.1)
    manifest = make_manifest(("a", "b"))
    render(manifest, workers=1)
    assert asked.wait(10)
    check(night, manifest)
    gone.set()


def test_ray_does_not_end_this_process() -> None:
    """It would after a minute without its head, with no word to anybody."""
    assert connecting.head_patience_s() == 60.0
    assert int(os.environ[connecting._PATIENCE]) > 10**6


@pytest.mark.usefixtures("quick")
def test_to_leave_through_the_client_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's client waits for its server for ever, and once more at the end of the process."""
    monkeypatch.setattr(connecting, "_LEFT_WITHIN_S", 0.05)
    asked: list[int] = []

    def shutdown() -> None:
        asked.append(1)
        threading.Event().wait()

    taken_back: list[object] = []
    monkeypatch.setattr(atexit, "unregister", taken_back.append)
    connecting._leave_client(SimpleNamespace(shutdown=shutdown))
    assert asked == [1]
    assert taken_back == [shutdown]
