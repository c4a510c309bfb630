"""One picture on its way through the streaming engine, and what is noted of it there. Computes nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch

from renderer.engine.calling import Rendering
from renderer.engine.meter import Peaks, Span
from renderer.engine.modulation import Ready
from renderer.engine.riders import Rider
from renderer.job import Job, Sharing, Timing


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep took and did: the host's seconds, bytes copied, operations, pictures in flight.

    `copying` and `computing` are what it took of the device's own time: the host runs ahead of that.
    """

    took_s: float
    moved_bytes: int
    flops: float
    in_flight: int
    copying: Span
    computing: Span


@dataclass(slots=True)
class Journey:
    """One picture, from its admission to its last pixel. Seconds are the wall's, but `share_s`, which is its part."""

    key: str
    job: Job
    adjustments: tuple[str, ...] = ()
    rider: Rider | None = None
    table: torch.Tensor | None = None
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    steps_s: list[float] = field(default_factory=list)
    encode_s: float = 0.0
    decode_s: float = 0.0
    share_s: float = 0.0
    streamed_bytes: float = 0.0
    sweeps: list[Sweep] = field(default_factory=list)
    peaks: Peaks = field(default_factory=Peaks)
    pixels: bytes = b""
    error: Exception | None = None
    over: bool = False

    @property
    def passes(self) -> int:
        """Riders this picture has in a sweep: two with guidance."""
        return 1 if self.job.cfg_scale == 1.0 else 2

    def ready(self, number: int) -> Ready:
        """Block `number`'s modulation at this picture's present step."""
        assert self.table is not None
        return Ready(self.table[number])

    def stepped(self) -> None:
        """Note that denoising begins, or that a step of it is done."""
        self.steps_s.append(time.perf_counter())

    def account(self, sweep: Sweep, part: float) -> None:
        """Note a sweep, and which part of it was this picture's."""
        self.share_s += sweep.took_s * part
        self.streamed_bytes += sweep.moved_bytes * part
        self.sweeps.append(sweep)

    def rendering(self, sharing: Sharing, warnings: tuple[str, ...]) -> Rendering:
        """What came of it."""
        return Rendering(
            rgb=self.pixels,
            width=self.job.width,
            height=self.job.height,
            timing=self._timing(),
            memory=self.peaks.memory(),
            warnings=warnings,
            sharing=sharing,
        )

    def sharing(self, slots: int, blocks: int, arithmetic: str) -> Sharing:
        """What it shared with the others: `slots` of `blocks`, large products in the format `arithmetic`.

        Waits until its last sweep is over on the device.
        """
        return Sharing(
            share_s=self.share_s,
            mean_in_flight=statistics.fmean(sweep.in_flight for sweep in self.sweeps),
            slots=slots,
            blocks=blocks,
            arithmetic=arithmetic,
            streamed_bytes=round(self.streamed_bytes),
            bus_bytes_per_s=_rate((sweep.moved_bytes, sweep.copying) for sweep in self.sweeps),
            flops_per_s=_rate((sweep.flops, sweep.computing) for sweep in self.sweeps),
            adjustments=self.adjustments,
        )

    def _timing(self) -> Timing:
        steps = [after - before for before, after in zip(self.steps_s, self.steps_s[1:], strict=False)]
        return Timing(
            encode_s=self.encode_s,
            step_median_s=statistics.median(steps),
            denoise_s=self.steps_s[-1] - self.steps_s[0],
            decode_s=self.decode_s,
            began_at=self.began_at,
            ended_at=datetime.now(UTC),
        )


def _rate(done: Iterable[tuple[float, Span]]) -> float:
    """How much was done a second, from how much was done in which time; 0 where nothing was."""
    amounts, spans = zip(*done, strict=True)
    total = sum(amounts)
    return float(total / sum(span.seconds() for span in spans)) if total else 0.0
