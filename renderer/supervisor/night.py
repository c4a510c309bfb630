"""What all batches of one run share: how it is to behave, what can be opened and what cannot, the worker at hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from renderer.errors import RendererError
from renderer.job import Job, Weights
from renderer.machine.rates import Rates
from renderer.planning.placement import SizeRefusal
from renderer.protocol import Setup
from renderer.supervisor.events import Watch
from renderer.supervisor.pool import WorkerPool
from renderer.supervisor.progress import Row
from renderer.supervisor.settings import Settings, StopRequests


@dataclass(frozen=True, slots=True)
class Night:
    """What all batches of one run share.

    `setups` is by weights, `troubles` why some of those have none, or did not open; `refused` are jobs that
    cannot fit; `rates` the machine's, if they are known.
    """

    settings: Settings
    setups: dict[Weights, Setup]
    troubles: dict[Weights, RendererError]
    refused: dict[Job, SizeRefusal]
    rates: Rates | None
    pool: WorkerPool
    watch: Watch
    stop: StopRequests
    row: Row = field(default_factory=Row)
