"""Cards of different speeds side by side: what each is given, and whether a forecast foretells what then happens."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from renderer.dealing.shares import Shares
from renderer.job import Engine
from renderer.machine import rates
from renderer.machine.devices import WorkerDevice
from renderer.machine.hardware import Machine
from renderer.planning import fitting
from renderer.planning.deployment import deploy
from renderer.planning.plan import make_plan
from renderer.protocol import Opened
from renderer.supervisor.incoming import GoingIn
from renderer.supervisor.pool import Seat
from renderer.supervisor.progress import Flight, in_flight
from tests.fakes import SOFTWARE, InlineWorker
from tests.making import make_job, make_manifest
from tests.supervisor import timed
from tests.supervisor.timed import NIGHTS, TimedDevice, TimedNight


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "known", timed.known)


@pytest.mark.parametrize("name", NIGHTS)
def test_a_night_takes_what_is_foretold(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the second, by the real pool and dispatcher: both ask one policy. A card more never makes it longer."""
    night = NIGHTS[name]
    monkeypatch.setattr(fitting, "refusals", night.refusals)
    summary, took_s = night.took(tmp_path)
    assert (summary.rendered, summary.refused) == (summary.pictures, 0)
    assert night.foretold_s() == pytest.approx(took_s)
    assert took_s <= night.alone_s() * 1.05


def seats(*works: float) -> list[Seat]:
    """Seats that are open and hold so much work each."""
    found = [Seat(InlineWorker, lambda _: None, number, f"GPU {number}") for number in range(len(works))]
    engine = Engine(name="fake", profile="stream", device="cuda")
    for seat, work in zip(found, works, strict=True):
        seat.opened = Opened(capacity=32, load_s=5, engine=engine, software=SOFTWARE, gpu=None)
        seat.flights.work = work
    return found


def test_a_picture_in_flight_says_on_which_card_it_is(tmp_path: Path) -> None:
    """For the status, which names each picture with its card."""
    (seat,) = seats(0.0)
    seat.prepare(deploy([make_job()], [WorkerDevice(Machine((), 2, 2**36, 2**35))]).setup, tmp_path / "worker.log")
    (item,) = make_plan(make_manifest(("a",)), tmp_path).items
    flight = Flight(item, 1, since=datetime.now(UTC))
    seat.give(flight, GoingIn())
    assert [one.where for one in in_flight([flight])] == ["GPU 0"]


def test_a_part_is_by_speed_and_so_is_a_deadline() -> None:
    """Each holds by its speed; and before a deadline a slow card counts with its own time, not with the others'."""
    fast, slow = there = seats(4.0, 0.0)
    shares = Shares(there, {0: 10.0, 1: 1.0}, waiting_work=7.0)
    assert (shares.of(fast), shares.of(slow)) == (10.0, 1.0)
    assert (shares.slowness(fast), shares.slowness(slow)) == (1.0, 10.0)
    assert (list(shares.faster(fast)), list(shares.faster(slow))) == ([], [fast])
    slow.flights.work = 2.0
    assert not shares.has_too_much(slow), "one that has been begun is not given back"
    many = Shares(seats(0, 0, 0, 0), {0: 2.0, 1: 1.0, 2: 1.0, 3: 1.0}, waiting_work=8.0)
    assert [many.slowness(seat) for seat in seats(0, 0)] == [0.5, 1.0], "most pictures come from the slower ones"


class TestShares:
    def test_a_card_that_has_nothing_is_given_what_another_has_not_begun(self, tmp_path: Path) -> None:
        """The other's worker holds all 24 pictures of the large group, and gives back what it has not begun."""
        _, took_s = NIGHTS["two equal cards, a large and a small group"].took(tmp_path)
        assert took_s <= 1.1 * 28 * 10 / 2

    def test_a_slow_card_begins_nothing_that_the_fast_one_has_sooner(self, tmp_path: Path) -> None:
        """Two pictures on cards of 100:1: the slow one renders none."""
        night = TimedNight((TimedDevice(1), TimedDevice(100)), (("bf16", 2, 10),))
        _, took_s = night.took(tmp_path)
        assert took_s == night.foretold_s() == 25

    @pytest.mark.parametrize(
        ("cards", "pictures", "longer"),
        [("10:1", 8, 1.25), ("10:1", 20, 1.01), ("3:1", 8, 1.01), ("10:3:1", 20, 1.01), ("10:10:1:1", 20, 1.01)],
    )
    def test_speeds_are_learnt_from_the_first_steps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cards: str, pictures: int, longer: float
    ) -> None:
        """Where nobody knows the cards, each has one picture until a step of it is done: then it has its part."""
        monkeypatch.setattr(rates, "known", lambda _: None)
        night = timed.among_strangers(cards, pictures)
        _, took_s = night.took(tmp_path)
        assert took_s <= longer * night.foretold_s()
