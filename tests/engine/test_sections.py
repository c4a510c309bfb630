"""Blocks of sections, and the riders that wait for them: whoever waits elsewhere is left in peace."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from renderer.engine.riders import Rider, Stop, fork
from renderer.engine.sections import Passing, ride


def started(call: Any) -> tuple[Rider, list[Any]]:
    """A rider that has gone until its first block is needed, and what has come of it."""
    ended: list[Any] = []
    rider = Rider(call, lambda result, error: ended.append(error or result))
    rider.start()
    return rider, ended


def test_only_those_of_its_section_ride() -> None:
    """Two sections have a block of the same number; after a sweep that broke off, riders wait anywhere."""
    (one, came), (other, nothing) = started(lambda: Stop("double", 1)(2)), started(lambda: Stop("single", 1)(2))
    ride(Passing("double", 1, last=False, block=lambda value: value + 1), [one, other])
    assert (came, nothing) == ([3], [])
    assert other.halt is not None
    assert (other.halt.section, other.halt.index) == ("single", 1)


def test_a_block_s_input_is_gone_when_its_rider_goes_on() -> None:
    """It may be as large as the result, and what comes next wants its room."""
    made: list[weakref.ref[torch.Tensor]] = []

    def large() -> torch.Tensor:
        tensor = torch.ones(3)
        made.append(weakref.ref(tensor))
        return tensor

    def call() -> bool:
        Stop("s", 0)(large())
        return made[0]() is None

    rider, came = started(call)
    ride(Passing("s", 0, last=False, block=lambda value: value * 2), [rider])
    assert came == [True]


def test_a_failure_takes_its_forks_along_and_nobody_else() -> None:
    """One pass of guidance fails: the other is taken off before the block is computed for it."""
    computed: list[int] = []

    def block(value: int) -> int:
        computed.append(value)
        if value == 1:
            raise ValueError("bad")
        return value

    guided, failed = started(lambda: fork(lambda: Stop("s", 0)(1), lambda: Stop("s", 0)(2)))
    alone, came = started(lambda: Stop("s", 0)(3))
    ride(Passing("s", 0, last=False, block=block), [*guided.riding(), alone])
    assert [str(error) for error in failed] == ["bad"]
    assert (came, computed) == ([3], [1, 3])
