"""The native engine: picture after picture through DiffSynth's own `pipe(...)`, unchanged.

It is the reference: a picture's bits are those of a bare call. Around the call it counts steps, seconds and bytes, and
looks at what comes out before anyone gets it. Knows nothing of orders, files or other pictures.
"""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch

from renderer import families
from renderer.engine import calling, failures, hotload, schedules
from renderer.engine.adapters import AdapterShelf, its_own
from renderer.engine.calling import DrawnPicture, OnStep, Rendering
from renderer.engine.chatter import into_log
from renderer.engine.controls import WholeControlNets
from renderer.engine.device import computation_dtype
from renderer.engine.engines import Listener
from renderer.engine.inputs import NO_INPUTS, Inputs
from renderer.engine.meter import Clock, MemoryMeter
from renderer.engine.pipeline import OpenPipeline, open_pipeline
from renderer.engine.skeletons import networks_of
from renderer.errors import DeviceLostError, MachineError, RendererError
from renderer.job import EngineName, Job
from renderer.protocol import Setup

LOG = logging.getLogger(__name__)


class NativeEngine:
    """One open pipeline that renders one job at a time."""

    name: ClassVar[EngineName] = "native"
    capacity: ClassVar[int] = 1

    def __init__(self, setup: Setup, opened: OpenPipeline) -> None:
        self.setup = setup
        self.device = opened.device
        self.formats = opened.formats
        self._model = opened.model
        self._pipe = opened.pipe
        self._memory = MemoryMeter(opened.device)
        self._waiting: deque[tuple[str, Job, Inputs]] = deque()
        calling.check_values_of(self._pipe)
        self._network = families.find(opened.model.family).network("transformer")
        (section,) = self._network.sections
        order = [(section, number) for number in range(len(self._pipe.dit.transformer_blocks))]
        self._shelf = AdapterShelf(opened.model, order, opened.device, computation_dtype(opened.device))
        self._networks = networks_of(families.find(opened.model.family))
        self._controls = WholeControlNets(opened.model, self._networks, opened.pipe)

    @classmethod
    def open(cls, setup: Setup, report: Callable[[str], None]) -> NativeEngine:
        """Open the setup's model; `report` hears which part is being loaded. Raises `MachineError`, `ModelError`."""
        return cls(setup, open_pipeline(setup, report))

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def take(self, key: str, job: Job, given: Inputs = NO_INPUTS, previews: int = 0) -> None:  # noqa: ARG002
        """It renders a picture in one call, and shows none on its way."""
        self._waiting.append((key, job, given))

    def give_back(self) -> tuple[str, ...]:
        keys = tuple(key for key, *_ in self._waiting)
        self._waiting.clear()
        return keys

    def advance(self, tell: Listener) -> None:
        """Render the next job whole. Raises `ModelError` for a file that cannot be read: it is no picture's fault."""
        key, job, given = self._waiting.popleft()
        tell.started(key)
        try:
            rendering = self.render(job, lambda step, steps: tell.stepped(key, step, steps), given)
        except MachineError:
            raise
        except RendererError as error:
            tell.failed(key, error)
            return
        tell.rendered(key, rendering)

    def render(self, job: Job, on_step: OnStep, given: Inputs = NO_INPUTS) -> Rendering:
        """Render one job.

        Raises `BadPictureError` when values are not finite or the picture is one flat colour, `OutOfMemoryError` when
        it did not fit, `DeviceLostError` when only a new process helps, `ModelError` when a file of the model cannot be
        read, and `PictureError` for any other reason. After all but `DeviceLostError` and `ModelError` the next picture
        is what it would have been.
        """
        calling.refuse(job, self.setup, self._model)
        clock = Clock(self.device)
        failure = None
        with self._memory.watch() as peaks:
            try:
                found, warnings = self._call(job, given, clock, on_step)
            except BrokenPipeError:  # nobody listens to steps any more
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, it is explained
                failure = failures.explain_rendering(error)
        if failure is not None:  # here, where no traceback holds the failed call's tensors any more
            self._recover(failure)
            raise failure
        return Rendering(
            rgb=found.rgb,
            layers=found.layers,
            width=job.width,
            height=job.height,
            timing=clock.timing(),
            memory=peaks.memory(),
            warnings=warnings,
        )

    def _call(self, job: Job, given: Inputs, clock: Clock, on_step: OnStep) -> tuple[DrawnPicture, tuple[str, ...]]:
        """DiffSynth's call with a job's values: what came of it, and warnings."""

        def watch(timesteps: torch.Tensor) -> Iterator[torch.Tensor]:
            clock.mark()
            for done, timestep in enumerate(timesteps, start=1):
                yield timestep
                clock.mark()
                on_step(done, len(timesteps))

        with into_log(LOG):
            warnings = calling.warn_of(job, self._pipe.tokenizer)
            clock.mark()
            self._shelf.forget([job])
            self._shelf.prepare([job])
            with its_own():
                self._pipe.blockwise_controlnet = self._networks.together(self._controls.prepare(job))
            schedules.follow(self._pipe, job)
            with hotload.wearing(self._pipe, self._shelf.packed(job), self._network):
                image = self._pipe(**calling.arguments(job, given), progress_bar_cmd=watch)
            clock.mark()
        return calling.drawn(image, job), warnings

    def _recover(self, failure: RendererError) -> None:
        """Give back what a failed call left, so that the next one starts like any other."""
        if isinstance(failure, DeviceLostError):
            return
        gc.collect()
        self._pipe.load_models_to_device([])
        if self.device == "cuda":
            torch.cuda.empty_cache()
