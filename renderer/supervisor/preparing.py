"""What has to be there before pictures can be rendered: folders locked, manifests planned, their models brought.

The same for manifests that a night begins with, and for those that join it. Starts no worker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from renderer.errors import MachineError, RendererError
from renderer.job import BlockArithmetic, Job, Weights
from renderer.machine.devices import WorkerDevice
from renderer.machine.hardware import Machine
from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files, status
from renderer.outputs.folder import OutputFolder
from renderer.outputs.summary import Ending
from renderer.planning import auto, deployment, mixtures, owner, plan, precision_choice, sharding, space, takes
from renderer.planning.deployment import Deployment
from renderer.planning.fitting import SizeRefusal
from renderer.planning.plan import Plan
from renderer.planning.selection import Selection
from renderer.protocol import Setup
from renderer.supervisor import events, local_worker, provision
from renderer.supervisor.busy import LongWork
from renderer.supervisor.events import Watch
from renderer.supervisor.local_worker import ThisMachine
from renderer.supervisor.settings import Settings, StopRequests, asked_to_end
from renderer.system.folders import disk_of
from renderer.weights.needs import Need

Cause = TypeVar("Cause")

NOTHING_KNOWN: Mapping[Weights, Deployment] = MappingProxyType({})


class EndedEarly(Exception):  # noqa: N818  (no error: somebody asked for it, or the time was up)
    """The run ends before anything is rendered."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending)
        self.ending: Ending = ending


class _Checking:
    """Says how far one manifest's pictures and models are checked, and ends that when somebody asks for it."""

    def __init__(self, name: str, watch: Watch, check_time: Callable[[], None]) -> None:
        self._pictures = LongWork(watch, name, "checking the pictures that are there")
        self._models = LongWork(watch, name, "reading a model's files, MB")
        self._check_time = check_time

    def looked(self, done: int, total: int) -> None:
        if done < total:  # else it is through, and what follows sees for itself
            self._check_time()
            self._pictures.tell(done, total)

    def read(self, done: int, total: int) -> None:
        self._check_time()
        self._models.tell(done // 10**6, total // 10**6)


@dataclass(frozen=True, slots=True)
class Provided:
    """What is opened for the pictures of plans, by weights; why some have nothing; jobs that cannot fit.

    `extra_troubles` say why a LoRA or ControlNet cannot be had, by its source; `no_room` why the disk of some manifests
    cannot hold their pictures, by their names, where others have another disk.
    """

    deployments: dict[Weights, Deployment]
    troubles: dict[Weights, RendererError]
    refused: dict[Job, SizeRefusal]
    extra_troubles: dict[str, RendererError]
    no_room: dict[str, RendererError] = field(default_factory=dict)


class Preparation:
    """Prepares manifests for one run, and tells `watch` what takes long. `fleet` is where its workers are.

    `machine` is the first device's as it was before anything was opened, where that has been looked at.
    """

    machine: Machine | None = None

    def __init__(self, settings: Settings, watch: Watch, stop: StopRequests) -> None:
        self._settings = settings
        self._watch = watch
        self._stop = stop
        self._here = ThisMachine(settings.gpus, settings.hire)
        self.fleet = settings.fleet or self._here
        self._seats: Sequence[WorkerDevice] = ()

    def seats(self) -> Sequence[WorkerDevice]:
        """The devices that render. A cluster is asked once; this machine each time, for what is free there changes."""
        if not self._seats or not self.fleet.brings_models:
            self._seats = self.fleet.devices(lambda text: self._watch(events.Remark(text)), self.check_time)
        return self._seats

    def end(self) -> None:
        """Nothing is rendered any more: others may have this machine's GPUs."""
        self._here.close()

    def check_time(self) -> None:
        """Raise `EndedEarly` when somebody asks to stop, or the time is up."""
        if ending := asked_to_end(self._settings, self._stop):
            raise EndedEarly(ending)

    # -- folders --

    def hold(self, manifest: Manifest, held: contextlib.ExitStack) -> None:
        """Lock a manifest's folder, and take it for it. Raises `LockedError`, `UsageError`, `DiskError`."""
        folder = OutputFolder(self._settings.outputs / manifest.name)
        held.enter_context(folder.locked())
        self.claim(manifest)

    def claim(self, manifest: Manifest) -> None:
        """Take a folder that is held for a manifest. Raises `UsageError` where it is another's, `DiskError`."""
        owner.claim(OutputFolder(self._settings.outputs / manifest.name), manifest)

    def tidy(self, manifest: Manifest) -> None:
        """Remove what a dead run has left in a folder that is held: its worker, files that it had not written whole."""
        folder = OutputFolder(self._settings.outputs / manifest.name)
        _end_orphan(folder, self._watch)
        picture_files.sweep(folder)

    def plan(self, manifest: Manifest, only: Sequence[str]) -> Plan:
        """What is done of it and what is to do; `only` chooses. Raises as `make_plan`, and what a reader lacks."""
        found = self.plan_of(manifest, only)
        takes.check_reader(item.picture for item in found.chosen if item.sidecar is None)
        if not manifest.is_shared:
            found.journal.compact()
        for remark in found.manifest.remarks:
            self._watch(events.Note(remark))
        return found

    def plan_of(self, manifest: Manifest, only: Sequence[str] | None = None) -> Plan:
        """What is done of it and what is to do; of those that the run's settings choose, or `only`."""
        only = self._settings.only if only is None else only
        if manifest.is_part:
            manifest = sharding.left_of(manifest, self._settings.outputs)
        machine = self._settle(manifest, only)
        return plan.make_plan(
            manifest,
            self._settings.outputs,
            only=only,
            force=self._settings.force,
            thorough=True,
            heard=_Checking(manifest.name, self._watch, self.check_time),
            machine=machine,
        )

    def _settle(self, manifest: Manifest, only: Sequence[str]) -> Machine | None:
        """Write down the precision of what is meant to be rendered, where the manifest leaves it to the machine.

        That is the one that renders; None where nothing is left to it.
        """
        if not manifest.auto:
            return None
        machine = self.machine or self.seats()[0].machine
        auto.settle(manifest, self._settings.outputs, machine, is_meant=Selection.of(only).may_mean)
        return machine

    # -- models --

    def provide(
        self,
        batches: Sequence[Plan],
        seats: Sequence[WorkerDevice],
        known: Mapping[Weights, Deployment] = NOTHING_KNOWN,
    ) -> Provided:
        """Know what is opened for the pictures of plans, and have it brought, and see whether their disks have room.

        What is `known` to be opened for some weights stays what is opened. Raises `MachineError` where no disk has.
        """
        settings, watch = self._settings, self._watch
        deployments, troubles = self._deployments(batches, seats, known)
        refused = {job: why for each in deployments.values() for job, why in each.nowhere().items()}
        barred = {*refused, *(job for job in _jobs(batches) if Weights.of(job) in troubles)}
        left = {Weights.of(job) for job in _jobs(batches) if job not in barred}
        needed = {key: each for key, each in deployments.items() if key in left}
        for remark in _remarks(batches, needed.values(), seats):
            self._watch(events.Remark(remark))
        opened = {key: each.setup for key, each in needed.items()}
        here = {} if self.fleet.brings_models else opened
        models_bytes, no_room = _check_room(batches, here.values(), barred, settings, watch)
        self._supply(here, troubles)
        wanted = () if self.fleet.brings_models else (job for job in _jobs(batches) if job not in barred)
        extra_troubles = self._supply_extras(wanted)
        if models_bytes:  # nobody knew to the byte what models would leave
            those = [plan for plan in batches if plan.manifest.name not in no_room]
            no_room |= _check_room(those, (), barred, settings, watch)[1]
        return Provided(deployments, troubles, refused, extra_troubles, no_room)

    def _deployments(
        self, batches: Sequence[Plan], seats: Sequence[WorkerDevice], known: Mapping[Weights, Deployment]
    ) -> tuple[dict[Weights, Deployment], dict[Weights, RendererError]]:
        """What has to be opened for each model and precision, or why it cannot be: known before anything is opened."""
        jobs: dict[Weights, list[Job]] = {}
        for job in _jobs(batches):
            jobs.setdefault(Weights.of(job), []).append(job)
        settings = self._settings
        found: dict[Weights, Deployment] = {}
        troubles: dict[Weights, RendererError] = {}
        for key, members in jobs.items():
            with self._noted(troubles, key):
                if key in known:
                    found[key] = known[key].joined_by(members, seats)
                    continue
                each = deployment.deploy(members, seats, settings.profile, settings.vram_bytes)
                found[key] = each.told(offline=settings.terms.offline)
        return found, troubles

    def _supply(self, needed: Mapping[Weights, Setup], troubles: dict[Weights, RendererError]) -> None:
        """Fetch the models that are missing; one that cannot be had is a trouble of its pictures.

        Asked to stop, or out of time, it leaves; so will every batch at once.
        """
        for key, setup in needed.items():
            with self._noted(troubles, key):
                self._obtain(provision.needs_of([setup], self._settings.terms))

    def _supply_extras(self, jobs: Iterable[Job]) -> dict[str, RendererError]:
        """Fetch the LoRAs and ControlNets that are missing; why one cannot be had is a trouble of its pictures."""
        troubles: dict[str, RendererError] = {}
        for source in dict.fromkeys(each.source for job in jobs for each in job.extra_networks):
            with self._noted(troubles, source):
                self._obtain(provision.needs_of_extra(source, self._settings.terms))
        return troubles

    @contextlib.contextmanager
    def _noted(self, troubles: dict[Cause, RendererError], cause: Cause) -> Iterator[None]:
        """What cannot be had in here is written down; with `--strict` it ends the night."""
        try:
            yield
        except MachineError as error:
            if self._settings.strict:
                raise
            troubles[cause] = error

    def _obtain(self, needs: Sequence[Need]) -> None:
        settings = self._settings

        def stopped() -> bool:
            self._watch(events.Tick())
            return asked_to_end(settings, self._stop) is not None

        def tell(need: Need, what: provision.SupplyEvent | None) -> None:
            self._watch(events.Supplying(need, what))

        provision.obtain(needs, settings.terms, tell, stopped)


def _end_orphan(folder: OutputFolder, watch: Watch) -> None:
    """Have the worker of a dead run gone before anybody asks how much memory is free. Call it with the lock held."""
    left = status.left_behind(folder)
    for pid in local_worker.end_orphans(left) if left is not None else ():
        watch(events.Remark(f"the worker of an earlier run, process {pid}, does not go, and holds memory"))


def _jobs(batches: Sequence[Plan]) -> list[Job]:
    """All that is to be rendered."""
    return [item.picture.job for batch in batches for item in batch.may_render()]


def _remarks(batches: Sequence[Plan], needed: Iterable[Deployment], seats: Sequence[WorkerDevice]) -> Iterator[str]:
    """What is said of pictures in more than one arithmetic, and of cards that another precision suits better, once."""
    told: dict[str, None] = {}
    asked: set[tuple[Weights, BlockArithmetic]] = set()
    for each in needed:
        for device in seats:
            if device.number not in each.setups:
                continue
            setup = each.setups[device.number]
            kind = setup.weights, mixtures.expected(setup, device.machine)
            if kind not in asked:  # of a thousand that are alike, one is asked
                asked.add(kind)
                told |= dict.fromkeys(mixtures.remarks(batches, [setup], device.machine))
                told |= dict.fromkeys(filter(None, [precision_choice.told(setup, device.machine)]))
    yield from told


def _check_room(
    batches: Sequence[Plan], setups: Collection[Setup], refused: Collection[Job], settings: Settings, watch: Watch
) -> tuple[int, dict[str, RendererError]]:
    """Hold what will be written on each disk against what is free there, and warn where it may not be enough.

    What models take, and why some manifests have no room, by their names: of the pictures alone, for models have a bill
    of their own. Raises `MachineError` where none has, and with `--strict` where one has not.
    """
    usual, models_bytes = disk_of(settings.outputs), 0
    no_room: dict[str, RendererError] = {}
    left = [item for batch in batches for item in batch.to_write() if item.picture.job not in refused]
    for those, found in space.look_at_each(batches, left, list(setups)) if batches else ():
        models_bytes += found.models_bytes
        first = those[0].folder.path
        place = settings.outputs if disk_of(first) == usual else first
        try:
            warning = space.check_room(found, place, partly=settings.left_s is not None)
        except MachineError as error:
            no_room |= {batch.manifest.name: error for batch in those}
            if settings.strict or len(no_room) == len(batches):
                raise
            continue
        if warning:
            watch(events.Remark(warning))
    return models_bytes, no_room
