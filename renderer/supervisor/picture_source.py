"""Where the pictures come from that are to be rendered. Today: a plan's, in their order, each once more after the rest.

Whoever gives pictures to workers asks a source for the next one that may begin, and gives back what could not. Knows no
workers and no clocks.
"""

from __future__ import annotations

from collections.abc import Iterable

from renderer.dealing.lines import WaitingLines
from renderer.dealing.parties import Source
from renderer.estimate import Work
from renderer.planning.pace import weight
from renderer.planning.plan import Planned

PictureSource = Source[Planned]
"""Pictures to be rendered with one setup: a plan's, or what comes in while others are rendered."""


class PlanSource(WaitingLines[Planned]):
    """Pictures of a plan, all known beforehand."""

    def __init__(self, items: Iterable[Planned] = ()) -> None:
        super().__init__(items, _kind, weight)


def _kind(item: Planned) -> tuple[Work, int]:
    """What pictures have in common that take as long."""
    return Work.of(item.picture.job), item.picture.job.num_inference_steps
