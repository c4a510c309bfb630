"""What renders for a server: shift after shift, each with the weights that are wanted most; a worker only while asked.

Everything of a night is used as it is: dispatcher, pool, outcomes, journal. What is different is the source, which is
filled while it is emptied, and that nothing ends the server but whoever stops it. Runs in the main thread, of which
workers are children. Knows no HTTP.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from renderer.dealing.parties import Fits
from renderer.errors import DiskError, MachineError, RendererError
from renderer.job import Job, Weights
from renderer.machine import devices, hardware, rates
from renderer.machine.devices import WorkerDevice
from renderer.machine.hardware import Machine
from renderer.manifest.expand import usual_job
from renderer.manifest.manifest import Manifest
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal
from renderer.outputs.status import WorkerStatus
from renderer.planning import deployment, fitting
from renderer.planning.deployment import Deployment
from renderer.planning.fitting import SizeRefusal
from renderer.planning.pace import RECENT, Pace
from renderer.planning.plan import Plan, Planned
from renderer.protocol import Setup
from renderer.service.configuration import ServiceSettings
from renderer.service.request_queue import RequestQueue, RequestSource
from renderer.supervisor import events, provision, readings
from renderer.supervisor.dispatcher import Dispatcher
from renderer.supervisor.events import Watch
from renderer.supervisor.groups import Group
from renderer.supervisor.heartbeat import Heartbeat
from renderer.supervisor.local_worker import LocalWorker
from renderer.supervisor.night import Night
from renderer.supervisor.outcomes import Outcomes
from renderer.supervisor.pool import WorkerPool
from renderer.supervisor.settings import StopRequests
from renderer.supervisor.speeds import SeatSpeeds
from renderer.supervisor.together import Together
from renderer.supervisor.worker import Hire, Worker
from renderer.weights import needs

_LOOK_S = 1.0
_MOST_KNOWN = 1024
_MOST_UNREAD = 64
"""So many pictures wait to be read at the most: an OCR may be slower than a GPU."""

_PAUSE_S, _MOST_PAUSE_S, _TICK_S = 5.0, 60.0, 0.1
"""A disk that took nothing is tried again after so long, and each time after twice as long, up to the second."""

_AGAIN_S = 30.0
"""After so long a model that could not be opened is tried again, if somebody asks for it."""


@dataclass(slots=True)
class Condition:
    """How the rendering side is, for others to read: whether a worker is open, and why nothing can be rendered.

    A trouble is over when something opens, or when it is time to try again: whoever sends requests only to servers that
    are well would never find out.
    """

    worker: Literal["none", "opening", "open"] = "none"
    _trouble: str = ""
    _since_s: float = float("-inf")

    @property
    def trouble(self) -> str:
        """What went wrong, as long as nothing is tried again; empty where all is well."""
        return self._trouble if time.monotonic() - self._since_s < _AGAIN_S else ""

    def failed(self, message: str) -> None:
        """Nothing can be rendered, for now."""
        self._trouble, self._since_s = message, time.monotonic()

    def works(self) -> None:
        """Something can."""
        self._trouble = ""


class _JoiningSource(RequestSource):
    """One shift's source, which tells the counts of each picture that is taken for the first time.

    One of which a take lies there already is not given out: it goes on from that, whatever ended before that was read
    or taken again. While much waits to be read, nothing is given out that is to be read too.
    """

    def __init__(
        self, queue: RequestQueue, weights: Weights, idle_s: float, outcomes: Outcomes, opening: Callable[[], bool]
    ) -> None:
        super().__init__(queue, weights, idle_s, opening)
        self._outcomes = outcomes
        self._known: set[str] = set()

    def first(self, fits: Fits[Planned] | None = None) -> Planned | None:
        if len(self._outcomes.readings) < _MOST_UNREAD:
            return super().first(fits)
        return super().first(lambda item: item.picture.lettering is None and (fits is None or fits(item)))

    def take(self, item: Planned) -> bool:
        if not super().take(item):
            return False
        if item.picture.id not in self._known:
            self._outcomes.progress.joins(item)
            if len(self._known) >= _MOST_KNOWN:  # those that are through come no more
                self._known = {key for key in self._known if self._queue.has(key)}
            self._known.add(item.picture.id)
        if item.picture.lettering is None or not self._outcomes.goes_on(item):
            return True
        self._queue.began(item.picture.id)
        return False


@dataclass(frozen=True, slots=True)
class _ForAnyJob(Deployment):
    """A deployment for jobs that nobody knows beforehand: what fits where is asked when they come."""

    devices: tuple[WorkerDevice, ...] = ()
    _known: dict[tuple[int, Job], bool] = field(default_factory=dict)

    def is_choosy(self, number: int) -> bool:  # noqa: ARG002  # any may be
        return len(self.devices) > 1

    def takes(self, number: int, job: Job) -> bool:
        if (known := self._known.get((number, job))) is not None:
            return known
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        machine = next(device.machine for device in self.devices if device.number == number)
        fits = self._known[number, job] = job not in fitting.refusals([job], self.setups[number], machine)
        return fits


class Shifts:
    """Renders what a queue holds, until it is stopped. `watch` hears what happens, in this thread."""

    def __init__(
        self, settings: ServiceSettings, folder: OutputFolder, journal: Journal, queue: RequestQueue, watch: Watch
    ) -> None:
        self._settings = settings
        self._night_settings = settings.rendering
        self._folder = folder
        self._journal = journal
        self._queue = queue
        self._watch = watch
        self._here = hardware.look()
        self._devices = devices.choose(settings.rendering.gpus, self._here)
        first = self._devices[0].machine
        self._rates = rates.cached(first) if first.gpu else None
        self._troubles: dict[Weights, tuple[float, RendererError]] = {}
        self._deployments: dict[Weights, Deployment] = {}
        labels = [device.label for device in self._devices]
        self._speeds = SeatSpeeds(self._devices)
        self._pool = WorkerPool(self._hired(settings.rendering.hire or LocalWorker), self._heard, labels)
        self._pause_s = _PAUSE_S
        self.condition = Condition()

    @property
    def machine(self) -> Machine:
        """This machine as it was before anything was opened."""
        return self._here

    def workers(self) -> list[WorkerStatus]:
        """How each worker is. For any thread."""
        return self._pool.workers()

    def wake(self) -> None:
        """Something has been asked for. For any thread."""
        self._pool.wake()

    def run(self, stop: StopRequests, preload: Weights | None = None) -> None:
        """Render until somebody asks to stop."""
        with self._pool:
            if preload is not None:
                self._shift(preload, stop, preloads=True)
            while not stop.requests:
                weights = self._queue.wait(_LOOK_S)
                if weights is not None:
                    self._shift(weights, stop)
                elif self._pool.is_open and self._queue.is_idle(self._settings.idle_s):
                    self._let_go()  # a shift that had its number ended before that

    # -- one shift --

    def _shift(self, weights: Weights, stop: StopRequests, *, preloads: bool = False) -> None:
        outcomes, night = self._nothing_yet(stop)
        full: DiskError | None = None
        try:
            self._journal.compact()
            outcomes.begin(())
            if (trouble := self._trouble_of(weights, night)) is not None:
                self._refuse(outcomes, weights, trouble)
                return
            with outcomes.bringing, outcomes.writing, outcomes.readings:
                self._render(weights, outcomes, night, preloads=preloads)
            self.condition.works()
        except MachineError as error:  # it does not open: its pictures fail with that reason
            self._pool.dismiss(at_once=True)
            self._remember(weights, error)
            self._refuse(outcomes, weights, error)
        except DiskError as error:  # what is accepted stays so, and is tried again
            full = error
        self._queue.recall()
        if full is not None:
            self._wait_for_disk(full, weights, stop)
        if self._queue.is_over(weights, self._settings.idle_s):
            self._let_go()
        if not self._pool.is_open:
            self.condition.worker = "none"

    def _wait_for_disk(self, error: DiskError, weights: Weights, stop: StopRequests) -> None:
        """Until it may take what is wanted: what is rendered for a full one is thrown away, and workers with it."""
        self.condition.failed(error.message)
        self._watch(events.Remark(error.message))
        until_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _MOST_PAUSE_S)
        while not stop.requests and (time.monotonic() < until_s or not self._has_room(weights)):
            self.condition.failed(error.message)
            time.sleep(_TICK_S)

    def _has_room(self, weights: Weights) -> bool:
        """Whether the smallest picture that waits has room on the disk, however badly it is packed."""
        waiting = [item.picture.job for item in self._queue.waiting_for(weights, _MOST_KNOWN)]
        least = min((3 * job.width * job.height for job in waiting), default=0)
        with contextlib.suppress(OSError):  # one that does not tell is tried
            return hardware.free_disk_bytes(self._folder.path) >= least
        return True

    def _let_go(self) -> None:
        self._pool.dismiss()
        self.condition.worker = "none"

    def _render(self, weights: Weights, outcomes: Outcomes, night: Night, *, preloads: bool) -> None:
        def is_opening() -> bool:  # what is opened for nobody yet is not over before it has begun
            return self._pool.is_opening or (preloads and self.condition.worker == "none")

        source = _JoiningSource(self._queue, weights, self._settings.idle_s, outcomes, is_opening)
        heart = Heartbeat(self._folder, outcomes.progress, self._heard)
        try:
            # For deadlines, which a server has not: what it learns goes with the shift, and is bounded within it.
            pace = Pace((), self._rates, most=RECENT)
            opens, comes_later = night.deployments[weights].setups, partial(outcomes.readings.waits_for, weights)
            group = Group(source, _ForAnyJob(opens, {}, self._devices), comes_later=comes_later)
            together = Together(night.row, night.watch, outcomes.beside, outcomes)
            Dispatcher([group], together, night, pace, heart, _cannot_open).run()
        finally:
            heart.end()
            readings.tidy(self._folder)

    def _nothing_yet(self, stop: StopRequests) -> tuple[Outcomes, Night]:
        """What a shift begins with: its counts at nothing."""
        nothing = Manifest(file=self._folder.queue.name, name=self._settings.name, pictures=())
        plan = Plan(nothing, self._folder, (), self._journal)
        night = Night(self._night_settings, {}, {}, {}, self._rates, self._pool, self._heard, stop, speeds=self._speeds)
        return Outcomes(plan, night.row, self._heard), night

    def _trouble_of(self, weights: Weights, night: Night) -> RendererError | None:
        """Have what is to be opened there; or why that cannot be. Raises `DiskError`."""
        since_s, error = self._troubles.get(weights, (0.0, None))
        if error is not None and time.monotonic() - since_s < _AGAIN_S:
            return error
        try:
            night.deployments[weights] = self._deployment(weights)
            self._supply(night.deployments[weights].setup, night.stop)
        except MachineError as trouble:
            self._remember(weights, trouble)
            return trouble
        return None

    def _remember(self, weights: Weights, error: MachineError) -> None:
        self._troubles[weights] = (time.monotonic(), error)
        self._deployments.pop(weights, None)  # they may be other weights next time
        self.condition.failed(error.message)
        self._watch(events.Remark(error.message))

    def _refuse(self, outcomes: Outcomes, weights: Weights, error: RendererError) -> None:
        for item in self._queue.give_up(weights):
            outcomes.refused(item, error)

    # -- what is opened --

    def _deployment(self, weights: Weights) -> Deployment:
        """What workers open for these weights, whatever pictures come: the memory is shared out for a usual one."""
        if (known := self._deployments.get(weights)) is not None:
            return known
        settings = self._night_settings
        found = deployment.deploy([usual_job(weights)], self._devices, settings.profile, settings.vram_bytes)
        demands = tuple(demand.model_copy(update={"pictures": None}) for demand in found.setup.demands)
        told = {"demands": demands, "offline": settings.terms.offline, "in_flight": self._settings.in_flight}
        made = self._deployments[weights] = found.told(**told)
        return made

    def _supply(self, setup: Setup, stop: StopRequests) -> None:
        terms = self._night_settings.terms

        def tell(need: object, what: object) -> None:
            self._heard(events.Supplying(need, what))  # type: ignore[arg-type]

        provision.obtain(provision.needs_of([setup], terms), terms, tell, lambda: stop.requests > 0)

    def refusal(self, jobs: Iterable[Job]) -> SizeRefusal | None:
        """Why one of these jobs can be rendered on this machine in no way, if so. Raises `MachineError` where none can.

        A LoRA or ControlNet has to be here: a request fetches nothing. For any thread.
        """
        for job in jobs:
            for each in job.extra_networks:
                if not all(map(needs.is_met, provision.needs_of_extra(each.source, self._night_settings.terms))):
                    hint = f"its operator has it with: renderer models pull {each.source}"
                    raise MachineError(f"the server has not fetched {each.name}", hint=hint)
            refusals = self._deployment(Weights.of(job)).of([job], self._devices).nowhere()
            if job in refusals:
                return refusals[job]
        return None

    # -- what is heard --

    def _hired(self, hire: Hire) -> Hire:
        def hired(log: Path) -> Worker:
            if not self._pool.is_open:
                self.condition.worker = "opening"
            return hire(log)

        return hired

    def _heard(self, what: events.Event) -> None:
        match what:
            case events.WorkerOpened():
                self.condition.worker = "open"
                self.condition.works()
            case events.WorkerLost():
                if not self._pool.is_open:
                    self.condition.worker = "none"
            case events.PictureBegan(item=item):
                self._queue.began(item.picture.id)
            case events.PictureDone(item=item) | events.PictureFailed(item=item, again=False):
                self._queue.ended(item.picture.id)
                self._pause_s = _PAUSE_S
        self._watch(what)


def _cannot_open(_group: Group, error: MachineError) -> None:
    raise error
