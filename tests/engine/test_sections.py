"""Blocks of sections, and the riders that wait for them: whoever waits elsewhere is left in peace."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
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


class Shared:
    """A block through which numbers go together, and that remembers with whom; what is `alone` does not."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.went: list[list[int]] = []
        self._fails = fails

    def __call__(self, *, value: int, **_: Any) -> int:
        self.went.append([value])
        return value + 1

    def size(self, inputs: Any) -> tuple[int, int] | None:
        return None if inputs.get("alone") else (10 * inputs["value"], 5)

    def together(self, riders: Any) -> list[int]:
        if self._fails is not None:
            raise self._fails
        self.went.append([each["value"] for each in riders])
        return [each["value"] + 1 for each in riders]


def waiting(*values: int, alone: bool = False) -> tuple[list[Rider], list[int]]:
    """Riders that wait for block 0 with these values, and what comes of them."""
    came: list[int] = []
    riders = []
    for value in values:
        rider = Rider(
            lambda value=value: Stop("s", 0)(value=value, alone=alone),  # type: ignore[misc]
            lambda result, _error: came.append(result),
        )
        rider.start()
        riders.append(rider)
    return riders, came


def test_small_ones_go_together_up_to_so_many_rows() -> None:
    """By size, so that those alike are side by side; a larger one goes alone, and so does what is rare."""
    block = Shared()
    riders, came = waiting(3, 1, 9, 3, 2, 1)
    rare, alone = waiting(1, alone=True)
    assert ride(Passing("s", 0, last=False, block=block), [*riders, *rare], most_rows=50)
    assert block.went == [[9], [1], [1, 1], [2, 3], [3]]
    assert (sorted(came), alone) == ([2, 2, 3, 4, 4, 10], [2])


@pytest.mark.parametrize("most_rows", [0, 1000])
def test_a_block_that_knows_no_company_has_each_alone(most_rows: int) -> None:
    riders, came = waiting(1, 2)
    assert ride(Passing("s", 0, last=False, block=lambda value, **_: value + 1), riders, most_rows=most_rows)
    assert came == [2, 3]


def test_where_going_together_fails_each_goes_alone() -> None:
    """It is nobody's failure, and whoever drives is told, so that it is not tried at every block."""
    block = Shared(torch.OutOfMemoryError("CUDA out of memory"))
    riders, came = waiting(1, 2)
    assert not ride(Passing("s", 0, last=False, block=block), riders, most_rows=1000)
    assert (block.went, came) == ([[1], [2]], [2, 3])


def test_one_that_fails_after_it_takes_its_forks_along_and_nobody_else() -> None:
    """Guidance's other pass had its result already, and does not go on with it; the next picture does."""
    ended: list[Any] = []

    def first() -> Any:
        Stop("s", 0)(value=1)
        raise ValueError("bad")

    gone_on: list[int] = []
    guided = Rider(
        lambda: fork(first, lambda: gone_on.append(Stop("s", 0)(value=2))), lambda _, error: ended.append(str(error))
    )
    guided.start()
    riders, came = waiting(3)
    assert ride(Passing("s", 0, last=False, block=Shared()), [*guided.riding(), *riders], most_rows=1000)
    assert (ended, gone_on, came) == (["bad"], [], [4])


def test_who_is_held_goes_on_later() -> None:
    """After the last block nobody goes on by himself, together or not."""
    held: list[tuple[Rider, list[Any]]] = []
    riders, came = waiting(1, 2)
    ride(Passing("s", 0, last=True, block=Shared()), riders, held=held, most_rows=1000)
    assert (came, [brought for _, brought in held]) == ([], [[2], [3]])
