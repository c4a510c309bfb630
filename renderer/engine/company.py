"""How many pictures ride together, for pictures an hour: reckoned before the first sweep, corrected by sweeps.

Asks `renderer.estimate.duration`, as the plan does, of the sizes that really fly and wait. Where copies are waited for,
a picture more costs nobody anything; where small ones go through the blocks together, less than alone; elsewhere it
only makes all of them later. Knows nothing of memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from renderer.engine.meter import Shown
from renderer.estimate import duration
from renderer.estimate.memory import Streaming
from renderer.estimate.work import Work
from renderer.machine.rates import SOME_GPU, Rates

AGREEING = 2
"""Sweeps that have to agree on computing or copying having become slower: one alone may have had kernels to compile."""

HIDDEN = 0.9
"""A sweep that computes for more of its time than this did not wait for blocks to be read."""


class Company:
    """Whether one more is wanted."""

    def __init__(self, rates: Rates | None, *, from_disk: bool = False) -> None:
        """`rates` are this machine's; None: nobody knows them, and the first picture rides alone until it has shown."""
        self._rates = rates or SOME_GPU
        self._from_disk = from_disk
        self._slower: deque[float] = deque([1.0] if rates else [], maxlen=AGREEING)
        self._bus: deque[float] = deque([self._rates.bus_bytes_per_s], maxlen=AGREEING)
        self._under_way: deque[tuple[Streaming, tuple[Work, ...], Shown]] = deque()

    def brought(self, bytes_per_s: float) -> None:
        """Note how fast blocks came to new slots; 0 where none had to."""
        if bytes_per_s > 0:
            self._bus.clear()
            self._bus.append(bytes_per_s)

    def swept(self, streaming: Streaming, works: Sequence[Work], shown: Shown) -> None:
        """Note a sweep of these works. It is looked at when the device is done with it: nobody waits for that."""
        self._under_way.append((streaming, tuple(works), shown))
        self._look()

    def wants(self, now: Streaming, then: Streaming, flying: Sequence[Work], more: Work) -> bool:
        """Whether `more` beside those that fly makes more pictures an hour: as it is done now, and with it on board."""
        self._look()
        if not self._slower:
            return False
        return duration.pays(now, then, flying, more, self._measured(), slower=min(self._slower))

    def _measured(self) -> Rates:
        """The rates, with what copies have shown: of blocks that are read from the disk, the reading is part of it."""
        return self._rates.model_copy(update={"pinned_bytes_per_s": max(self._bus)})

    def _look(self) -> None:
        """Learn from the sweeps that are over: how long their blocks were computed, how fast the others came."""
        while self._under_way and self._under_way[0][2].over:
            streaming, works, shown = self._under_way.popleft()
            computed_s = shown.computed.seconds()
            self._slower.append(computed_s / duration.sweep(streaming, works, self._rates).computing_s)
            if not self._from_disk:
                self._bus.append(shown.moved_bytes / shown.copied.seconds())
            elif computed_s < HIDDEN * (whole_s := shown.whole.seconds()):
                self._bus.append(shown.moved_bytes / whole_s)
