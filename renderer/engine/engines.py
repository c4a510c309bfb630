"""What a worker needs of an engine, and what an engine tells it. Two keep to it: `native.py` and `streaming.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from renderer.catalog import Role
from renderer.engine.calling import Rendering
from renderer.engine.device import Device
from renderer.engine.inputs import Inputs
from renderer.engine.previews import Preview
from renderer.errors import RendererError
from renderer.job import EngineName, Job


class Listener(Protocol):
    """Hears what becomes of the jobs an engine was given, each by its key."""

    def started(self, key: str) -> None: ...

    def stepped(self, key: str, step: int, steps: int) -> None: ...

    def previewed(self, key: str, preview: Preview) -> None: ...

    def rendered(self, key: str, rendering: Rendering) -> None: ...

    def failed(self, key: str, error: RendererError) -> None: ...


class RenderEngine(Protocol):
    """An open model that renders jobs."""

    @property
    def name(self) -> EngineName: ...

    @property
    def device(self) -> Device: ...

    @property
    def formats(self) -> Mapping[Role, str]:
        """The forms that the networks' files were in, where that is not the hub's own."""

    @property
    def capacity(self) -> int:
        """How many jobs it makes use of at once; more wait."""

    @property
    def busy(self) -> bool:
        """Whether there is anything to go on with."""

    def take(self, key: str, job: Job, given: Inputs, previews: int = 0) -> None:
        """Take a job, with the pictures that go in. Nothing is done yet.

        So many `previews` of it are told of on its way, or fewer.
        """

    def give_back(self) -> tuple[str, ...]:
        """Forget the jobs that wait for their turn; their keys. Those that have begun go on."""

    def advance(self, tell: Listener) -> None:
        """Go on with the jobs for a while: a sweep, or a picture.

        Raises `MachineError` where nothing can be rendered with this model any more, and then is of no more use.
        """
