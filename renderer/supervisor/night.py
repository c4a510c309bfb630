"""What all batches of one run share: how it is to behave, what can be opened and what cannot, the workers at hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from renderer.errors import MachineError, RendererError
from renderer.job import Job, Weights
from renderer.machine.rates import Rates
from renderer.outputs.summary import Ending
from renderer.planning.deployment import Deployment
from renderer.planning.fitting import SizeRefusal
from renderer.protocol import AnyEvent, Opened, OpenFailed, Rendered
from renderer.supervisor.events import DeviceLeft, Watch
from renderer.supervisor.pool import Seat, WorkerPool
from renderer.supervisor.preparing import Provided
from renderer.supervisor.progress import FailureRow
from renderer.supervisor.same_bits import SameBits
from renderer.supervisor.settings import Pause, Settings, StopRequests, asked_to_end
from renderer.supervisor.speeds import SeatSpeeds
from renderer.supervisor.worker import Gone


@dataclass(frozen=True, slots=True)
class Night:
    """What all batches of one run share.

    `deployments` say by weights what is opened where, `troubles` why some of those have none, or did not open;
    `refused` are jobs that cannot fit, `extra_troubles` why a LoRA or ControlNet cannot be had, by its source; `rates`
    the machine's, if they are known, `same_bits` what all pictures are to be alike in, if asked; `speeds` the
    seats'; `left_out` why some of several devices were left out, by their labels.
    """

    settings: Settings
    deployments: dict[Weights, Deployment]
    troubles: dict[Weights, RendererError]
    refused: dict[Job, SizeRefusal]
    rates: Rates | None
    pool: WorkerPool
    watch: Watch
    stop: StopRequests
    extra_troubles: dict[str, RendererError] = field(default_factory=dict)
    row: FailureRow = field(default_factory=FailureRow)
    pause: Pause = field(default_factory=Pause)
    same_bits: SameBits | None = None
    speeds: SeatSpeeds = field(default_factory=SeatSpeeds)
    left_out: dict[str, str] = field(default_factory=dict)

    def knows(self, provided: Provided) -> None:
        """What has been found out of manifests that join."""
        self.deployments.update(provided.deployments)
        self.troubles.update(provided.troubles)
        self.refused.update(provided.refused)
        self.extra_troubles.update(provided.extra_troubles)

    def refusal(self, job: Job) -> SizeRefusal | RendererError | None:
        """Why a job cannot be rendered on this machine, if so: it does not fit, or what it is rendered with lacks."""
        known = self.extra_troubles
        lacking = (known[each.source] for each in job.extra_networks if each.source in known)
        return self.troubles.get(Weights.of(job)) or self.refused.get(job) or next(lacking, None)

    def leaves(self, seat: Seat, why: str) -> None:
        """A device is left out, and whoever looks is told so until a picture comes from it."""
        seat.health.trouble = self.left_out[seat.label] = why
        self.watch(DeviceLeft(f"{seat.label} is left out: {why}", seat.label))

    def judged(self, event: AnyEvent | Gone) -> AnyEvent | Gone:
        """What a worker says; that it cannot be had where it is ready, and its pictures would have other bits."""
        if isinstance(event, Opened) and self.same_bits is not None and (why := self.same_bits.differs(event)):
            return OpenFailed(message=why.message, hint=why.hint)
        return event

    def other_bits(self, event: Rendered, weights: Weights) -> MachineError | None:
        """Why a picture has other bits than are wanted, if so."""
        return self.same_bits.differs(event, weights) if self.same_bits is not None else None

    def asked_to_end(self) -> Ending | None:
        """Why no work of any kind is to begin, if so."""
        return asked_to_end(self.settings, self.stop)

    @property
    def has_failed_enough(self) -> bool:
        """Whether so many pictures have failed in a row that no other is to begin."""
        return self.row.failures >= self.settings.max_failures
