"""The night: folders locked, manifests planned, models brought, and then all of them rendered as one.

Unattended: whatever happens to this process, what is on the disk is whole and the next run goes on from it. Imports no
torch, prints nothing, and tells whoever watches (`events`). How pictures are rendered is `rendering`'s business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from renderer.errors import DiskError, LeaseLostError, MachineError, RendererError, ends_the_night
from renderer.job import Job, Weights
from renderer.machine import devices, hardware, rates
from renderer.machine.devices import WorkerDevice
from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files, status
from renderer.outputs.folder import OutputFolder
from renderer.outputs.summary import Ending, Summary, write_summary
from renderer.planning import auto, deployment, mixtures, owner, plan, sharding, space, takes
from renderer.planning.deployment import Deployment
from renderer.planning.plan import Plan
from renderer.planning.selection import Selection
from renderer.planning.space import Disk
from renderer.protocol import Setup
from renderer.supervisor import events, local_worker, provision
from renderer.supervisor.batch import Batch
from renderer.supervisor.busy import LongWork
from renderer.supervisor.events import Watch
from renderer.supervisor.holding import Holding, held_alone
from renderer.supervisor.local_worker import ThisMachine
from renderer.supervisor.mailbox import Mailbox
from renderer.supervisor.night import Night
from renderer.supervisor.pool import WorkerPool
from renderer.supervisor.progress import never_begun, told
from renderer.supervisor.rendering import Batches
from renderer.supervisor.same_bits import SameBits
from renderer.supervisor.settings import Pause, Settings, StopRequests, asked_to_end
from renderer.supervisor.sharing import SharedParts, leases_in
from renderer.weights.needs import Need

Cause = TypeVar("Cause")


def render(manifests: Sequence[Manifest], settings: Settings, watch: Watch, stop: StopRequests) -> list[Summary]:
    """Render what is not done of several manifests, as one, and write each one's `summary.json`, however it ends.

    What goes wrong ends no more than it has to: a picture, a model with its pictures, a manifest, or the night. Raises
    `UsageError` for a picture to choose that no manifest has, `MachineError` when the disk cannot hold the pictures,
    `DiskError` when nothing more can be written; and where nothing at all could be tried, the first error of a manifest
    or a model: `LockedError` when another run holds a folder, `ModelError` or `MachineError` when this machine cannot.
    With `settings.strict` any of these ends the night.
    """
    Selection.of(settings.only).check(manifests)
    with contextlib.ExitStack() as held:
        return _Run(manifests, settings, watch, stop).render(held)


class _EndedEarly(Exception):  # noqa: N818  (no error: somebody asked for it, or the time was up)
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


class _Run:
    """One run over several manifests, and what has become of each so far."""

    def __init__(self, manifests: Sequence[Manifest], settings: Settings, watch: Watch, stop: StopRequests) -> None:
        self._manifests = manifests
        self._settings = settings
        self._watch = watch
        self._stop = stop
        self._held: list[Manifest] = []
        self._summaries: dict[str, Summary] = {}
        self._errors: list[RendererError] = []
        self._of_batches: list[RendererError | None] = []
        self._pause = Pause()

    def render(self, held: contextlib.ExitStack) -> list[Summary]:
        names = [manifest.name for manifest in self._manifests]
        held.enter_context(Mailbox(self._settings.outputs, names, self._stop, self._pause, self._watch))
        try:
            self._lock(held)
            self._render(self._plan())
        except _EndedEarly as early:
            for manifest in self._held:
                self._miss(manifest, early.ending)
        except Exception as error:
            for manifest in self._held:
                self._miss(manifest, "error", told(error))
            raise
        finally:
            self._watch(events.NightEnded(tuple(self._summaries.values())))
        summaries = [self._summaries[manifest.name] for manifest in self._manifests]
        if self._errors and not any(map(_was_tried, summaries)):
            raise self._errors[0]
        return summaries

    # -- before anything is rendered --

    def _lock(self, held: contextlib.ExitStack) -> None:
        for manifest in self._manifests:
            folder = OutputFolder(self._settings.outputs / manifest.name)
            if manifest.is_shared:  # by a lease, when its turn comes
                continue
            with self._goes_on(manifest):
                held.enter_context(folder.locked())
                owner.claim(folder, manifest)
                self._held.append(manifest)
                _end_orphan(folder, self._watch)
                picture_files.sweep(folder)

    def _plan(self) -> list[Plan]:
        batches: list[Plan] = []
        for manifest in self._manifests:
            if manifest.name in self._summaries:
                continue
            with self._goes_on(manifest):
                batch = self._plan_of(manifest)
                takes.check_reader(item.picture for item in batch.chosen if item.sidecar is None)
                if not manifest.is_shared:
                    batch.journal.compact()
                for remark in batch.manifest.remarks:
                    self._watch(events.Remark(remark))
                batches.append(batch)
        return batches

    def _plan_of(self, manifest: Manifest) -> Plan:
        self._settle(manifest)
        return plan.make_plan(
            manifest,
            self._settings.outputs,
            only=self._settings.only,
            force=self._settings.force,
            thorough=True,
            heard=_Checking(manifest.name, self._watch, self._check_time),
        )

    def _settle(self, manifest: Manifest) -> None:
        """Write down the precision of what is meant to be rendered, where the manifest leaves it to this machine."""
        if not manifest.auto:
            return
        here, meant = hardware.look(), Selection.of(self._settings.only)
        chosen = devices.choose(self._settings.gpus, here)
        machine = chosen[0].machine if chosen else here
        auto.settle(manifest, self._settings.outputs, machine, is_meant=meant.may_mean)

    def _check_time(self) -> None:
        """Raise `_EndedEarly` when somebody asks to stop, or the time is up."""
        if ending := asked_to_end(self._settings, self._stop):
            raise _EndedEarly(ending)

    def _render(self, batches: Sequence[Plan]) -> None:
        settings, watch = self._settings, self._watch
        fleet = settings.fleet or ThisMachine(settings.gpus, settings.hire)
        seats = fleet.devices(lambda text: watch(events.Remark(text)), self._check_time)
        same_bits = SameBits(batches, self._agree(batches)) if settings.same_bits else None
        if same_bits is not None:
            seats = same_bits.keep(seats)
        deployments, troubles = self._deployments(batches, seats)
        refused = {job: why for each in deployments.values() for job, why in each.nowhere().items()}
        barred = {*refused, *(job for job in _jobs(batches) if Weights.of(job) in troubles)}
        left = {Weights.of(job) for job in _jobs(batches) if job not in barred}
        needed = {key: each for key, each in deployments.items() if key in left}
        for remark in _mixtures(batches, needed.values(), seats):
            self._watch(events.Remark(remark))
        opened = {key: each.setup for key, each in needed.items()}
        here = {} if fleet.brings_models else opened
        before = _check_room(batches, here.values(), barred, settings, watch)
        self._supply(here, troubles)
        wanted = () if fleet.brings_models else (job for job in _jobs(batches) if job not in barred)
        extra_troubles = self._supply_extras(wanted)
        if before.models_bytes:  # nobody knew to the byte what models would leave
            _check_room(batches, (), barred, settings, watch)
        with WorkerPool(fleet.hire, watch, [device.label for device in seats]) as pool:
            machine = seats[0].machine
            known = rates.cached(machine) if machine.gpu else None
            night = Night(
                settings, deployments, troubles, refused, known, pool, watch, self._stop, extra_troubles,
                pause=self._pause, same_bits=same_bits,
            )  # fmt: skip
            with contextlib.closing(self._turns(batches, night)) as turns:
                for those, holds in turns:
                    rendering = Batches(those, night, self._has_ended, holds)
                    rendering.render()
                    self._of_batches.append(rendering.error)
                    self._sort_all()
        self._errors += [*troubles.values(), *extra_troubles.values()]

    def _turns(self, batches: Sequence[Plan], night: Night) -> Generator[tuple[Sequence[Plan], Holding], None, None]:
        """What is rendered as one: all that is this run's own, then one part after the other of what is shared."""
        parts = [each for each in batches if each.manifest.is_shared]
        own = [each for each in batches if not each.manifest.is_shared]
        if own or not parts:
            yield own, held_alone
        if parts:
            shared = SharedParts(parts, night, self._plan_of)
            yield from (([part], holds) for part, holds in shared.turns())
            missed = {each.manifest.name: never_begun(each.manifest, shared.ending) for each in parts}
            self._summaries = missed | self._summaries | shared.through

    def _agree(self, batches: Sequence[Plan]) -> Callable[[str], str]:
        """What all runs keep to that share manifests with this one: the first of them says it."""
        names = (each.manifest.name for each in batches if each.manifest.is_shared)
        wholes = sorted({sharding.cut_of(name)[0] for name in names})
        leases = leases_in(self._settings.outputs)

        def agree(told: str) -> str:
            for whole in wholes:
                told = leases.agree(f"{whole}.kind", told)
            return told

        return agree

    def _has_ended(self, batch: Batch) -> None:
        self._summaries[batch.name] = batch.summary
        self._of_batches.append(batch.error)

    # -- what goes wrong --

    def _sort_all(self) -> None:
        while self._of_batches:
            if (error := self._of_batches.pop(0)) is not None:
                self._sort(error)

    def _sort(self, error: RendererError) -> None:
        """Raise what ends the night; remember what does not."""
        if isinstance(error, LeaseLostError):
            self._watch(events.Remark(f"{error.message}: what was in flight here is thrown away"))
            return
        if self._settings.strict or ends_the_night(error):
            raise error
        self._errors.append(error)

    @contextlib.contextmanager
    def _goes_on(self, manifest: Manifest) -> Iterator[None]:
        """What goes wrong in here costs this manifest, and no other."""
        try:
            yield
        except RendererError as error:
            self._sort(error)
            self._miss(manifest, "error", told(error))

    def _miss(self, manifest: Manifest, ending: Ending, error: str = "") -> None:
        """A manifest's turn will not come: its summary says why, unless somebody else is writing that folder's."""
        if manifest.name in self._summaries:
            return
        summary = self._summaries[manifest.name] = never_begun(manifest, ending, error)
        if manifest in self._held:
            with contextlib.suppress(DiskError):
                write_summary(OutputFolder(self._settings.outputs / manifest.name), summary)
        self._watch(events.BatchEnded(summary))

    # -- models --

    def _deployments(
        self, batches: Sequence[Plan], seats: Sequence[WorkerDevice]
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


def _was_tried(summary: Summary) -> bool:
    """Whether a run rendered something, or would have if there had been time."""
    return bool(summary.rendered or summary.failed) or summary.ending not in ("complete", "error")


def _jobs(batches: Sequence[Plan]) -> list[Job]:
    """All that is to be rendered."""
    return [item.picture.job for batch in batches for item in batch.may_render()]


def _mixtures(batches: Sequence[Plan], needed: Iterable[Deployment], seats: Sequence[WorkerDevice]) -> Iterator[str]:
    """What is said of pictures in more than one arithmetic, once."""
    told: dict[str, None] = {}
    for each in needed:
        for device in seats:
            if device.number in each.setups:
                told |= dict.fromkeys(mixtures.remarks(batches, [each.setups[device.number]], device.machine))
    yield from told


def _check_room(
    batches: Sequence[Plan], setups: Iterable[Setup], refused: Collection[Job], settings: Settings, watch: Watch
) -> Disk:
    """Hold what will be written against what is free, and warn where it may not be enough.

    Raises `MachineError` where it cannot be: the pictures alone, for models have a bill of their own.
    """
    left = [item for batch in batches for item in batch.to_write() if item.picture.job not in refused]
    found = space.look(batches, left, setups)
    if warning := space.check_room(found, settings.outputs, partly=settings.deadline is not None):
        watch(events.Remark(warning))
    return found
