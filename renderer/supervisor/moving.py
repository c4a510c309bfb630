"""In which order pictures go to other names in their folder, so that none is written over before it has gone.

Pictures may push each other on (a prompt inserted at the top), change places, or go round in a circle. At every moment
each lies whole under some name: a run that dies in between finds it again by its fingerprint. Knows no files; what to
do with them is `results`' business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from renderer.planning.plan import Planned


@dataclass(frozen=True, slots=True)
class Move:
    """A picture goes from `source`, an output name, to its own. `leaves` says that nothing else needs it there."""

    item: Planned
    source: str
    leaves: bool


@dataclass(frozen=True, slots=True)
class Stow:
    """What lies under `source` is in the way, and goes nowhere free: it is kept aside, under `aside`."""

    source: str
    aside: str


def arrange(items: Sequence[Planned], staying: Collection[str], aside: str) -> Iterator[Move | Stow]:
    """The moves of pictures that lie under another name, each when it may be made.

    `staying` are the output names of pictures that are in their places. What a circle is opened with is kept below the
    folder `aside`.
    """
    pending = {
        item.picture.output: (item, item.source.output)
        for item in items
        if item.source is not None and item.source.output != item.picture.output
    }
    users: dict[str, list[str]] = {}
    for target, (_, source) in pending.items():
        users.setdefault(source, []).append(target)
    ready = [target for target in pending if target not in users]
    while pending:
        if not ready:  # each is in another's way
            target = next(iter(pending))
            stowed = f"{aside}/{pending[users[target][0]][0].fingerprint}"
            yield Stow(target, stowed)
            users[stowed] = users.pop(target)
            pending |= {name: (pending[name][0], stowed) for name in users[stowed]}
            ready.append(target)
        target = ready.pop()
        item, source = pending.pop(target)
        users[source].remove(target)
        last = not users[source]
        if last and source in pending:
            ready.append(source)
        yield Move(item, source, leaves=last and source not in staying and source not in pending)
