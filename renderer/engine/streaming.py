"""The streaming engine: blocks come to the pictures, in sweeps, and every picture in flight rides each block.

A picture is DiffSynth's own `pipe(...)`, paused wherever a block would run (`riders.py`); guidance's two passes are two
riders. A sweep brings every block of the DiT past once (`slots.py`), computes it for all riders (`blocks.py`), and each
has then done a step. Pictures of different sizes, step counts and prompts ride together; when one is done the next is
admitted. Their bits are those of a call that rides alone. Knows nothing of orders, files or events.
"""

from __future__ import annotations

import gc
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import torch
from diffsynth.pipelines.qwen_image import QwenImagePipeline, QwenImageUnit_PromptEmbedder

from renderer import catalog
from renderer.catalog import Model
from renderer.engine import arithmetic, budget, calling, failures, placement, skeletons, stores
from renderer.engine.budget import Budget
from renderer.engine.calling import Rendering
from renderer.engine.chatter import into_log
from renderer.engine.encoding import ReadyPrompts
from renderer.engine.engines import Tell
from renderer.engine.meter import MemoryMeter, Peaks
from renderer.engine.modulation import Modulations, Ready, timesteps
from renderer.engine.placement import COMPUTATION_DTYPE, Device
from renderer.engine.prompts import Prompts
from renderer.engine.riders import Rider, fork
from renderer.engine.slots import Slots, source_for
from renderer.errors import DeviceLostError, RendererError
from renderer.events import Setup
from renderer.job import EngineName, Job, Sharing, Timing
from renderer.weights.store import Store

LOG = logging.getLogger(__name__)

QUEUE = 32
"""Jobs the engine wants to know of beforehand, so that their prompts are encoded together."""


@dataclass(slots=True)
class Journey:
    """One picture on its way, from its admission to its last pixel."""

    key: str
    job: Job
    adjustments: tuple[str, ...] = ()
    rider: Rider | None = None
    table: torch.Tensor | None = None
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    began_s: float = field(default_factory=time.perf_counter)
    steps_s: list[float] = field(default_factory=list)
    encode_s: float = 0.0
    share_s: float = 0.0
    flying: list[int] = field(default_factory=list)
    streamed_bytes: float = 0.0
    bus: list[float] = field(default_factory=list)
    arithmetic: list[float] = field(default_factory=list)
    peaks: Peaks = field(default_factory=Peaks)
    pixels: bytes = b""
    error: Exception | None = None
    over: bool = False

    @property
    def passes(self) -> int:
        """Riders this picture has in a sweep: two with guidance."""
        return 1 if self.job.cfg_scale == 1.0 else 2

    def ready(self, number: int) -> Ready:
        """Block `number`'s modulation at this picture's present step."""
        assert self.table is not None
        return Ready(self.table[number, 0:1], self.table[number, 1:2])

    def timing(self) -> Timing:
        """Seconds by the wall's clock. The last step's end is the decoding's beginning."""
        ended_s = time.perf_counter()
        steps = [after - before for before, after in zip(self.steps_s, self.steps_s[1:], strict=False)]
        return Timing(
            encode_s=self.encode_s,
            step_median_s=statistics.median(steps),
            denoise_s=self.steps_s[-1] - self.steps_s[0],
            decode_s=ended_s - self.steps_s[-1],
            began_at=self.began_at,
            ended_at=datetime.now(UTC),
        )


class StreamingEngine:
    """One model's packed store, its blocks coming past all pictures in flight."""

    name: ClassVar[EngineName] = "streaming"
    capacity: ClassVar[int] = QUEUE

    def __init__(self, setup: Setup, store: Store, model: Model, device: Device, report: Callable[[str], None]) -> None:
        self.setup = setup
        self.device = device
        self._model = model
        self._memory = MemoryMeter(device)
        report("the networks outside the blocks")
        self._skeleton = skeletons.build(store, device)
        report("the transformer's blocks")
        files = store.blocks("transformer")
        self._source = source_for(files, device)
        self._blocks = arithmetic.choose(self._skeleton.dit_block, files[0].tensors, device)
        self._budget = Budget(self._source.count, self._source.block_bytes, self._skeleton.width, setup, device)
        self._slots = Slots(self._source, self._budget.slots, device)
        self._modulations = Modulations(
            self._skeleton.dit.time_text_embed, stores.modulation_loader(store, device), self._source.count, device
        )
        self._prompts = Prompts(self._skeleton, store, self._pipe([]), device)
        self._waiting: deque[Journey] = deque()
        self._flying: list[Journey] = []

    @classmethod
    def open(cls, setup: Setup, report: Callable[[str], None]) -> StreamingEngine:
        """Open the setup's packed store. Raises `MachineError`, `ModelError`."""
        failure = None
        device = placement.choose_device(setup.profile)
        try:
            store = stores.find(setup, report)
            return cls(setup, store, catalog.find(setup.model), device, report)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is explained
            failure = failures.explain_opening(error, [])
        gc.collect()
        raise failure

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._flying)

    def take(self, key: str, job: Job) -> None:
        self._waiting.append(Journey(key, job))

    def give_back(self) -> tuple[str, ...]:
        """Also what is to begin again for want of memory: it has to begin anyway."""
        keys = tuple(journey.key for journey in self._waiting)
        self._waiting.clear()
        return keys

    @torch.no_grad()  # here, not in the calls: theirs are entered and left in turns
    def advance(self, tell: Tell) -> None:
        """Admit what there is room for, and bring every block past once."""
        with into_log(LOG), self._memory.watch() as peaks:
            self._admit(tell)
            if self._flying:
                self._sweep(tell)
        for journey in self._flying:
            journey.peaks.include(peaks)
        in_flight = len(self._flying)
        over = [journey for journey in self._flying if journey.over]
        self._flying = [journey for journey in self._flying if not journey.over]
        short = [journey for journey in over if journey.error and failures.is_out_of_memory(journey.error)]
        for journey in over:
            if journey not in short:
                self._land(journey, tell)
        if short:
            self._begin_again(short, in_flight, tell)

    # -- beginning --

    def _admit(self, tell: Tell) -> None:
        """Let waiting pictures in, up to what memory allows and the bus needs, and encode all their prompts at once."""
        encode_s: float | None = None
        while self._waiting:
            if not self._budget.admits([journey.job for journey in self._flying], self._waiting[0].job):
                return
            if encode_s is None:
                encode_s = self._prepare(list(self._waiting), tell)
                continue  # some may have been refused
            journey = self._waiting.popleft()
            journey.encode_s = encode_s
            self._start(journey, tell)

    def _prepare(self, journeys: list[Journey], tell: Tell) -> float:
        """Encode the prompts and compute the modulations of all that wait; a job that cannot be is told and dropped.

        Returns a picture's part of the seconds that took.
        """
        began_s = time.perf_counter()
        for journey in journeys:
            try:
                calling.refuse(journey.job, self.setup, self._model)
            except RendererError as error:
                self._waiting.remove(journey)
                tell.failed(journey.key, error)
        fresh = self._prompts.prepare([journey.job for journey in self._waiting])
        fresh += self._modulations.prepare(journey.job for journey in self._waiting)
        return (time.perf_counter() - began_s) / max(1, len(self._waiting)) if fresh else 0.0

    def _start(self, journey: Journey, tell: Tell) -> None:
        tell.started(journey.key)
        journey.began_at, journey.began_s = datetime.now(UTC), time.perf_counter()
        pipe = self._pipe(self._prompts.of(journey.job))
        self._two_riders(pipe, journey)
        calling.check_values_of(pipe)
        schedule = [float(timestep) for timestep in timesteps(journey.job)]

        def watch(moments: torch.Tensor) -> Iterator[torch.Tensor]:
            journey.steps_s.append(time.perf_counter())
            for done, moment in enumerate(moments, start=1):
                journey.table = self._modulations.at(schedule[done - 1])
                yield moment
                journey.steps_s.append(time.perf_counter())
                tell.stepped(journey.key, done, len(moments))
            if self.device == "cuda" and self._slots.moved_bytes:  # where room is short, the decode gets all of it
                torch.cuda.empty_cache()

        def call() -> bytes:
            tiling = {"tiled": True, **budget.TILES} if self._budget.tiled else {}
            image = pipe(**calling.arguments(journey.job), **tiling, progress_bar_cmd=watch)
            return calling.rgb(image, journey.job)

        def ended(result: Any, error: Exception | None) -> None:
            journey.pixels, journey.error, journey.over = result or b"", error, True
            journey.table = None

        journey.rider = Rider(call, ended)
        self._flying.append(journey)
        journey.rider.start()

    def _pipe(self, encoded: Any) -> Any:
        """A pipeline of DiffSynth's for one picture: its own scheduler, everybody's networks."""
        pipe = QwenImagePipeline(device=self.device, torch_dtype=COMPUTATION_DTYPE)
        pipe.dit, pipe.vae = self._skeleton.dit, self._skeleton.vae
        pipe.text_encoder, pipe.tokenizer = self._skeleton.text_encoder, self._skeleton.tokenizer
        pipe.units = [
            ReadyPrompts(encoded) if isinstance(unit, QwenImageUnit_PromptEmbedder) else unit for unit in pipe.units
        ]
        return pipe

    def _two_riders(self, pipe: Any, journey: Journey) -> None:
        """Let guidance's two passes ride side by side; they are put together as DiffSynth does."""

        def guided(  # DiffSynth's signature
            model_fn: Any, cfg_scale: float, shared: Any, positive: Any, negative: Any, **others: Any
        ) -> torch.Tensor:
            if journey.passes == 1:
                alone: torch.Tensor = model_fn(**positive, **shared, **others)
                return alone
            with_prompt, without = fork(
                lambda: model_fn(**positive, **shared, **others), lambda: model_fn(**negative, **shared, **others)
            )
            guided: torch.Tensor = without + cfg_scale * (with_prompt - without)
            return guided

        pipe.cfg_guided_model_fn = guided

    # -- on the way --

    def _sweep(self, tell: Tell) -> None:
        """Bring every block past once, and write each rider's part of it down."""
        del tell
        began_s, moved = time.perf_counter(), self._slots.moved_bytes
        flying = list(self._flying)
        last = self._source.count - 1
        for number, slot in self._slots.sweep():
            block = self._blocks.arrive(number, slot)
            self._ride(block, number, flying, hold=number == last)
        self._account(flying, time.perf_counter() - began_s, self._slots.moved_bytes - moved)

    def _ride(self, block: Any, number: int, flying: list[Journey], *, hold: bool) -> None:
        """Compute a block for everybody who waits for it.

        After the last block a call may wait for the GPU (a new timestep, a finished picture): with `hold`, nobody goes
        on before the block is under way for all.
        """
        held = []
        for journey in flying:
            assert journey.rider is not None
            for rider in list(journey.rider.riding()):
                if rider.halt is None or rider.halt.index != number:
                    continue
                failure, result = None, None
                try:
                    result = block(*rider.halt.args, **{**rider.halt.kwargs, "temb": journey.ready(number)})
                except Exception as error:  # noqa: BLE001  # it is the rider's
                    failure = error.with_traceback(None)
                if failure is not None:
                    rider.fail(failure)
                elif hold:
                    held.append((rider, result))
                else:
                    rider.go_on(result)
        for rider, result in held:
            if rider.halt is not None:
                rider.go_on(result)

    def _account(self, flying: list[Journey], took_s: float, moved: int) -> None:
        work = {
            id(journey): budget.step_flops(self._source.count, self._skeleton.width, journey.job) for journey in flying
        }
        total = sum(work.values())
        for journey in flying:
            part = work[id(journey)] / total
            journey.share_s += took_s * part
            journey.streamed_bytes += moved * part
            journey.flying.append(len(flying))
            journey.bus.append(moved / took_s)
            journey.arithmetic.append(total / took_s)
        if moved and self.device == "cuda":  # on the CPU copies and computing take turns: riders would hide nothing
            self._budget.learn(moved / self._slots.bus_bytes_per_s / took_s, len(flying))

    # -- ending --

    def _land(self, journey: Journey, tell: Tell) -> None:
        """Hand a finished picture on, or say what became of it."""
        if journey.error is None:
            warnings = calling.warn_of(journey.job, self._skeleton.tokenizer)
            tell.rendered(
                journey.key,
                Rendering(
                    rgb=journey.pixels,
                    width=journey.job.width,
                    height=journey.job.height,
                    timing=journey.timing(),
                    memory=journey.peaks.memory(),
                    warnings=warnings,
                    sharing=self._sharing(journey),
                ),
            )
            return
        failure = failures.explain_rendering(journey.error)
        journey.error = journey.rider = None
        if not isinstance(failure, DeviceLostError):
            self._recover()
        tell.failed(journey.key, failure)

    def _begin_again(self, short: list[Journey], in_flight: int, tell: Tell) -> None:
        """Pictures that did not fit are begun again with less; when there is nothing left to give up, they fail."""
        assert short[0].error is not None
        failure = failures.explain_rendering(short[0].error)
        for journey in short:  # here, where no traceback holds what they had
            journey.error = journey.rider = None
        self._recover()
        change = self._make_do_with_less(in_flight)
        for journey in reversed(short):
            if change:
                LOG.warning("%s did not fit; now %s", journey.key, change)
                self._waiting.appendleft(Journey(journey.key, journey.job, (*journey.adjustments, change)))
            else:
                tell.failed(journey.key, failure)

    def _sharing(self, journey: Journey) -> Sharing:
        return Sharing(
            share_s=journey.share_s,
            mean_in_flight=statistics.fmean(journey.flying),
            slots=self._slots.count,
            blocks=self._source.count,
            arithmetic=self._blocks.arithmetic,
            streamed_bytes=round(journey.streamed_bytes),
            bus_bytes_per_s=statistics.fmean(journey.bus),
            flops_per_s=statistics.fmean(journey.arithmetic),
            tiled_decode=self._budget.tiled,
            adjustments=journey.adjustments,
        )

    def _recover(self) -> None:
        """Give back what a failed call left, so that the others go on as before."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _make_do_with_less(self, in_flight: int) -> str:
        """After memory ran out: fewer riders, then fewer slots, then a tiled decode; an empty string at the end."""
        change = self._budget.tighten(in_flight)
        if self._slots.count > self._budget.slots:
            self._slots.close()
            self._blocks.forget()
            del self._slots
            self._recover()
            self._slots = Slots(self._source, self._budget.slots, self.device)
        return change
