"""The night: folders locked, manifests planned, models brought, and then all of them rendered as one.

Unattended: whatever happens to this process, what is on the disk is whole and the next run goes on from it. Imports no
torch, prints nothing, and tells whoever watches (`events`). How pictures are rendered is `rendering`'s business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence

from renderer.errors import DiskError, LeaseLostError, RendererError
from renderer.machine import rates
from renderer.machine.devices import WorkerDevice
from renderer.manifest.manifest import Manifest
from renderer.outputs.folder import OutputFolder
from renderer.outputs.summary import Ending, Summary, write_summary
from renderer.planning.plan import Plan
from renderer.planning.selection import Selection
from renderer.supervisor import events
from renderer.supervisor.batch import Batch
from renderer.supervisor.events import Watch
from renderer.supervisor.joining import Additions, Arrival
from renderer.supervisor.mailbox import Mailbox
from renderer.supervisor.night import Night
from renderer.supervisor.pool import WorkerPool
from renderer.supervisor.preparing import EndedEarly, Preparation, Provided
from renderer.supervisor.progress import never_begun, told
from renderer.supervisor.rendering import Batches
from renderer.supervisor.same_bits import SameBits
from renderer.supervisor.settings import Pause, Settings, StopRequests
from renderer.supervisor.sharing import SharedParts, shared_bits
from renderer.supervisor.speeds import SeatSpeeds
from renderer.system.files import allow_many_open


def render(manifests: Sequence[Manifest], settings: Settings, watch: Watch, stop: StopRequests) -> list[Summary]:
    """Render what is not done of several manifests, as one, and write each one's `summary.json`, however it ends.

    What goes wrong ends no more than it has to: a picture, a model with its pictures, a manifest, or the night. Raises
    `UsageError` for a picture to choose that no manifest has, `MachineError` when no disk can hold the pictures,
    `DiskError` when nothing more can be written on any; and where nothing at all could be tried, the first error of a
    manifest or a model: `LockedError` when another run holds a folder, `ModelError` or `MachineError` when this machine
    cannot.
    With `settings.strict` any of these ends the night.
    """
    Selection.of(settings.only).check(manifests)
    allow_many_open()
    with contextlib.ExitStack() as held:
        return _Run(manifests, settings, watch, stop).render(held)


class _Run:
    """One run over several manifests, and what has become of each so far."""

    def __init__(self, manifests: Sequence[Manifest], settings: Settings, watch: Watch, stop: StopRequests) -> None:
        self._manifests = list(manifests)
        self._settings = settings
        self._watch = watch
        self._stop = stop
        self._held: list[Manifest] = []
        self._summaries: dict[str, Summary] = {}
        self._errors: list[RendererError] = []
        self._of_batches: list[RendererError] = []
        self._pause = Pause()
        shares = "it shares its manifests with others (--share)" if any(each.is_shared for each in manifests) else ""
        self._joining = _Joining(Additions(settings, stop, shares), self._manifests)
        self._preparation = Preparation(settings, watch, stop)

    def render(self, held: contextlib.ExitStack) -> list[Summary]:
        names = [manifest.name for manifest in self._manifests]
        outputs, add = self._settings.outputs, self._joining.additions.ask
        self._joining.box = Mailbox(outputs, names, self._stop, self._pause, self._watch, add)
        held.enter_context(self._joining.box)
        held.callback(self._joining.additions.end)
        held.callback(self._preparation.end)
        try:
            self._lock(held)
            self._render(self._plan())
        except EndedEarly as early:
            for manifest in self._manifests:
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
            if manifest.is_shared:  # by a lease, when its turn comes
                continue
            with self._goes_on(manifest):
                self._preparation.hold(manifest, held)
                self._held.append(manifest)
                self._preparation.tidy(manifest)

    def _plan(self) -> list[Plan]:
        batches: list[Plan] = []
        for manifest in self._manifests:
            if manifest.name in self._summaries:
                continue
            with self._goes_on(manifest):
                batches.append(self._preparation.plan(manifest, self._settings.only))
        return batches

    def _render(self, batches: Sequence[Plan]) -> None:
        settings, watch = self._settings, self._watch
        fleet = self._preparation.fleet
        seats = self._preparation.seats()
        same_bits = SameBits(batches, *shared_bits(batches, settings)) if settings.same_bits else None
        if same_bits is not None:
            seats = same_bits.keep(seats)
        given = self._preparation.provide(batches, seats)
        for plan in batches:
            if (no_room := given.no_room.get(plan.manifest.name)) is not None:
                self._costs(plan.manifest, no_room)
        batches = [plan for plan in batches if plan.manifest.name not in given.no_room]
        with WorkerPool(fleet.hire, watch, [device.label for device in seats]) as pool:
            machine = seats[0].machine
            known = rates.cached(machine) if machine.gpu else None
            night = Night(
                settings, given.deployments, given.troubles, given.refused, known, pool, watch, self._stop,
                given.extra_troubles, pause=self._pause, same_bits=same_bits,
                speeds=SeatSpeeds(seats),
            )  # fmt: skip
            self._joining.begin(seats, given, self._held, batches, same_bits)
            with contextlib.closing(self._turns(batches, night)) as turns:
                for those in turns:
                    is_shared = any(each.manifest.is_shared for each in those)
                    rendering = Batches(those, night, self._has_ended, None if is_shared else self._joining)
                    rendering.render()
                    if isinstance(rendering.error, LeaseLostError):  # how it went, whoever has it says
                        self._summaries.pop(those[0].manifest.name, None)
                    self._sort_all(rendering.error)
        self._errors += [*given.troubles.values(), *given.extra_troubles.values()]

    def _turns(self, batches: Sequence[Plan], night: Night) -> Generator[Sequence[Plan], None, None]:
        """What is rendered as one: all that is this run's own, then one part after the other of what is shared."""
        parts = [each for each in batches if each.manifest.is_shared]
        own = [each for each in batches if not each.manifest.is_shared]
        if own or not parts:
            yield own
        if parts:
            shared = SharedParts(parts, night, self._preparation.plan_of)
            yield from ([part] for part in shared.turns())
            missed = {each.manifest.name: never_begun(each.manifest, shared.ending) for each in parts}
            self._summaries = missed | self._summaries | shared.through

    def _has_ended(self, batch: Batch) -> None:
        self._summaries[batch.name] = batch.summary
        self._joining.left(batch.name)
        if batch.error is not None:
            self._of_batches.append(batch.error)

    # -- what goes wrong --

    def _sort_all(self, ended_by: RendererError | None) -> None:
        """Raise what has ended the night; remember what has cost manifests of it, or one part of a shared one."""
        if isinstance(ended_by, LeaseLostError):
            self._watch(events.Remark(f"{ended_by.message}: what was in flight here is thrown away"))
        elif ended_by is not None and ended_by.ends_the_night:
            raise ended_by
        elif ended_by is not None:
            self._of_batches.append(ended_by)
        while self._of_batches:
            self._remember(self._of_batches.pop(0))

    def _remember(self, error: RendererError) -> None:
        if self._settings.strict:
            raise error
        self._errors.append(error)

    @contextlib.contextmanager
    def _goes_on(self, manifest: Manifest) -> Iterator[None]:
        """What goes wrong in here costs this manifest, and no other."""
        try:
            yield
        except RendererError as error:
            self._costs(manifest, error)

    def _costs(self, manifest: Manifest, error: RendererError) -> None:
        self._remember(error)
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


class _Joining:
    """Manifests that join a run: their folders are let go when they are through. `box` says that they are here."""

    box: Mailbox | None = None

    def __init__(self, additions: Additions, manifests: list[Manifest]) -> None:
        """`manifests` are the run's, and will have those that join besides."""
        self.additions = additions
        self._manifests = manifests
        self._folders: dict[str, contextlib.ExitStack] = {}

    def begin(
        self,
        seats: Sequence[WorkerDevice],
        given: Provided,
        held: Sequence[Manifest],
        plans: Sequence[Plan],
        same_bits: SameBits | None,
    ) -> None:
        """Those that are asked for are prepared from now on; `held` have their folders, `plans` are on their way."""
        self.additions.names.held |= {manifest.name for manifest in held}
        begun = {plan.manifest.name for plan in plans}
        self.additions.names.on_their_way |= begun
        self.additions.names.begun = {each.name: each for each in self._manifests if each.name in begun}
        self.additions.begin(seats, given.deployments, same_bits)

    @property
    def may_come(self) -> bool:
        return self.additions.may_come

    @property
    def waits_in(self) -> str:
        return str(self.additions.folder.path) if self.additions.folder and self.additions.is_waiting else ""

    def take(self, tell: Watch) -> list[Arrival]:
        return self.additions.take(tell)

    def joined(self, arrival: Arrival) -> None:
        manifest = arrival.plan.manifest
        self._folders[manifest.name] = arrival.held
        if all(manifest.name != each.name for each in self._manifests):
            self._manifests.append(manifest)
        if self.box is not None:
            self.box.joined_by(manifest.name)

    def left(self, name: str) -> None:
        """One of the run's manifests is through."""
        if (folder := self._folders.pop(name, None)) is not None:
            folder.close()
        self.additions.names.on_their_way.discard(name)  # from now on it may join once more


def _was_tried(summary: Summary) -> bool:
    """Whether a run rendered something, or would have if there had been time."""
    return bool(summary.rendered or summary.failed) or summary.ending not in ("complete", "error")
