"""What happens in a run, told to whoever watches: the terminal, a log, a page. Frozen values, and how they are told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from renderer.errors import Problem
from renderer.job import Sidecar
from renderer.outputs.encode import Pixels
from renderer.outputs.status import RunStatus
from renderer.outputs.summary import Summary
from renderer.planning.plan import Plan, Planned
from renderer.protocol import Opened, Setup
from renderer.supervisor import provision
from renderer.weights.needs import Need


@dataclass(frozen=True, slots=True)
class ManifestProblem:
    """A manifest that was named is not rendered, and why; or, as a warning, what was hardly meant in one that is."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class NightBegan:
    """The manifests of these names are rendered as one from now on."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NightEnded:
    """Nothing more is rendered: how it went, a summary a manifest, also for those whose turn did not come."""

    summaries: tuple[Summary, ...]


@dataclass(frozen=True, slots=True)
class BatchBegan:
    """A manifest is on its way; `to_render` of its pictures are not done."""

    plan: Plan
    to_render: int


@dataclass(frozen=True, slots=True)
class Busy:
    """Work that is no rendering takes longer than a second: `done` of `total` pictures of a manifest are through."""

    name: str
    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Serving:
    """A manifest's page is served at `url` while the run is on."""

    url: str


@dataclass(frozen=True, slots=True)
class Supplying:
    """A model is being fetched or packed: what it costs, how it goes, that it is here. None: a hub is asked."""

    need: Need
    what: provision.SupplyEvent | None


@dataclass(frozen=True, slots=True)
class WorkerOpening:
    """A worker is on its way: `what` is being loaded. `setup` is given at its start.

    `where` names its device, here and below, where there are several workers; it is empty for one that is alone.
    """

    setup: Setup | None
    what: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class WorkerOpened:
    """A worker takes orders."""

    opened: Opened
    where: str = ""


@dataclass(frozen=True, slots=True)
class PictureBegan:
    """A picture's turn has come, for the `attempt`-th time."""

    item: Planned
    attempt: int


@dataclass(frozen=True, slots=True)
class PictureStepped:
    """`step` of `steps` denoising steps are done."""

    item: Planned
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class PicturePreviewed:
    """What a picture may look like, foreseen at a step, where that was asked for."""

    item: Planned
    step: int
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class PictureDone:
    """A picture and its sidecar are on the disk."""

    item: Planned
    sidecar: Sidecar


@dataclass(frozen=True, slots=True)
class PictureFailed:
    """A picture failed; `again` says that it will be tried again in this run.

    `kind` is the error's name and `detail` the end of its traceback, where a worker told them. `refused` says that it
    was not tried: it cannot be rendered here.
    """

    item: Planned
    message: str
    hint: str
    again: bool
    kind: str = ""
    detail: str = ""
    refused: bool = False


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker died or was ended, holding these pictures. Another one is started.

    `hint` says what helps, where anything does, and `excerpt` is what the worker printed last.
    """

    reason: str
    items: tuple[Planned, ...]
    hint: str = ""
    excerpt: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Stopping:
    """Somebody asked to stop: `in_flight` pictures have `grace_s` seconds to finish."""

    in_flight: int
    grace_s: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """All that there was is done; manifests that come into a folder are waited for."""

    folder: str


@dataclass(frozen=True, slots=True)
class Pausing:
    """Nothing is begun until somebody says so, or that has been said. `let_go`: the workers have been."""

    paused: bool
    let_go: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """What a plan says of a manifest that is well: the precision that was chosen."""

    text: str


@dataclass(frozen=True, slots=True)
class Remark:
    """Something beside the batch went wrong, and nothing of the batch with it."""

    text: str


@dataclass(frozen=True, slots=True)
class DeviceLeft(Remark):
    """One of several devices is left out, for what it was to open or altogether: no worker is on its way there."""

    where: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes; told several times a second. `status` is how the batch stands, while one is being rendered."""

    status: RunStatus | None = None


@dataclass(frozen=True, slots=True)
class BatchEnded:
    """A manifest is through, for this run. `plan` is how its pictures stand now; None where nobody came to look."""

    summary: Summary
    plan: Plan | None = None


Event = (
    ManifestProblem
    | NightBegan
    | NightEnded
    | BatchBegan
    | Busy
    | Serving
    | Supplying
    | WorkerOpening
    | WorkerOpened
    | PictureBegan
    | PictureStepped
    | PicturePreviewed
    | PictureDone
    | PictureFailed
    | WorkerLost
    | Stopping
    | Pausing
    | Waiting
    | Note
    | Remark
    | Tick
    | BatchEnded
)

Watch = Callable[[Event], None]


class Watchers:
    """Tells several watchers what happens, and itself never fails: whoever watches a run cannot end it.

    One that raises is told nothing more, and the others are told so. As a context, it closes them at its end, the last
    one first. Not for use by several threads.
    """

    def __init__(self) -> None:
        self._watching: dict[str, Watch] = {}
        self._closing: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        while self._closing:
            with contextlib.suppress(Exception):  # what a watcher leaves behind is nobody's business any more
                self._closing.pop()()

    def add(self, name: str, watch: Watch | None = None, close: Callable[[], None] | None = None) -> None:
        """Have one more: what it is, for people, whom to tell, and what to do at the end."""
        if watch is not None:
            self._watching[name] = watch
        if close is not None:
            self._closing.append(close)

    def __call__(self, what: Event) -> None:
        for name, watch in list(self._watching.items()):
            try:
                watch(what)
            except Exception as error:  # noqa: BLE001  # whatever it is, the pictures go on
                del self._watching[name]
                self(Remark(f"{name} failed, and is left out from here on: {type(error).__name__}: {error}"))
