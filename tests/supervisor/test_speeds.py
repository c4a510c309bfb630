"""How fast seats are: what is known of one, of another of its kind, and of what its steps tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from renderer.dealing.shares import Speeds
from renderer.job import Memory, Precision, Timing
from renderer.machine.devices import WorkerDevice
from renderer.machine.gpus import LocalGpu
from renderer.machine.hardware import Machine
from renderer.planning.pace import Pace, weight
from renderer.planning.plan import Planned, make_plan
from renderer.protocol import Rendered
from renderer.supervisor import speeds
from renderer.supervisor.pool import Seat
from renderer.supervisor.progress import Flight
from renderer.supervisor.speeds import SeatSpeeds
from tests.fakes import InlineWorker
from tests.making import make_manifest
from tests.nvml import GIB


class Cards:
    """Seats on cards of these names, of which nobody knows anything, and a clock."""

    def __init__(self, item: Planned, *names: str) -> None:
        self.item = item
        self.now_s = 0.0
        named = enumerate(names)
        gpus = [LocalGpu(index, name, f"GPU-{index}", 24 * GIB, 24 * GIB, "", (8, 9)) for index, name in named]
        machines = [Machine((gpu,), 8, 64 * GIB, 32 * GIB) for gpu in gpus]
        self.speeds = SeatSpeeds([WorkerDevice(each, number) for number, each in enumerate(machines)])
        self.seats = [Seat(InlineWorker, lambda _: None, number) for number in range(len(names))]

    def began(self, number: int, key: str = "a") -> Flight:
        flight = Flight(self.item, 1, since=datetime.now(UTC), key=key)
        self.seats[number].flights[key] = flight
        self.speeds.began(self.seats[number], flight)
        return flight

    def stepped(self, number: int, flight: Flight, at_s: float) -> None:
        self.now_s = at_s
        self.speeds.stepped(self.seats[number], flight, flight.step + 1)
        flight.step += 1

    def came(self, number: int, seconds: float, precision: Precision = "bf16") -> None:
        now = datetime.now(UTC)
        timing = Timing(began_at=now, ended_at=now, denoise_s=seconds)
        event = Rendered(key="a", width=64, height=64, timing=timing, memory=Memory())
        self.speeds.learn(self.seats[number], self.at(precision), event)

    def at(self, precision: Precision) -> Planned:
        """A picture at another precision."""
        job = self.item.picture.job.model_copy(update={"precision": precision})
        return dataclasses.replace(self.item, picture=self.item.picture.model_copy(update={"job": job}))

    def of(self, precision: Precision = "bf16") -> Speeds:
        return self.speeds.of(self.seats, self.at(precision), "stream", Pace())

    @property
    def step(self) -> float:
        """The work of a step."""
        return weight(self.item) / self.item.picture.job.num_inference_steps


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cards]:
    (item,) = make_plan(make_manifest(("a",), steps=20), tmp_path).items

    def made(*names: str) -> Cards:
        found = Cards(item, *names)
        monkeypatch.setattr(speeds, "now_s", lambda: found.now_s)
        return found

    return made


def test_only_where_cards_differ_is_one_unknown(cards: Callable[..., Cards]) -> None:
    """Cards of one kind are alike, whatever they are; and nobody knows how long anything takes."""
    assert cards("X", "X").of() == Speeds({0: 1.0, 1: 1.0}, (), relative=True)
    assert cards("X", "Y").of() == Speeds({0: 1.0, 1: 1.0}, {0, 1}, relative=True)


def test_the_first_step_tells_and_is_forgotten_after_the_second(cards: Callable[..., Cards]) -> None:
    """All is done for the first time in it."""
    there = cards("X", "Y")
    flight = there.began(0)
    for at_s, each_s in ((10.0, 10.0), (12.0, 2.0), (14.0, 2.0)):
        there.stepped(0, flight, at_s)
        found = there.of()
        assert found.each[0] == pytest.approx(there.step / each_s)
        assert (found.each[1], found.unknown, found.relative) == (found.each[0], {1}, False)


def test_what_rides_together_counts_together(cards: Callable[..., Cards]) -> None:
    """As fast as one alone is a card that takes twice as long for each of two; whoever came late counts later."""
    there = cards("X", "Y")
    first = there.began(0)
    there.stepped(0, first, 1.0)
    second = there.began(0, "b")
    for at_s in (3.0, 5.0):
        there.stepped(0, first, at_s)
        assert there.of().each[0] == pytest.approx(there.step)
        there.stepped(0, second, at_s)
        assert there.of().each[0] == pytest.approx(there.step)


def test_who_came_at_the_end_of_a_step_has_not_gone_beside_it(cards: Callable[..., Cards]) -> None:
    there = cards("X", "Y")
    first = there.began(0)
    there.now_s = 0.9
    there.began(0, "b")
    there.stepped(0, first, 1.0)
    assert there.of().each[0] == pytest.approx(there.step)


def test_another_of_its_kind_tells_and_its_own_pictures_tell_most(cards: Callable[..., Cards]) -> None:
    there = cards("X", "Y", "X")
    there.came(0, 10.0)
    work = weight(there.item)
    assert there.of() == Speeds({0: work / 10, 1: work / 10, 2: work / 10}, {1})
    there.came(2, 20.0)
    there.came(1, 40.0)
    assert there.of() == Speeds({0: work / 10, 1: work / 40, 2: work / 20}, set())


def test_what_came_of_another_model_tells_until_something_comes(cards: Callable[..., Cards]) -> None:
    """How seats are beside one another, scaled to the one that is known by now."""
    there = cards("X", "Y")
    there.came(0, 10.0, "fp8")
    there.came(1, 30.0, "fp8")
    found = there.of()
    assert not found.unknown
    assert found.each[0] / found.each[1] == pytest.approx(3.0)
    there.came(0, 5.0)
    assert there.of().each == pytest.approx({0: weight(there.item) / 5, 1: weight(there.item) / 15})
