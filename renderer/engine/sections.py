"""Sections of alike blocks, brought past whoever waits in them: one mechanism for every network there is.

A network's sections lie behind one another, as a call needs them, and their blocks come past in one row, whatever kinds
they are of. A rider says in which section it waits, and for which block. Knows nothing of what a network is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from renderer.engine.block_source import ReadableBlock
from renderer.engine.blocks import Blocks
from renderer.engine.riders import Halt, Rider
from renderer.engine.slots import Slots
from renderer.job import BlockArithmetic


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


def ride(
    passing: Passing,
    riders: Iterable[Rider],
    given: Callable[[Halt], Mapping[str, Any]] = lambda halt: halt.kwargs,
    held: list[tuple[Rider, list[Any]]] | None = None,
) -> None:
    """Compute a block for the riders that wait for it, and let each go on to the next.

    `given` says what the block is called with beside the call's own arguments. With `held`, nobody goes on: who is to,
    and with what, is put there. What fails is raised inside the rider's own call, and concerns nobody else.
    """
    for rider in list(riders):
        if not passing.is_for(rider):  # asked now: one that failed may have taken others along
            continue
        assert rider.halt is not None
        failure, result = None, None
        try:  # a block's input is the rider's alone: what held it here would hold it while the rider goes on
            result = passing.block(*rider.halt.args, **given(rider.halt))
        except Exception as error:  # noqa: BLE001  # it is the rider's
            failure = error.with_traceback(None)
        if failure is not None:
            rider.fail(failure)
        elif held is not None:
            held.append((rider, [result]))
        else:
            rider.go_on(result)
        result = None
