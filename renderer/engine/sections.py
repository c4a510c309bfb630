"""Sections of alike blocks, brought past whoever waits in them: one mechanism for every network there is.

A network's sections lie behind one another, as a call needs them, and their blocks come past in one row, whatever kinds
they are of. A rider says in which section it waits, and for which block. Knows nothing of what a network is for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from renderer.engine.block_source import ReadableBlock
from renderer.engine.blocks import Blocks
from renderer.engine.riders import Rider
from renderer.engine.slots import Slots
from renderer.estimate.companies import companies
from renderer.job import BlockArithmetic

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LiveSection:
    """A section on this device: its name in the family, its blocks' files in order, and how they are computed."""

    name: str
    files: Sequence[ReadableBlock]
    blocks: Blocks


@dataclass(frozen=True, slots=True)
class Passing:
    """A block that is there, in `section` as number `index`; `last` of its network's or not."""

    section: str
    index: int
    last: bool
    block: Any

    def is_for(self, rider: Rider) -> bool:
        """Whether a rider waits for this block."""
        halt = rider.halt
        return halt is not None and (halt.section, halt.index) == (self.section, self.index)


class Passage:
    """One network's sections, in the order in which a call needs them."""

    def __init__(self, sections: Sequence[LiveSection]) -> None:
        self._sections = tuple(sections)
        self._order = [(section, index) for section in self._sections for index in range(len(section.files))]

    @property
    def files(self) -> list[ReadableBlock]:
        """All blocks' files, as they come past."""
        return [section.files[index] for section, index in self._order]

    @property
    def arithmetic(self) -> BlockArithmetic:
        """In which format the large products of most of its blocks are computed: those of the first section."""
        return self._sections[0].blocks.arithmetic

    @property
    def shares(self) -> bool:
        """Whether riders go through its blocks together."""
        return any(getattr(section.blocks, "shares", False) for section in self._sections)

    def bring_past(self, slots: Slots) -> Iterator[Passing]:
        """Every block once, in order; each is there until the next is asked for. Raises what an arrival raises."""
        for number, slot in slots.sweep():
            section, index = self._order[number]
            block = section.blocks.arrive(index, slot)
            yield Passing(section.name, index, number == len(self._order) - 1, block)

    def forget(self) -> None:
        """Let go of every slot that was ever seen, and of any memory beside them."""
        for section in self._sections:
            section.blocks.forget()


def as_called(rider: Rider) -> Mapping[str, Any]:
    """What the call itself gives a block by name."""
    assert rider.halt is not None
    return rider.halt.kwargs


def ride(
    passing: Passing,
    riders: Iterable[Rider],
    given: Callable[[Rider], Mapping[str, Any]] = as_called,
    held: list[tuple[Rider, list[Any]]] | None = None,
    most_rows: int = 0,
) -> bool:
    """Compute a block for the riders that wait for it, and let each go on to the next.

    `given` says what the block is called with by name. Those that have no more than `most_rows` together go through it
    as one, where the block lets them; where that fails each goes alone, and False is what comes back. With `held`,
    nobody goes on: who is to, and with what, is put there. What fails is raised inside the rider's own call, and
    concerns nobody else.
    """
    whole = True
    for group in _companies(passing, riders, most_rows):
        there = [rider for rider in group if passing.is_for(rider)]  # one that failed may have taken others along
        if len(there) > 1:
            results = _together(passing, there, given)
            if results is not None:
                _hand_on(passing, there, results, held)
                continue
            whole = False
        for rider in there:
            _alone(passing, rider, given, held)
    return whole


def _companies(passing: Passing, riders: Iterable[Rider], most_rows: int) -> list[list[Rider]]:
    """Those that wait for the block, by who goes with whom."""
    waiting = [rider for rider in riders if passing.is_for(rider)]
    size = getattr(passing.block, "size", None)
    if not most_rows or size is None:
        return [[rider] for rider in waiting]
    sizes = [size(rider.halt.kwargs) if rider.halt and not rider.halt.args else None for rider in waiting]
    return [[waiting[number] for number in group] for group in companies(sizes, most_rows)]


def _together(
    passing: Passing, riders: Sequence[Rider], given: Callable[[Rider], Mapping[str, Any]]
) -> list[Any] | None:
    """What the block gives riders that go through it as one; None where that fails."""
    try:
        found: list[Any] = passing.block.together([given(rider) for rider in riders])
    except Exception as error:  # noqa: BLE001  # each goes alone then, and fails by itself
        LOG.warning("%d riders could not go together: %s", len(riders), type(error).__name__)
        return None
    return found


def _hand_on(
    passing: Passing, riders: Sequence[Rider], results: list[Any], held: list[tuple[Rider, list[Any]]] | None
) -> None:
    """Let riders go on with what they are given, in turn: one that fails then may take others along."""
    for rider in riders:
        brought = [results.pop(0)]
        if held is not None:
            held.append((rider, brought))
        elif passing.is_for(rider):
            rider.go_on(brought.pop())


def _alone(
    passing: Passing,
    rider: Rider,
    given: Callable[[Rider], Mapping[str, Any]],
    held: list[tuple[Rider, list[Any]]] | None,
) -> None:
    if not passing.is_for(rider):
        return
    assert rider.halt is not None
    failure, result = None, None
    try:  # a block's input is the rider's alone: what held it here would hold it while the rider goes on
        result = passing.block(*rider.halt.args, **given(rider))
    except Exception as error:  # noqa: BLE001  # it is the rider's
        failure = error.with_traceback(None)
    if failure is not None:
        rider.fail(failure)
    elif held is not None:
        held.append((rider, [result]))
    else:
        rider.go_on(result)
    result = None
