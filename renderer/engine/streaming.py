"""The streaming engine: blocks come to the pictures, in sweeps, and every picture in flight rides each block.

A picture is DiffSynth's own `pipe(...)`, paused wherever a block would run (`riders.py`); guidance's two passes are two
riders. A sweep brings every block of the DiT past once (`slots.py`), computes it for all riders (`blocks.py`), and each
has then done a step. Pictures of different sizes, step counts and prompts ride together; when one is done the next is
admitted. Their bits are those of a call that rides alone. Knows nothing of orders, files or events.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar

import torch
from diffsynth.pipelines.qwen_image import QwenImagePipeline, QwenImageUnit_PromptEmbedder

from renderer import catalog
from renderer.catalog import Model
from renderer.engine import arithmetic, budget, calling, failures, skeletons, stores
from renderer.engine import device as placement
from renderer.engine.budget import Budget
from renderer.engine.chatter import into_log
from renderer.engine.device import Device
from renderer.engine.encoding import ReadyPrompts
from renderer.engine.engines import Tell
from renderer.engine.journeys import Journey, Sweep
from renderer.engine.meter import MemoryMeter, Span, Stopwatch
from renderer.engine.modulation import Modulations, timesteps
from renderer.engine.prompts import Prompts
from renderer.engine.riders import Halt, Rider, fork, pause
from renderer.engine.slots import Slots, source_for
from renderer.errors import DeviceLostError, OutOfMemoryError, RendererError
from renderer.job import EngineName, Job
from renderer.protocol import Setup
from renderer.weights.store import Store

LOG = logging.getLogger(__name__)

QUEUE = 32
"""Jobs the engine wants to know of beforehand, so that their prompts are encoded together."""

MOST_SIZES = 32
"""Sizes whose rotary frequencies stay on the device: up to 8 MB each."""

DECODED = -1
"""Where a call halts that waits for no block: its picture is decoded, and the next sweep goes first."""


class StreamingEngine:
    """One model's packed store, its blocks coming past all pictures in flight."""

    name: ClassVar[EngineName] = "streaming"
    capacity: ClassVar[int] = QUEUE

    def __init__(self, setup: Setup, store: Store, model: Model, device: Device, report: Callable[[str], None]) -> None:
        self.setup = setup
        self.device = device
        self._dtype = placement.computation_dtype(device)
        self._model = model
        self._memory = MemoryMeter(device)
        report("the networks outside the blocks")
        self._skeleton = skeletons.build(store, device)
        report("the transformer's blocks")
        files = store.blocks("transformer")
        self._source = source_for(files, device)
        self._skeleton.checking.result()
        kind = setup.multiplies_fp8
        self._blocks = arithmetic.choose(
            self._skeleton.dit_block, files[0].tensors, device, fp8=kind, records=self._records
        )
        self._budget = Budget(self._source.count, self._skeleton.width, setup, device, self._blocks.arithmetic)
        self._slots = Slots(self._source, self._budget.slots, device)
        self._modulations = Modulations(self._skeleton.dit.time_text_embed, store.modulations(), device)
        self._prompts = Prompts(self._skeleton, store, self._pipe([]), device)
        self._waiting: deque[Journey] = deque()
        self._flying: list[Journey] = []
        self._decoded: list[Journey] = []
        self._beside = torch.cuda.Stream() if device == "cuda" else None
        self._riders: tuple[str, ...] = ()
        self._ends_s: deque[float] = deque(maxlen=4)

    @classmethod
    def open(cls, setup: Setup, report: Callable[[str], None]) -> StreamingEngine:
        """Open the setup's packed store. Raises `MachineError`, `ModelError`."""
        failure = None
        device = placement.choose_device(setup.profile)
        try:
            store = stores.find(setup, report)
            return cls(setup, store, catalog.find(setup.model), device, report)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is explained
            failure = failures.explain_opening(error)
        gc.collect()
        raise failure

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._flying or self._decoded)

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
                self._sweep()
            else:
                self._develop()
        on_board, in_flight = self._flying + self._decoded, len(self._flying)
        for journey in on_board:
            journey.peaks.include(peaks)
        over = [journey for journey in on_board if journey.over]
        self._flying = [journey for journey in self._flying if not journey.over and not _is_decoded(journey)]
        self._decoded = [journey for journey in on_board if not journey.over and _is_decoded(journey)]
        short = [journey for journey in over if journey.error and failures.is_out_of_memory(journey.error)]
        for journey in over:
            if journey not in short:
                self._land(journey, tell)
        if short:
            self._begin_again(short, in_flight, tell)

    # -- beginning --

    def _admit(self, tell: Tell) -> None:
        """Let waiting pictures in, up to what memory allows and the bus needs."""
        while self._waiting and self._budget.admits([each.job for each in self._flying], self._waiting[0].job):
            if self._is_ready(self._waiting[0]) or self._make_ready(tell):
                self._start(self._waiting.popleft(), tell)

    def _records(self) -> bool:
        """Whether there is room to record the launches of those in flight."""
        return self._budget.records([each.job for each in self._flying])

    def _is_ready(self, journey: Journey) -> bool:
        return self._prompts.has(journey.job) and self._modulations.has(journey.job)

    def _make_ready(self, tell: Tell) -> bool:
        """Encode the prompts and compute the modulations of all that wait, or of the first where all are too much.

        A job that cannot be rendered is told, and dropped. Returns whether the first that waits now can begin.
        """
        for journey in list(self._waiting):
            try:
                calling.refuse(journey.job, self.setup, self._model)
            except RendererError as error:
                self._waiting.remove(journey)
                tell.failed(journey.key, error)
        if not self._waiting:
            return False
        failure = self._prepare(list(self._waiting)) and self._prepare([self._waiting[0]])
        while isinstance(failure, OutOfMemoryError) and (change := self._make_do_with_less(1)):
            LOG.warning("%s could not be prepared; now %s", self._waiting[0].key, change)
            self._waiting[0].adjustments += (change,)
            failure = self._prepare([self._waiting[0]])
        if failure:
            tell.failed(self._waiting.popleft().key, failure)
        return not failure and self._is_ready(self._waiting[0])

    def _prepare(self, journeys: list[Journey]) -> RendererError | None:
        """Encode prompts and compute modulations, and share the seconds out among those they were for.

        Returns what went wrong, after giving back what it had.
        """
        fresh = [journey for journey in journeys if not self._is_ready(journey)]
        jobs = [journey.job for journey in fresh]
        began_s, failure = time.perf_counter(), None
        try:
            self._prompts.prepare(jobs, self._budget.tokens_together([each.job for each in self._flying]))
            self._modulations.prepare(jobs)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is explained
            failure = failures.explain_rendering(error)
        if failure is not None:  # here, where no traceback holds what it had
            if not isinstance(failure, DeviceLostError):
                self._recover()
            return failure
        ready = [journey for journey in fresh if self._is_ready(journey)]
        for journey in ready:
            journey.encode_s = (time.perf_counter() - began_s) / len(ready)
        return None

    def _start(self, journey: Journey, tell: Tell) -> None:
        tell.started(journey.key)
        journey.began_at = datetime.now(UTC)
        pipe = self._pipe(self._prompts.of(journey.job))
        self._two_riders(pipe, journey)
        decoding = Stopwatch(self.device)
        schedule = timesteps(journey.job, self._dtype)

        def watch(moments: torch.Tensor) -> Iterator[torch.Tensor]:
            journey.stepped()
            # On the device already, so that DiffSynth need not bring each there: that would wait for all work so far.
            on_device = moments.to(device=self.device, dtype=self._dtype)
            for done, moment in enumerate(on_device, start=1):
                journey.table = self._modulations.at(schedule[done - 1])
                yield moment
                if done == len(moments):
                    decoding.start()
                journey.stepped()
                tell.stepped(journey.key, done, len(moments))
            if self.device == "cuda" and self._slots.moved_bytes:  # where room is short, the decode gets all of it
                torch.cuda.empty_cache()

        @contextlib.contextmanager
        def developing() -> Iterator[None]:
            decoding.stop()
            pause(Halt(DECODED, (), {}))
            journey.decode_s = decoding.seconds()
            with decoding.span.followed_by(self._beside):
                yield

        def call() -> bytes:
            image = pipe(**calling.arguments(journey.job), progress_bar_cmd=watch)
            return calling.rgb(image, journey.job)

        def ended(result: Any, error: Exception | None) -> None:
            journey.pixels, journey.error, journey.over = result or b"", error, True
            journey.table = None

        calling.check_values_of(pipe, developing)
        journey.rider = Rider(call, ended)
        self._flying.append(journey)
        journey.rider.start()

    def _pipe(self, encoded: Any) -> Any:
        """A pipeline of DiffSynth's for one picture: its own scheduler, everybody's networks."""
        pipe = QwenImagePipeline(device=self.device, torch_dtype=self._dtype)
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

    def _sweep(self) -> None:
        """Bring every block past once, and write each rider's part of it down."""
        began_s, moved = time.perf_counter(), self._slots.moved_bytes
        computing = Span(self.device)
        flying = list(self._flying)
        last = self._source.count - 1
        for number, slot in self._slots.sweep():
            block = self._blocks.arrive(number, slot)
            self._ride(block, number, flying, hold=number == last)
        computing.stop()
        self._account(flying, time.perf_counter() - began_s, self._slots.moved_bytes - moved, computing)

    def _ride(self, block: Any, number: int, flying: list[Journey], *, hold: bool) -> None:
        """Compute a block for everybody who waits for it.

        After the last block a call may wait for the GPU (a new timestep, a picture's last step): with `hold`, nobody
        goes on before the block is under way for all, and what was decoded before becomes pixels meanwhile.
        """
        held: list[tuple[Rider, list[Any]]] = []
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
                    held.append((rider, [result]))
                else:
                    rider.go_on(result)
                result = None
        if hold:
            self._develop()
        while held:
            rider, brought = held.pop(0)
            if rider.halt is not None:
                rider.go_on(brought.pop())  # nothing here holds a last block's result while its picture is decoded

    def _develop(self) -> None:
        """Let decoded values become pixels: work for the host, for which the GPU need not wait."""
        for journey in self._decoded:
            assert journey.rider is not None
            journey.rider.go_on(None)

    def _account(self, flying: list[Journey], took_s: float, moved: int, computing: Span) -> None:
        work = {
            id(journey): budget.step_flops(self._source.count, self._skeleton.width, journey.job) for journey in flying
        }
        total = sum(work.values())
        sweep = Sweep(took_s, moved, total, len(flying), self._slots.copying, computing)
        for journey in flying:
            journey.account(sweep, work[id(journey)] / total)
        if moved and self.device == "cuda":  # on the CPU copies and computing take turns: riders would hide nothing
            self._learn(flying, moved)

    def _learn(self, flying: list[Journey], moved: int) -> None:
        """Tell the budget how long sweeps take that many ride.

        The host runs ahead of the GPU, and only several sweeps of the same riders in a row show the pace.
        """
        riders = tuple(journey.key for journey in flying)
        if riders != self._riders:
            self._riders = riders
            self._ends_s.clear()
        self._ends_s.append(time.perf_counter())
        if len(self._ends_s) == self._ends_s.maxlen:
            took_s = (self._ends_s[-1] - self._ends_s[1]) / (len(self._ends_s) - 2)
            self._budget.learn(moved / self._slots.bus_bytes_per_s / took_s, len(flying))

    # -- ending --

    def _land(self, journey: Journey, tell: Tell) -> None:
        """Hand a finished picture on, or say what became of it."""
        wanted = [each.job for each in (*self._waiting, *self._flying, *self._decoded)]
        self._prompts.forget(wanted)
        self._modulations.forget(wanted)
        if len(self._skeleton.dit.pos_embed.rope_cache) > MOST_SIZES:  # DiffSynth keeps every size's for good
            self._skeleton.dit.pos_embed.rope_cache.clear()
        if journey.error is None:
            warnings = calling.warn_of(journey.job, self._skeleton.tokenizer)
            sharing = journey.sharing(self._slots.count, self._source.count, self._blocks.arithmetic)
            tell.rendered(journey.key, journey.rendering(sharing, warnings))
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

    def _recover(self) -> None:
        """Give back what a failed call left, and what can be had again, so that the others go on as before."""
        self._blocks.forget()
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _make_do_with_less(self, in_flight: int) -> str:
        """After memory ran out: fewer riders, then fewer slots; an empty string at the end."""
        change = self._budget.tighten(in_flight)
        if self._slots.count > self._budget.slots:
            self._slots.close()
            self._blocks.forget()
            del self._slots
            self._recover()
            self._slots = Slots(self._source, self._budget.slots, self.device)
        return change


def _is_decoded(journey: Journey) -> bool:
    """Whether a picture's values are on their way out of the decoder, and wait to become pixels."""
    rider = journey.rider
    return rider is not None and rider.halt is not None and rider.halt.index == DECODED
