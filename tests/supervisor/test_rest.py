"""A pause: what is in flight finishes, workers go a while after that, and it is no time of the night's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from renderer.supervisor import events, rest, tempo
from renderer.supervisor.rest import Resting
from renderer.supervisor.settings import Pause
from renderer.supervisor.tempo import Tempo


class Paused:
    """A night that is paused, its clock, and the workers that may be let go."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.pause = Pause(keeps_s=10.0)
        self.heard: list[events.Event] = []
        self.tempo = Tempo()
        self.is_open, self.is_opening, self.let_go = True, False, 0
        night = SimpleNamespace(pause=self.pause, watch=self.heard.append)
        self._resting = Resting(cast("Any", night), self.tempo)

    def monotonic(self) -> float:
        return self.now_s

    def dismiss(self) -> None:
        self.is_open = self.is_opening = False
        self.let_go += 1

    def look(self, after_s: float, *, busy: bool = False) -> int:
        """Time passes: how often workers have been let go by then."""
        self.now_s += after_s
        self._resting.look(cast("Any", self), busy=busy)
        return self.let_go


@pytest.fixture
def night(monkeypatch: pytest.MonkeyPatch) -> Paused:
    found = Paused()
    for module in (rest, tempo):
        monkeypatch.setattr(module, "time", found)
    return found


def test_workers_go_when_nothing_has_been_in_flight_for_long_enough(night: Paused) -> None:
    """However long what was in flight took: it is not taken from them."""
    night.pause.is_on = True
    assert night.look(60, busy=True) == 0
    assert night.look(60) == 0
    assert night.look(9) == 0
    assert night.look(1) == 1
    assert night.look(60) == 1, "once"
    assert [(what.paused, what.let_go) for what in night.heard if isinstance(what, events.Pausing)] == [
        (True, False),
        (True, True),
    ]


def test_each_pause_is_as_long(night: Paused) -> None:
    for count in (0, 1):
        night.pause.is_on = night.is_open = True
        assert night.look(0) == night.look(9) == count
        assert night.look(1) == count + 1
        night.pause.is_on = False
        night.look(60)


def test_one_that_opens_still_goes_too(night: Paused) -> None:
    """It would hold the GPU's memory for the whole pause."""
    night.is_open, night.is_opening, night.pause.is_on = False, True, True
    night.look(0)
    assert night.look(10) == 1


def test_a_pause_is_no_time_of_the_nights(night: Paused) -> None:
    """While it lasts and when it is over, the rate is that of the time in which something was rendered."""
    night.tempo.began()
    night.now_s += 10
    night.tempo.worked(20)
    assert night.tempo.work_per_s(100) == 2
    night.pause.is_on = True
    night.look(0, busy=True)
    night.look(10)
    night.look(3600)
    assert night.tempo.work_per_s(100) == 1
    night.pause.is_on = False
    night.look(0)
    night.now_s += 20
    night.tempo.worked(60)
    assert night.tempo.work_per_s(100) == 2
