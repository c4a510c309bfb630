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
from pathlib import Path

from renderer.errors import ManifestError, Problem, RendererError, UsageError
from renderer.job import Weights
from renderer.machine.devices import WorkerDevice
from renderer.manifest.manifest import NO_OVERRIDES, Manifest, Overrides, load
from renderer.outputs.nights import Answer
from renderer.planning.deployment import Deployment
from renderer.planning.plan import Plan
from renderer.planning.selection import Selection
from renderer.supervisor import events
from renderer.supervisor.preparing import EndedEarly, Preparation, Provided
from renderer.supervisor.settings import Settings, StopRequests

_ENDED = Answer(text="the run has ended meanwhile", error=True)


@dataclass(frozen=True, slots=True)
class Addition:
    """A manifest that is to join; `only` chooses of its pictures, `priority` takes the place of its own.

    `answer` hears what became of it, on any thread.
    """

    path: Path
    overrides: Overrides = NO_OVERRIDES
    only: tuple[str, ...] = ()
    priority: float | None = None
    answer: Callable[[Answer], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Arrival:
    """One that is ready: planned, and provided for. `held` lets its folder go."""

    plan: Plan
    provided: Provided
    held: contextlib.ExitStack
    answer: Callable[[Answer], None]


@dataclass(slots=True)
class _Names:
    """Manifests of the night by name: those on their way, and those whose folders it holds to its end."""

    on_their_way: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)


class Additions:
    """One night's. `names` is for whoever renders to keep up to date."""

    def __init__(self, settings: Settings, stop: StopRequests, refuses: str = "") -> None:
        """`refuses` says why none may join, if so."""
        self._refuses = refuses
        self._settings = settings
        self._told: queue.SimpleQueue[events.Event] = queue.SimpleQueue()
        self._preparation = Preparation(settings, self._told.put, stop)
        self._asked: queue.SimpleQueue[Addition | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._count = threading.Lock()
        self._pending = 0
        self._seats: Sequence[WorkerDevice] = ()
        self._known: dict[Weights, Deployment] = {}
        self._thread = threading.Thread(target=self._work, name="additions", daemon=True)
        self._has_ended = False
        self.names = _Names()

    # -- for whoever asks: any thread --

    def ask(self, addition: Addition) -> None:
        """Have a manifest join."""
        if self._refuses:
            text = f"this run takes in no manifests: {self._refuses}"
            addition.answer(Answer(text=text, hint="begin another one with renderer render", error=True))
            return
        with self._count:
            if not self._has_ended:
                self._pending += 1
                self._asked.put(addition)
                return
        addition.answer(_ENDED)

    # -- for whoever renders --

    def begin(self, seats: Sequence[WorkerDevice], known: Mapping[Weights, Deployment]) -> None:
        """Prepare what is asked for from now on; `known` is what is opened for weights."""
        self._seats = seats
        self._preparation.machine = seats[0].machine
        self._known |= known
        self._thread.start()

    @property
    def may_come(self) -> bool:
        """Whether something has been asked for that has not been taken, or refused."""
        return self._pending > 0

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
        while not self._asked.empty():
            if (addition := self._asked.get()) is not None:
                addition.answer(_ENDED)
        self._asked.put(None)
        for arrival in self.take(lambda _: None):
            arrival.held.close()
            arrival.answer(_ENDED)

    # -- on the thread --

    def _work(self) -> None:
        while not self._has_ended:
            if (addition := self._asked.get()) is None:
                return
            try:
                arrival = self._prepare(addition)
            except EndedEarly:
                self._refuse(addition, _ENDED)
            except ManifestError as error:
                self._refuse(addition, _of_problems(error.problems))
            except RendererError as error:
                self._refuse(addition, Answer(text=error.message, hint=error.hint, error=True))
            except Exception as error:  # noqa: BLE001  # whatever it is, the night goes on
                self._refuse(addition, Answer(text=f"{type(error).__name__}: {error}", error=True))
            else:
                self._is_ready(arrival)

    def _prepare(self, addition: Addition) -> Arrival:
        manifest = load(addition.path, addition.overrides)
        if addition.priority is not None:
            manifest = replace(manifest, priority=addition.priority)
        Selection.of(addition.only).check([manifest])
        name = manifest.name
        if name in self.names.on_their_way:
            raise UsageError(f"{name} is being rendered by this run", hint="add it once more when it is through")
        with contextlib.ExitStack() as held:
            plan = self._plan(manifest, addition.only, held)
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
        if manifest.name not in self.names.held:
            self._preparation.hold(manifest, held)
        self._preparation.tidy(manifest)
        return self._preparation.plan(manifest, only)

    def _refuse(self, addition: Addition, answer: Answer) -> None:
        addition.answer(answer)
        self._has_left()

    def _has_left(self) -> None:
        with self._count:
            self._pending -= 1


def _of_problems(problems: Sequence[Problem]) -> Answer:
    more = f", and {len(problems) - 1} problems more" if len(problems) > 1 else ""
    return Answer(text=f"{problems[0]}{more}", error=True)
