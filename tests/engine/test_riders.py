from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from renderer.engine.riders import Halt, Rest, Rider, Stop, fork, pause


class Ended:
    """Remembers what a rider ended with."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, Exception | None]] = []

    def __call__(self, result: Any, error: Exception | None) -> None:
        self.heard.append((result, error))


def drive(rider: Rider, rounds: int = 10) -> list[int]:
    """Answer every halt with its own index, and say which there were, in order."""
    rider.start()
    seen = []
    for _ in range(rounds):
        for part in list(rider.riding()):
            assert part.halt is not None
            seen.append(part.halt.index)
            part.go_on(part.halt.index)
    return seen


def test_a_call_pauses_at_every_stop() -> None:
    """Each stop hands out its number and its inputs, and the call goes on with what comes back."""
    stops = [Stop("s", number) for number in range(3)]
    ended = Ended()
    rider = Rider(lambda: [stop(7, word="x") for stop in stops], ended)
    rider.start()
    assert rider.halt is not None
    assert (rider.halt.index, rider.halt.args, rider.halt.kwargs) == (0, (7,), {"word": "x"})
    for answer in "abc":
        rider.go_on(answer)
    assert ended.heard == [(["a", "b", "c"], None)]


def test_a_call_without_stops_ends_at_once() -> None:
    """Nobody has to drive a call that needs no block."""
    ended = Ended()
    Rider(lambda: 42, ended).start()
    assert ended.heard == [(42, None)]


def test_forks_ride_side_by_side_and_come_back_in_order() -> None:
    """Two passes wait at the same block at the same time; their results come back as they were asked for."""
    ended = Ended()
    rider = Rider(lambda: fork(lambda: Stop("s", 0)() + 100, lambda: [Stop("s", 0)(), Stop("s", 1)()]), ended)
    assert drive(rider, 3) == [0, 0, 1]
    assert ended.heard == [([100, [0, 1]], None)]


def test_a_call_that_rests_waits_for_no_block() -> None:
    """It is nobody's rider meanwhile, and goes on to its next block when it is let; or is taken off where it rests."""
    ended = Ended()
    riders = [Rider(lambda: (pause(Rest()), Stop("s", 3)()), ended) for _ in range(2)]
    for rider in riders:
        rider.start()
        assert rider.rests
        assert list(rider.riding()) == []
    riders[0].go_on(None)
    assert not riders[0].rests
    assert riders[0].halt is not None
    riders[0].go_on("x")
    assert ended.heard == [((None, "x"), None)]
    riders[1].leave()
    assert not riders[1].rests
    assert len(ended.heard) == 1


def test_forks_of_forks() -> None:
    """A fork may fork."""
    ended = Ended()
    drive(Rider(lambda: fork(lambda: fork(Stop("s", 1), Stop("s", 2)), lambda: 3), ended))
    assert ended.heard == [([[1, 2], 3], None)]


def test_an_error_in_a_block_is_raised_inside_the_call() -> None:
    """What goes wrong in the block is the call's to handle, and otherwise its end."""
    ended = Ended()
    rider = Rider(Stop("s", 0), ended)
    rider.start()
    rider.fail(MemoryError("no room"))
    ((result, error),) = ended.heard
    assert result is None
    assert isinstance(error, MemoryError)


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_one_fork_takes_the_other_along(failing: int) -> None:
    """The call fails once, with that error, and nobody is left waiting."""
    ended = Ended()
    rider = Rider(lambda: fork(Stop("s", 0), Stop("s", 0)), ended)
    rider.start()
    list(rider.riding())[failing].fail(ValueError("bad"))
    ((_, error),) = ended.heard
    assert isinstance(error, ValueError)
    assert list(rider.riding()) == []


def test_an_error_before_the_first_stop_of_a_fork() -> None:
    """Also a fork that fails at once takes those along that have not begun."""
    ended = Ended()

    def fails() -> None:
        raise ValueError("at once")

    rider = Rider(lambda: fork(fails, Stop("s", 0)), ended)
    rider.start()
    ((_, error),) = ended.heard
    assert isinstance(error, ValueError)
    assert list(rider.riding()) == []


def test_whoever_leaves_is_not_heard_of_and_lets_go() -> None:
    """A rider taken off ends nowhere, and what its call held is freed."""
    ended, held = Ended(), torch.nn.Linear(2, 2)
    released = []

    def call() -> None:
        mine = held
        try:
            Stop("s", 0)(mine)
        finally:
            released.append(True)

    rider = Rider(call, ended)
    rider.start()
    rider.leave()
    gc.collect()
    assert ended.heard == []
    assert released == [True]


def test_grad_mode_is_each_call_s_own_business() -> None:
    """Calls that enter and leave `no_grad` in turns do not turn gradients on for each other, under an outer one."""
    modes = []

    def call() -> None:
        with torch.no_grad():
            pause(Halt("s", 0, (), {}))
            modes.append(torch.is_grad_enabled())

    with torch.no_grad():
        riders = [Rider(call, Ended()) for _ in range(3)]
        for rider in riders:
            rider.start()
        for rider in riders:
            rider.go_on(None)
            modes.append(torch.is_grad_enabled())
    assert modes == [False] * 6


def test_what_is_brought_is_the_call_s_alone() -> None:
    """Once a call has let go of what was brought to it, nobody else holds it: it may be hundreds of megabytes."""
    alive: list[bool] = []
    brought = [torch.ones(3)]
    seen = weakref.ref(brought[0])

    def call() -> None:
        result = pause(Halt("s", 0, (), {}))
        del result
        alive.append(seen() is not None)

    rider = Rider(call, Ended())
    rider.start()
    rider.go_on(brought.pop())
    assert alive == [False]
