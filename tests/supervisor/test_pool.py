"""The workers at hand: how long one is silent, and how several share what there is to do."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import time
from pathlib import Path

import pytest

from renderer.errors import MachineError
from renderer.planning.plan import make_plan
from renderer.protocol import Opened, Setup
from renderer.supervisor import events, pool, run
from renderer.supervisor.holdings import Silence
from renderer.supervisor.incoming import GoingIn
from renderer.supervisor.local_worker import LocalWorker
from renderer.supervisor.pool import Seat, WorkerPool
from renderer.supervisor.progress import Flight
from renderer.supervisor.settings import Settings, StopRequests
from tests.fakes import InlineWorker
from tests.making import make_manifest

FAKE = functools.partial(LocalWorker, command=(sys.executable, "-m", "tests.fakes"))


def test_silence_is_counted_while_somebody_listens() -> None:
    """Four looks a second, and nothing said: the seconds add up, until something is said."""
    silence = Silence(100.0)
    looked = [silence.look(100.0 + tick / 4) for tick in range(1, 41)]
    assert looked[-1] == 10.0
    silence.broken()
    assert silence.look(110.25) == 0.25


def test_a_loop_that_was_away_blames_nobody() -> None:
    """Stopped for an hour (Ctrl-Z, a frozen group, a machine that was paused), it counts at most a second of it."""
    silence = Silence(0.0)
    silence.look(0.25)
    assert silence.look(3600.0) <= 1.25
    assert silence.look(3600.25) <= 1.5


def test_a_loop_that_is_slow_still_counts() -> None:
    """Half a second a look, on a busy machine: a stuck worker is found all the same."""
    silence = Silence(0.0)
    assert [silence.look(tick / 2) for tick in range(1, 101)][-1] == 50.0


def test_signals_in_pairs_are_one_wish() -> None:
    """Within half a second of one that counted it is the same; a person who asks again later means it."""
    stop = StopRequests()
    for moment in (100.0, 100.002, 100.4):
        stop.request(moment)
    assert stop.requests == 1
    stop.request(100.5)
    stop.request(100.6)
    assert stop.requests == 2


def test_a_pool_is_woken_before_it_waits() -> None:
    """Something has come between a look at what is to be given out and the wait: it is given out at once."""
    pool = WorkerPool(lambda _: InlineWorker(Path(os.devnull)), lambda _: None, ("CPU 1", "CPU 2"))
    pool.wake()
    began = time.monotonic()
    assert pool.hear(30.0) is None
    assert time.monotonic() - began < 20


class TestSeat:
    SETUP = Setup(model="demo", precision="bf16", profile="cpu")

    @pytest.fixture
    def seat(self) -> Seat:
        found = Seat(InlineWorker, lambda _: None)
        found.prepare(self.SETUP, Path(os.devnull))
        return found

    def open(self, seat: Seat) -> None:
        while seat.opened is None:
            heard = seat.hear(1.0)
            assert heard is not None
            if isinstance(heard[0], Opened):
                seat.has_opened(heard[0])

    def test_what_dies_while_it_opens_three_times_will_not_open(self, seat: Seat) -> None:
        """Not those that somebody ended, and not before one that has opened meanwhile."""
        for _ in range(5):
            seat.lost(blameless=True)
            seat.prepare(self.SETUP, Path(os.devnull))
        for _ in range(2):
            seat.lost()
            seat.prepare(self.SETUP, Path(os.devnull))
        self.open(seat)
        for _ in range(3):
            seat.lost()
            seat.prepare(self.SETUP, Path(os.devnull))
        with pytest.raises(MachineError, match="the worker died 3 times while opening the model"):
            seat.lost()

    def test_it_has_no_room_while_much_waits_to_be_read(
        self, seat: Seat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """What its worker has not taken yet, and what is to be sent to it at once with more."""
        (item,) = make_plan(make_manifest(("a",)), tmp_path).items
        assert not seat.has_room
        self.open(seat)
        seat.opened = seat.opened and seat.opened.model_copy(update={"capacity": 9})
        monkeypatch.setattr(pool, "_MOST_UNSENT_BYTES", 100)
        seat.gathers(gathers=True)
        seat.give(Flight(item, 1, key="a"), GoingIn((99,), b"x" * 99))
        assert seat.has_room
        seat.give(Flight(item, 1, key="b"), GoingIn((1,), b"x"))
        assert not seat.has_room
        seat.send_on()
        assert seat.has_room
        monkeypatch.setattr(InlineWorker, "unsent_bytes", 100)
        assert not seat.has_room

    def test_a_suspect_rides_alone(self, seat: Seat, tmp_path: Path) -> None:
        """Whichever of the two was there first."""
        (item,) = make_plan(make_manifest(("a",)), tmp_path).items
        suspect = dataclasses.replace(item, suspect=True)
        self.open(seat)
        seat.opened = seat.opened and seat.opened.model_copy(update={"capacity": 9})
        assert seat.takes(suspect)
        seat.give(Flight(suspect, 1, key="a"), GoingIn())
        assert not seat.takes(item)
        seat.take_back()
        seat.give(Flight(item, 1, key="b"), GoingIn())
        assert seat.takes(item)
        assert not seat.takes(suspect)


class TestTwoSeats:
    """Two child processes for one batch: the pool is asked, and nobody else knows how many there are."""

    def render(self, tmp_path: Path, *prompts: str) -> list[events.Event]:
        """All that was told of a batch."""
        told: list[events.Event] = []
        run.render([make_manifest(prompts)], Settings(tmp_path, gpus="cpu,cpu", hire=FAKE), told.append, StopRequests())
        return told

    def test_they_share_the_pictures(self, tmp_path: Path) -> None:
        """Each takes one at a time, so two are in flight, and all come."""
        told = self.render(tmp_path, *(f"slow {number}" for number in range(6)))
        most = max(len(what.status.in_flight) for what in told if isinstance(what, events.Tick) and what.status)
        assert most == 2
        assert sum(isinstance(what, events.PictureDone) for what in told) == 6

    def test_one_that_dies_takes_only_its_own_down(self, tmp_path: Path) -> None:
        """What the other one holds goes on, and is done at its first try."""
        told = self.render(tmp_path, "crash", *(f"slow {number}" for number in range(4)))
        lost = [what for what in told if isinstance(what, events.WorkerLost)]
        assert [[item.picture.id for item in what.items] for what in lost] == [["p000"]] * 3
        done = {what.sidecar.id: what.sidecar.attempt for what in told if isinstance(what, events.PictureDone)}
        assert done == dict.fromkeys(("p001", "p002", "p003", "p004"), 1)

    def test_one_that_hangs_is_found_while_the_other_talks(self, tmp_path: Path) -> None:
        """Its silence is its own. One that is silent while it opens, on a busy machine, holds nothing."""
        told: list[events.Event] = []
        settings = Settings(tmp_path, gpus="cpu,cpu", hire=FAKE, stuck_after_s=1.0)
        run.render([make_manifest(("hang", *["slow"] * 16))], settings, told.append, StopRequests())
        first = next(number for number, what in enumerate(told) if isinstance(what, events.WorkerLost) and what.items)
        assert sum(isinstance(what, events.PictureDone) for what in told[:first]) < 16
        lost = told[first]
        assert isinstance(lost, events.WorkerLost)
        assert [item.picture.id for item in lost.items] == ["p000"]
