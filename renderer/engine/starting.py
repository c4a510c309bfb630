"""What a worker's start is made of, from the order to open a model to the end of the first step, as it goes on."""

from __future__ import annotations

import time
from typing import Literal

from renderer.engine.meter import Span
from renderer.job import Start

Lap = Literal["imports", "networks", "kernels", "slots", "prompts", "modulations", "first_sweep"]
"""What is done one after the other; blocks come into host memory beside all of it."""


class Starting:
    """One start, lap by lap. When its first step is done, nothing more is added to it."""

    def __init__(self, imports_s: float = 0.0) -> None:
        """It began `imports_s` seconds ago, when libraries began to be imported."""
        self._lap_s = time.perf_counter()
        self._began_s = self._lap_s - imports_s
        self._parts: dict[Lap, float] = {"imports": imports_s}
        self._whole_s: float | None = None

    def lap(self, part: Lap | None = None) -> None:
        """What went on since the last lap was that part of it, or more of that part; None: nothing that counts."""
        now_s = time.perf_counter()
        if part is not None and self._whole_s is None:
            self._parts[part] = self._parts.get(part, 0.0) + now_s - self._lap_s
        self._lap_s = now_s

    def swept(self, sweep: Span) -> None:
        """A sweep is under way: the first is waited for, and with it the start is over."""
        if self._whole_s is None:
            sweep.seconds()
            self.lap("first_sweep")
            self._whole_s = self._lap_s - self._began_s

    def told(self, blocks_s: float | None) -> Start:
        """As it stands in a sidecar; `blocks_s` are the seconds in which all blocks came, if they have."""
        parts = {f"{part}_s": seconds for part, seconds in self._parts.items()}
        return Start.model_validate({**parts, "blocks_s": blocks_s, "first_step_s": self._whole_s})
