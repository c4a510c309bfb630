"""Manifests that join a night while it is on: read, planned and provided for on a thread, beside the rendering.

Whoever renders asks now and then for what is ready, and hears what was told meanwhile: nothing here tells anybody but
when it is asked. What is wrong with one is answered to whoever asked for it, and costs the night nothing.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from renderer.errors import LockedError, ManifestError, Problem, RendererError, UsageError
from renderer.job import Weights
from renderer.machine.devices import WorkerDevice
from renderer.manifest.manifest import NO_OVERRIDES, Manifest, Overrides, bases_of, is_without_jobs, load
from renderer.outputs.nights import NightAnswer
from renderer.outputs.summary import read_summary
from renderer.planning.deployment import Deployment
from renderer.planning.plan import Plan
from renderer.planning.selection import Selection
from renderer.supervisor import events
from renderer.supervisor.busy import LOOKS_IN, LongWork
from renderer.supervisor.preparing import EndedEarly, Preparation, Provided
from renderer.supervisor.same_bits import SameBits
from renderer.supervisor.settings import Settings, StopRequests
from renderer.supervisor.watched import WatchedFolder

_LOOK_S = 0.5
"""Between two looks into a folder."""

_ENDED = NightAnswer(text="the run has ended meanwhile", error=True)


@dataclass(frozen=True, slots=True)
class AddedManifest:
    """A manifest that is to join; `only` chooses of its pictures, `priority` takes the place of its own.

    `answer` hears what became of it, on any thread. One that was `found` in a folder joins only where something is to
    be done for it.
    """

    path: Path
    overrides: Overrides = NO_OVERRIDES
    only: tuple[str, ...] = ()
    priority: float | None = None
    answer: Callable[[NightAnswer], None] = lambda _: None
    found: bool = False


@dataclass(frozen=True, slots=True)
class Arrival:
    """One that is ready: planned, and provided for. `held` lets its folder go."""

    plan: Plan
    provided: Provided
    held: contextlib.ExitStack
    answer: Callable[[NightAnswer], None]


@dataclass(slots=True)
class _Names:
    """Manifests of the night by name: those on their way, and those whose folders it holds to its end.

    `begun` are those that it began with, until one of their names is found in a folder: as it was, it is no other.
    """

    on_their_way: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    begun: dict[str, Manifest] = field(default_factory=dict)


class Additions:
    """One night's. `names` is for whoever renders to keep up to date."""

    def __init__(self, settings: Settings, stop: StopRequests, refuses: str = "") -> None:
        """`refuses` says why none may join, if so."""
        self._refuses = refuses
        self.folder = WatchedFolder(settings.watch_folder) if settings.watch_folder is not None else None
        self._overrides = settings.overrides
        self._outputs = settings.outputs
        self._told: queue.SimpleQueue[events.Event] = queue.SimpleQueue()
        self._preparation = Preparation(settings, self._told.put, stop)
        self._asked: queue.SimpleQueue[AddedManifest | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._count = threading.Lock()
        self._pending = 0
        self._seats: Sequence[WorkerDevice] = ()
        self._same_bits: SameBits | None = None
        self._known: dict[Weights, Deployment] = {}
        self._thread = threading.Thread(target=self._work, name="additions", daemon=True)
        self._has_ended = False
        self._waits: set[Path] = set()
        self.names = _Names()

    # -- for whoever asks: any thread --

    def ask(self, addition: AddedManifest) -> None:
        """Have a manifest join."""
        if self._refuses:
            text = f"this run takes in no manifests: {self._refuses}"
            addition.answer(NightAnswer(text=text, hint="begin another one with renderer render", error=True))
            return
        with self._count:
            if not self._has_ended:
                self._pending += 1
                self._asked.put(addition)
                return
        addition.answer(_ENDED)

    # -- for whoever renders --

    def begin(
        self, seats: Sequence[WorkerDevice], known: Mapping[Weights, Deployment], same_bits: SameBits | None = None
    ) -> None:
        """Prepare what is asked for from now on; `known` is what is opened for weights, `same_bits` is kept to."""
        self._seats = seats
        self._same_bits = same_bits
        self._preparation.machine = seats[0].machine
        self._known |= known
        self._thread.start()

    @property
    def may_come(self) -> bool:
        """Whether something has been asked for that has not been taken, or refused; or may be found in a folder."""
        return self._pending > 0 or self.folder is not None

    @property
    def is_waiting(self) -> bool:
        """Whether nothing is on its way, and a folder is watched."""
        return self._pending == 0 and self.folder is not None

    def take(self, tell: Callable[[events.Event], None]) -> list[Arrival]:
        """Those that are ready; `tell` hears first what happened while they were prepared."""
        while not self._told.empty():
            if not isinstance(what := self._told.get(), events.Tick):
                tell(what)
        found = []
        while not self._ready.empty():
            found.append(self._ready.get())
            self._has_left()
        return found

    def end(self) -> None:
        """Nothing more joins: whoever waits for an answer has it."""
        with self._count:
            self._has_ended = True
        with contextlib.suppress(queue.Empty):  # the thread takes from it too
            while True:
                if (addition := self._asked.get_nowait()) is not None:
                    addition.answer(_ENDED)
        self._asked.put(None)
        for arrival in self.take(lambda _: None):
            arrival.held.close()
            arrival.answer(_ENDED)

    # -- on the thread --

    def _work(self) -> None:
        while not self._has_ended:
            if self.folder is not None:
                self._look(self.folder)
            with contextlib.suppress(queue.Empty):
                if (addition := self._asked.get(timeout=None if self.folder is None else _LOOK_S)) is None:
                    return
                try:
                    self._take_in(addition)
                except Exception as error:  # noqa: BLE001  # whatever it is, the night goes on
                    self._refuse(addition, NightAnswer(text=f"{type(error).__name__}: {error}", error=True))

    def _take_in(self, addition: AddedManifest) -> None:
        try:
            arrival = self._prepare(addition)
        except EndedEarly:
            self._refuse(addition, _ENDED)
        except RendererError as error:
            self._fails(addition, error)
        else:
            if arrival is None:
                self._has_left()
            else:
                self._is_ready(arrival)

    def _look(self, folder: WatchedFolder) -> None:
        """Have those join that have come into the folder; that it cannot be looked into is told, once."""
        before, found = folder.trouble, folder.look()
        if folder.trouble != before:
            again = f"{folder.path} can be looked into again"
            self._told.put(events.Remark(f"{folder.trouble}; it is waited for" if folder.trouble else again))
        for path in found:
            self.ask(AddedManifest(path, self._overrides, answer=partial(self._is_said, path), found=True))

    def _is_said(self, path: Path, answer: NightAnswer) -> None:
        """What is wrong with a manifest that was found, nobody has asked for: it is told."""
        if answer.error and answer != _ENDED:
            hint = f" ({answer.hint})" if answer.hint else ""
            self._told.put(events.Remark(f"{path.name} is not rendered: {answer.text}{hint}"))

    def _fails(self, addition: AddedManifest, error: RendererError) -> None:
        """One cannot join: its problems are told; of one that was found and may join later, the first time."""
        if addition.found and self.folder is not None and isinstance(error, LockedError | _OnItsWayError):
            self.folder.try_again(addition.path)
            if addition.path in self._waits:
                self._has_left()
                return
            self._waits.add(addition.path)
            if isinstance(error, _OnItsWayError):
                self._has_left()
                return
        if addition.found and isinstance(error, ManifestError):
            if self.folder is not None:
                self.folder.stands_on(addition.path, bases_of(addition.path))
            for problem in error.problems:
                if not is_without_jobs(error.problems):  # it may be there for others to extend
                    self._told.put(events.ManifestProblem(problem))
            self._has_left()
        elif isinstance(error, ManifestError):
            self._refuse(addition, _of_problems(error.problems))
        else:
            self._refuse(addition, NightAnswer(text=error.message, hint=error.hint, error=True))

    def _prepare(self, addition: AddedManifest) -> Arrival | None:
        work = LongWork(self._told.put, addition.path.stem, LOOKS_IN)
        manifest = load(addition.path, replace(addition.overrides, outputs=self._outputs), work.tell)
        if addition.found and self.folder is not None:
            self.folder.stands_on(addition.path, (*manifest.bases, *manifest.tables))
        if addition.priority is not None:
            manifest = replace(manifest, priority=addition.priority)
        Selection.of(addition.only).check([manifest])
        name = manifest.name
        if addition.found and _is_as_before(manifest, self.names.begun.pop(name, None)):
            return None
        if name in self.names.on_their_way:
            raise _OnItsWayError(f"{name} is being rendered by this run", hint="add it once more when it is through")
        with contextlib.ExitStack() as held:
            plan = self._plan(manifest, addition.only, held)
            self._waits.discard(addition.path)
            if addition.found and _is_done(plan):
                return None
            if self._same_bits is not None:
                self._same_bits.check(plan)
            for warning in manifest.warnings if addition.found else ():
                self._told.put(events.ManifestProblem(warning))
            provided = self._preparation.provide([plan], self._seats, self._known)
            self._known |= provided.deployments
            self.names.on_their_way.add(name)
            return Arrival(plan, provided, held.pop_all(), addition.answer)

    def _is_ready(self, arrival: Arrival) -> None:
        with self._count:
            if not self._has_ended:
                self._ready.put(arrival)
                return
        arrival.held.close()
        arrival.answer(_ENDED)

    def _plan(self, manifest: Manifest, only: Sequence[str], held: contextlib.ExitStack) -> Plan:
        if manifest.name in self.names.held:
            self._preparation.claim(manifest)
        else:
            self._preparation.hold(manifest, held)
        self._preparation.tidy(manifest)
        return self._preparation.plan(manifest, only)

    def _refuse(self, addition: AddedManifest, answer: NightAnswer) -> None:
        addition.answer(answer)
        self._has_left()

    def _has_left(self) -> None:
        with self._count:
            self._pending -= 1


class _OnItsWayError(UsageError):
    """A manifest is being rendered by the same run."""


def _is_as_before(manifest: Manifest, before: Manifest | None) -> bool:
    """Whether a manifest is the one that a night began with, of which nothing has been changed since."""
    same_place = {"place": None}
    return before is not None and [one.model_copy(update=same_place) for one in manifest.pictures] == [
        one.model_copy(update=same_place) for one in before.pictures
    ]


def _is_done(plan: Plan) -> bool:
    """Whether nothing is to be done of a manifest, and its last run said so."""
    wanted = [*plan.to_render(), *plan.to_bring(), *plan.to_read(), *plan.twins()]
    return not wanted and read_summary(plan.folder) is not None


def _of_problems(problems: Sequence[Problem]) -> NightAnswer:
    more = f", and {len(problems) - 1} problems more" if len(problems) > 1 else ""
    return NightAnswer(text=f"{problems[0]}{more}", error=True)
