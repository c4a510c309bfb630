"""The streaming engine: blocks come to the pictures, in sweeps, and every picture in flight rides each block.

A picture is DiffSynth's own `pipe(...)`, paused wherever a block would run (`riders.py`); guidance's two passes are two
riders. A sweep brings every block of the DiT past once (`slots.py`), computes it for all riders (`blocks.py`), and each
has then done a step. Pictures of different sizes, step counts and prompts ride together; when one is done the next is
admitted. The rows of small ones go through a block as one. Their bits are those of a call that rides alone. This is who
admits, sweeps and lands; what a picture goes through is in `journeys.py`. Knows nothing of orders, files or events.

Where memory runs out, the picture that wanted it begins again: alone, then with fewer slots, until it has landed or
there is nothing left to give up. Where that happens between the pictures (a block arrives, slots are made), the sweep
breaks off: the youngest begins again, and the others go on from the block that they wait for.
"""

from __future__ import annotations

import gc
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch

from renderer import catalog
from renderer.catalog import Model
from renderer.engine import beginning, budget, calling, failures, live, skeletons
from renderer.engine import device as placement
from renderer.engine.adapters import AdapterShelf
from renderer.engine.beginning import Beginning
from renderer.engine.budget import Recovery
from renderer.engine.calling import Rendering
from renderer.engine.chatter import into_log
from renderer.engine.engines import Listener
from renderer.engine.inputs import NO_INPUTS, Inputs
from renderer.engine.journeys import Journey, RenderPlace, Sweep, halts
from renderer.engine.meter import MemoryMeter, Shown, Span
from renderer.engine.previews import Previewer
from renderer.engine.prompts import Prompts
from renderer.engine.riders import Rider
from renderer.engine.sections import Passing, ride
from renderer.engine.slots import Slots
from renderer.errors import DeviceLostError, MachineError, OutOfMemoryError, RendererError
from renderer.estimate import host, shape_of
from renderer.job import EngineName, Job
from renderer.protocol import Setup

LOG = logging.getLogger(__name__)


class StreamingEngine:
    """One model's packed store, its blocks coming past all pictures in flight."""

    name: ClassVar[EngineName] = "streaming"
    capacity: ClassVar[int] = host.AT_HAND  # known of beforehand, so that their prompts are encoded together

    def __init__(self, setup: Setup, begun: Beginning, model: Model, report: Callable[[str], None]) -> None:
        self.setup, self.device, self._source, self._starting = setup, begun.device, begun.source, begun.starting
        store, device, self.formats = begun.store, begun.device, begun.store.formats
        self._model = model
        self._memory = MemoryMeter(device)
        report("the networks outside the blocks")
        self._family = skeletons.networks_of(store.family)
        self._skeleton = self._family.build(store, device)
        self._starting.lap("networks")
        report("the transformer's blocks")
        self._passage = live.passage(self._skeleton, self._family, store, setup, device, self._records)
        assert self._passage.files == list(self._source.files)
        self._starting.lap("kernels")
        self._skeleton.checking.result()
        self._shape = replace(shape_of(model), layers=self._source.count)
        self._budget = budget.here(
            self._source, self._shape, setup, device, self._passage.arithmetic, shares=self._passage.shares
        )
        self._slots = Slots(self._source, self._budget.slots, device)
        self._budget.brought(self._slots.bus_bytes_per_s)
        self._starting.lap("slots")
        self._in_step, self._recovery = True, Recovery()
        self._most_rows, self._apart = 0, Recovery(forgiven=0)
        dtype, beside = placement.computation_dtype(device), torch.cuda.Stream() if device == "cuda" else None
        self._shelf = AdapterShelf(model, live.order(self._skeleton, store), device, dtype, self._budget, self._family)
        self._beforehand = self._family.beforehand(self._skeleton, store, device, self._shelf)
        self._prompts = Prompts(self._skeleton, store, self._family, device)
        self._needed = self._prompts, self._shelf, self._beforehand
        self._waiting: deque[Journey] = deque()
        self._flying: list[Journey] = []
        self._decoded: list[Journey] = []
        look = Previewer(self._skeleton.parts.get("vae"), device).look
        self._place = RenderPlace(device, dtype, self._family, self._beforehand, self._make_room, look, beside)

    @classmethod
    def open(cls, setup: Setup, report: Callable[[str], None], begun: Beginning | None = None) -> StreamingEngine:
        """Open the setup's packed store, if it has not `begun`. Raises `MachineError`, `ModelError`."""
        failure = None
        try:
            return cls(setup, begun or beginning.begin(setup, report), catalog.find(setup.model), report)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is explained
            failure = failures.explain_opening(error)
        gc.collect()
        raise failure

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._flying or self._decoded)

    def take(self, key: str, job: Job, given: Inputs = NO_INPUTS, previews: int = 0) -> None:
        self._waiting.append(Journey(key, job, given, previews=previews))

    def give_back(self) -> tuple[str, ...]:
        """Also what is to begin again for want of memory: it has to begin anyway."""
        keys = tuple(journey.key for journey in self._waiting)
        self._waiting.clear()
        return keys

    @torch.no_grad()  # here, not in the calls: theirs are entered and left in turns
    def advance(self, tell: Listener) -> None:
        """Admit what there is room for, and bring every block past once.

        Raises `MachineError` where nothing can be rendered with this model any more: a file of its store is damaged.
        """
        with into_log(LOG), self._memory.watch() as peaks:
            self._admit(tell)
            together = [journey.job for journey in self._flying]
            if self._flying:
                self._sweep()
            else:
                self._make_pixels()
        on_board = self._flying + self._decoded
        for journey in on_board:
            journey.peaks.include(peaks)
        over = [journey for journey in on_board if journey.over]
        self._flying = [journey for journey in self._flying if not journey.over and not journey.is_decoded]
        self._decoded = [journey for journey in on_board if not journey.over and journey.is_decoded]
        short = [journey for journey in over if isinstance(journey.error, OutOfMemoryError)]
        for journey in over:
            if journey not in short:
                self._land(journey, tell)
        if short:
            self._budget.too_many(together)
            self._begin_again(short, tell, in_company=len(on_board) > 1)

    # -- beginning --

    def _admit(self, tell: Listener) -> None:
        """Let waiting pictures in, up to what memory allows and the bus needs."""
        while self._waiting and self._may_begin(self._waiting[0]):
            if self._is_ready(self._waiting[0]) or (self._make_ready(tell) and self._may_begin(self._waiting[0])):
                self._start(self._waiting.popleft(), tell)

    def _may_begin(self, journey: Journey) -> bool:
        """Whether a picture may be prepared and ride beside those on board."""
        on_board = self._flying + self._decoded
        if journey.alone or (journey.is_prepared_alone and not self._is_ready(journey)):
            return not on_board
        if any(each.alone for each in on_board):
            return False
        return self._shelf.admits([each.job for each in self._flying], journey.job)

    def _records(self) -> bool:
        """Whether there is room to record the launches of those in flight."""
        return self._budget.records([each.job for each in self._flying])

    def _is_ready(self, journey: Journey) -> bool:
        return all(each.has(journey.job) for each in self._needed)

    def _make_ready(self, tell: Listener) -> bool:
        """Encode the prompts and compute the modulations of all that wait; whether the first can begin now.

        Where that fails for all together, each is prepared apart from the others, once. One that memory does not
        suffice for even so waits until all in flight have landed, and is tried alone, at last without any slots, which
        the next sweep makes anew: nobody else pays for it. A job that cannot be rendered is told, and dropped.
        """
        self._refuse(tell)
        first = self._waiting[0] if self._waiting else None
        if first is None or self._is_ready(first):
            return first is not None
        together = [first]
        if first.prepared == "together":
            together = [each for each in self._waiting if each.prepared == "together" and not self._is_ready(each)]
        failure = self._prepare(together)
        if failure is None:
            return True
        if len(together) > 1 and not isinstance(failure, DeviceLostError):
            LOG.warning("%d pictures could not be prepared together: now each apart", len(together))
            for each in together:
                each.prepared = "apart"
        elif isinstance(failure, OutOfMemoryError) and (self._flying or self._decoded):
            LOG.warning("%s could not be prepared: now when nothing is in flight", first.key)
            first.prepared = "alone"
            first.adjustments += ("prepared alone",)
        elif isinstance(failure, OutOfMemoryError) and first.prepared != "without slots":
            LOG.warning("%s could not be prepared: now without slots", first.key)
            self._give_up_slots()
            first.prepared = "without slots"
            first.adjustments += ("prepared without slots",)
        else:
            tell.failed(self._waiting.popleft().key, failure)
        return False

    def _refuse(self, tell: Listener) -> None:
        """Drop those of the waiting that this engine does not render."""
        for journey in list(self._waiting):
            try:
                calling.refuse(journey.job, self.setup, self._model)
            except RendererError as error:
                self._waiting.remove(journey)
                tell.failed(journey.key, error)

    def _prepare(self, fresh: list[Journey]) -> RendererError | None:
        """Encode prompts and compute modulations, and share the seconds out among those they were for.

        Returns what went wrong, after giving back what it had. Raises `MachineError` for a file that cannot be read:
        it is no picture's fault.
        """
        jobs, began_s, failure = [journey.job for journey in fresh], time.perf_counter(), None
        self._starting.lap()
        try:
            tokens = self._budget.tokens_together([each.job for each in self._flying])
            self._prompts.prepare(jobs, tokens, [each.inputs for each in fresh])
            self._starting.lap("prompts")
            self._shelf.prepare(jobs)
            self._beforehand.prepare(jobs)
            self._starting.lap("modulations")
        except Exception as error:  # noqa: BLE001  # whatever it is, it is explained
            failure = failures.explain_rendering(error)
        if isinstance(failure, MachineError):
            raise failure
        if failure is not None:  # here, where no traceback holds what it had
            if not isinstance(failure, DeviceLostError):
                self._recover()
            return failure
        ready = [journey for journey in fresh if self._is_ready(journey)]
        for journey in ready:
            journey.encode_s = (time.perf_counter() - began_s) / len(ready)
        return None

    def _start(self, journey: Journey, tell: Listener) -> None:
        tell.started(journey.key)
        self._flying.append(journey)
        job, encoded, journey.loras = journey.job, self._prompts.of(journey.job), self._shelf.of(journey.job)
        nets = journey.loras.networks
        journey.begin(lambda: self._family.pipeline(self._skeleton, encoded, self.device, job, nets), self._place, tell)

    def _make_room(self, job: Job) -> None:
        """Where room is short, a decode gets all of it. That waits for the device."""
        if self.device == "cuda" and self._slots.moved_bytes and not self._budget.has_room_to_decode(job):
            torch.cuda.empty_cache()

    # -- on the way --

    def _sweep(self) -> None:
        """Bring every block past once. What fails between the pictures costs the youngest its place, and no other."""
        failure = None
        try:
            self._have_slots()
            self._bring_past()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is explained
            failure = failures.explain_rendering(error)
        if failure is None:
            self._recovery.passed()
            self._apart.passed()
            self._budget.passed()
            return
        if isinstance(failure, MachineError):
            raise failure
        self._in_step = False  # the next sweep lets each ride on from the block that it waits for
        waiting = [journey for journey in self._flying if not journey.over and not journey.is_decoded]
        LOG.warning("a sweep broke off: %s", failure.message)
        if waiting:
            waiting[-1].give_up(failure)

    def _have_slots(self) -> None:
        """As many slots as those in flight may have: what one picture gave up comes back when it has landed.

        Raises what torch raises where there is no room for the fewest.
        """
        most = min((each.slots for each in self._flying if each.slots), default=self._budget.slots)
        enough = range(1 if not self._recovery.due else most, most + 1)
        if self._in_step and self._slots.count in enough:
            return
        self._give_up_slots()
        self._slots = budget.as_many(self._source, most, self.device, self._recover)
        self._budget.brought(self._slots.bus_bytes_per_s)
        if self._slots.count < most:
            LOG.warning("there is no room for %d slots; now %d", most, self._slots.count)
            self._recovery.gave_up()
        self._in_step = True

    def _give_up_slots(self) -> None:
        """Have none until the next sweep."""
        self._slots.close()
        self._shelf.close()
        self._in_step = False
        self._recover()

    def _bring_past(self) -> None:
        """Bring every block past once, and write each rider's part of it down."""
        flying = list(self._flying)
        self._shelf.begin([journey.job for journey in flying if not journey.over])
        began_s, moved, computing = time.perf_counter(), self._slots.moved_bytes, Span(self.device)
        self._most_rows = self._budget.rows_together([each.job for each in flying]) if self._apart.due else 0
        for passing in self._passage.bring_past(self._slots):
            self._shelf.arrive()
            self._ride(passing, flying)
            while beside := self._shelf.beside(passing, halts(flying)):  # some wait for several, each in its own order
                for each in beside:
                    self._ride(each, flying)
        self._shelf.end()
        computing.stop()
        self._starting.swept(computing)
        self._account(flying, time.perf_counter() - began_s, self._slots.moved_bytes - moved, computing)

    def _ride(self, passing: Passing, flying: list[Journey]) -> None:
        """Compute a block for everybody who waits for it.

        After the last block a call may wait for the GPU (a new timestep, a picture's last step): nobody goes on before
        that one is under way for all, and what was decoded before becomes pixels meanwhile.
        """
        held: list[tuple[Rider, list[Any]]] | None = [] if passing.last else None
        on_board = {rider: journey for journey in flying if journey.rider for rider in journey.rider.riding()}
        if not ride(passing, on_board, lambda rider: on_board[rider].given(self._family, rider), held, self._most_rows):
            self._most_rows = 0
            self._apart.gave_up()
        if held is None:
            return
        self._make_pixels()
        while held:
            rider, brought = held.pop(0)
            if rider.halt is not None:
                rider.go_on(brought.pop())  # nothing here holds a last block's result while its picture is decoded

    def _make_pixels(self) -> None:
        """Let decoded values become pixels: work for the host, for which the GPU need not wait."""
        for journey in self._decoded:
            if journey.rider is not None and journey.rider.rests:
                journey.rider.go_on(None)

    def _account(self, flying: list[Journey], took_s: float, moved: int, computing: Span) -> None:
        work = {id(journey): budget.step_flops(self._shape, journey.job) for journey in flying}
        total = sum(work.values())
        sweep = Sweep(took_s, moved, total, len(flying), self._slots.count, self._slots.copied, computing)
        for journey in flying:
            journey.account(sweep, work[id(journey)] / total)
        shown = Shown(computing, self._slots.computed, self._slots.copied, moved)
        self._budget.swept([journey.job for journey in flying], self._slots.count, shown)

    # -- ending --

    def _land(self, journey: Journey, tell: Listener) -> None:
        """Hand a finished picture on, or say what became of it."""
        wanted = [each.job for each in (*self._waiting, *self._flying, *self._decoded)]
        for each in self._needed:
            each.forget(wanted)
        self._skeleton.tidy()
        rendering, failure = None, journey.error
        try:
            rendering = None if failure else self._rendering(journey)
        except Exception as error:  # noqa: BLE001  # a device may be lost where a picture's last work is waited for
            failure = failures.explain_rendering(error)
        if rendering is not None:
            tell.rendered(journey.key, rendering)
            return
        assert failure is not None
        journey.rider = None
        if not isinstance(failure, DeviceLostError):
            self._recover()
        tell.failed(journey.key, failure)

    def _rendering(self, journey: Journey) -> Rendering:
        warnings = calling.warn_of(journey.job, self._skeleton.tokenizer)
        sharing, start = journey.sharing(self._source.count, self._passage.arithmetic), self._source.took_s
        return journey.rendering(sharing, self._starting.told(start), warnings)

    def _begin_again(self, short: list[Journey], tell: Listener, *, in_company: bool) -> None:
        """Pictures that did not fit begin again: alone, then with fewer slots; then they fail."""
        for journey in short:
            journey.rider = None
        self._recover()
        for journey in reversed(short):
            slots = budget.fewer(self._slots.count)
            if in_company and not journey.alone:
                change, fewer = "alone", None
            elif slots < self._slots.count:
                change, fewer = f"{slots} slots", slots
            else:
                assert journey.error is not None
                tell.failed(journey.key, journey.error)
                continue
            if fewer and journey.slots is None:  # the first that it gives up
                self._recovery.gave_up()
            LOG.warning("%s did not fit; now %s", journey.key, change)
            self._waiting.appendleft(journey.again(change, alone=True, slots=fewer))

    def _recover(self) -> None:
        """Give back what a failed call left, and what can be had again, so that the others go on as before."""
        self._passage.forget()
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
