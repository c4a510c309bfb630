"""Calls of DiffSynth's that pause wherever a block would run, so that a block can come to all of them.

Each call runs in a greenlet. `Stop` modules stand where a network's blocks stood; a call that reaches one is a rider
that waits there. A call may fork, as guidance does with its two passes, and goes on when both have come back. Knows
nothing of weights, devices or pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from greenlet import GreenletExit, getcurrent, greenlet


@dataclass(frozen=True, slots=True)
class Halt:
    """Waiting for block `index` of a section of alike blocks, with what the block would have been called with."""

    section: str
    index: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fork:
    """Waiting for several calls, which ride at the same time."""

    calls: tuple[Callable[[], Any], ...]


@dataclass(frozen=True, slots=True)
class Rest:
    """Waiting for no block: only to be let go on."""


class Stop(torch.nn.Module):
    """Stands where a section's block stood: pauses the call until somebody runs the block for it.

    `attributes` are what the network reads off its blocks besides calling them.
    """

    def __init__(self, section: str, index: int, **attributes: Any) -> None:
        super().__init__()
        self._section = section
        self._index = index
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return pause(Halt(self._section, self._index, args, kwargs))


def fork(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls as riders of their own, side by side, and return their results in order. Only inside a rider."""
    results: list[Any] = pause(Fork(calls))
    return results


def pause(asked: Halt | Fork | Rest) -> Any:
    """Hand control to whoever drives this rider, until it has what was asked for."""
    driver = getcurrent().parent
    assert driver is not None, "nobody drives this call"
    brought: list[Any] = driver.switch(asked)
    return brought.pop()  # whoever brought it holds it no longer: what was asked for may be large


class Rider:
    """One call on its way. `ended` hears its result or its error, once, when it is over."""

    def __init__(self, call: Callable[[], Any], ended: Callable[[Any, Exception | None], None]) -> None:
        self.halt: Halt | None = None
        self.rests = False
        self._ended = ended
        self._greenlet = greenlet(lambda _=None: self._run(call))
        self._result: Any = None
        self._error: Exception | None = None
        self._children: list[Rider] = []
        self._results: list[Any] = []

    def start(self) -> None:
        """Go until the first block is needed."""
        self._go(None)

    def go_on(self, value: Any) -> None:
        """Take a block's result, or None after a rest, and go until the next block is needed."""
        self.halt, self.rests = None, False
        brought = [value]
        del value
        self._go(brought)

    def fail(self, error: Exception) -> None:
        """Raise `error` inside the call, where its block would have run."""
        self.halt, self.rests = None, False
        self._greenlet.parent = getcurrent()
        self._hear(self._greenlet.throw(error))

    def leave(self) -> None:
        """Take the call and all its forks off, without a result: `ended` hears nothing."""
        self._ended = _nobody
        for child in self._children:
            child.leave()
        self.halt, self.rests = None, False
        if not self._greenlet.dead:
            self._greenlet.throw(GreenletExit)

    def riding(self) -> Iterable[Rider]:
        """This rider's parts that wait for a block: itself, or its forks."""
        if self.halt is not None:
            yield self
        for child in self._children:
            yield from child.riding()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self._result = call()
        except Exception as error:  # noqa: BLE001  # whatever it is, whoever waits is told
            self._error = error

    def _go(self, brought: list[Any] | None) -> None:
        self._greenlet.parent = getcurrent()
        self._hear(self._greenlet.switch(brought))

    def _hear(self, asked: Halt | Fork | Rest | None) -> None:
        if self._greenlet.dead:
            result, error, self._result, self._error = self._result, self._error, None, None
            self._ended(result, error)
        elif isinstance(asked, Fork):
            self._send_out(asked.calls)
        elif isinstance(asked, Rest):
            self.rests = True
        else:
            self.halt = asked

    def _send_out(self, calls: Sequence[Callable[[], Any]]) -> None:
        self._results = [None] * len(calls)
        left = len(calls)

        def child_ended(place: int) -> Callable[[Any, Exception | None], None]:
            def hear(result: Any, error: Exception | None) -> None:
                nonlocal left
                left -= 1
                self._results[place] = result
                if error is not None:
                    self._gather()
                    self.fail(error)
                elif left == 0:
                    results = self._results
                    self._gather()
                    self._go([results])

            return hear

        self._children = [Rider(call, child_ended(place)) for place, call in enumerate(calls)]
        for child in list(self._children):
            if self._children:  # an earlier one may have failed, and taken the others along
                child.start()

    def _gather(self) -> None:
        children, self._children, self._results = self._children, [], []
        for child in children:
            if not child._greenlet.dead:  # noqa: SLF001  # its own kind
                child.leave()


def _nobody(_result: Any, _error: Exception | None) -> None:
    """Hears nothing."""
