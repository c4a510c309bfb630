"""One picture on its way through the streaming engine: how noise becomes a picture, and what is noted of it there.

The way is DiffSynth's own call, which pauses at every block, between its steps, and before its pixels. Knows nothing of
the other pictures, of slots, or of whose turn it is.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import torch

from renderer.engine import calling, failures, pinned
from renderer.engine.adapted import ADAPTED, carry
from renderer.engine.adapters import NOTHING, Adapted
from renderer.engine.calling import DrawnPicture, Rendering
from renderer.engine.controls import is_control
from renderer.engine.device import Device
from renderer.engine.engines import Listener
from renderer.engine.inputs import Inputs
from renderer.engine.meter import Marks, Peaks, Span, Spans
from renderer.engine.previews import Preview, steps_of
from renderer.engine.riders import Halt, Rest, Rider, fork, pause
from renderer.engine.skeletons import Beforehand, FamilyNetworks
from renderer.errors import RendererError
from renderer.job import Job, Sharing, Start, Timing


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep took and did: the host's seconds, bytes copied, operations, pictures in flight, slots.

    `copied` and `computing` are what it took of the device's own time, of which the host runs ahead: its copies, each
    without what it waited for, and all of it.
    """

    took_s: float
    moved_bytes: int
    flops: float
    in_flight: int
    slots: int
    copied: Spans
    computing: Span


@dataclass(frozen=True, slots=True)
class RenderPlace:
    """Where pictures are made: the device, and what its memory keeps for all of them.

    `make_room` gives back what nobody uses, before a decode, and `look` makes a preview (`Previewer.look`). Pixels are
    made on the stream `beside`; None, on the CPU: as ever.
    """

    device: Device
    dtype: torch.dtype
    family: FamilyNetworks
    beforehand: Beforehand
    make_room: Callable[[Job], None]
    look: Callable[..., Preview | None]
    beside: Any


@dataclass(slots=True)
class Journey:
    """One picture, from its admission to its last pixel. Seconds are the wall's, but `share_s`, which is its part.

    What it has to do without is its own, and nobody else's: `prepared` says whether its prompts and modulations may be
    made with others', apart from them, or only while nothing is in flight, at last without slots; with `alone`, nothing
    rides beside it; `slots` is how many there may be while it rides (None: as many as the budget has). Of the
    `previews` that were asked for, those that are made and not told of yet are `shown`.
    """

    key: str
    job: Job
    inputs: Inputs = field(default_factory=dict)
    adjustments: tuple[str, ...] = ()
    prepared: Literal["together", "apart", "alone", "without slots"] = "together"
    alone: bool = False
    slots: int | None = None
    rider: Rider | None = None
    table: torch.Tensor | None = None
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    steps: Marks | None = None
    decoding: Span | None = None
    encode_s: float = 0.0
    decode_s: float = 0.0
    share_s: float = 0.0
    streamed_bytes: float = 0.0
    sweeps: list[Sweep] = field(default_factory=list)
    peaks: Peaks = field(default_factory=Peaks)
    pixels: DrawnPicture | None = None
    error: RendererError | None = None
    over: bool = False
    is_developing: bool = False
    loras: Adapted = NOTHING
    previews: int = 0
    shown_after: frozenset[int] = frozenset()
    shown: list[Preview] = field(default_factory=list)

    @property
    def is_prepared_alone(self) -> bool:
        """Whether nothing may be in flight while it is prepared."""
        return self.prepared in {"alone", "without slots"}

    @property
    def passes(self) -> int:
        """Riders this picture has in a sweep: two with guidance."""
        return 1 if self.job.cfg_scale == 1.0 else 2

    @property
    def is_decoded(self) -> bool:
        """Whether its values are on their way out of the decoder, and wait to become pixels."""
        return self.rider is not None and self.rider.rests

    # -- from noise to a picture --

    def begin(self, pipe: Callable[[], Any], place: RenderPlace, tell: Listener) -> None:
        """Set out, by a pipeline of its own, and go until the first block is needed. Whatever fails is its `error`."""
        self.began_at = datetime.now(UTC)
        self.rider = Rider(lambda: self._call(pipe(), place, tell), self._ended)
        self.rider.start()

    def _call(self, pipe: Any, place: RenderPlace, tell: Listener) -> DrawnPicture:
        """DiffSynth's call for this job; what it drew."""
        self.loras.board()
        pipe.cfg_guided_model_fn = functools.partial(self._foreseen, place.look) if self.previews else self._guided
        calling.check_values_of(pipe, lambda: self._developed(place, tell))
        steps = functools.partial(self._denoise, place=place, tell=tell)
        image = pipe(**place.family.arguments(self.job, self.inputs), progress_bar_cmd=steps)
        return calling.drawn(image, self.job)

    def _denoise(self, moments: torch.Tensor, *, place: RenderPlace, tell: Listener) -> Iterator[torch.Tensor]:
        """DiffSynth's loop over the timesteps: it takes a step for each that it is handed.

        Nothing in it waits for the device: a step is told of when it has been asked for.
        """
        self.steps = Marks(place.device)
        self.steps.note()
        self.shown_after = steps_of(self.previews, len(moments))
        # On the device already, so that DiffSynth need not bring each there: that would wait for all work so far.
        for done, moment in enumerate(pinned.sent(moments.to(place.dtype), place.device), start=1):
            self.table = place.beforehand.at(self.job, done - 1)
            yield moment
            self.steps.note()
            tell.stepped(self.key, done, len(moments))
            self._show(tell)
        self.decoding = Span(place.device)
        place.make_room(self.job)

    def _guided(
        self, model_fn: Any, cfg_scale: float, shared: Any, positive: Any, negative: Any, **others: Any
    ) -> torch.Tensor:
        """One step's prediction. Guidance's two passes ride side by side, and are put together as DiffSynth does.

        The signature is DiffSynth's.
        """

        def predicted(prompt: Any) -> torch.Tensor:
            if self.loras:
                carry(self.loras.outside())
            found: torch.Tensor = model_fn(**prompt, **shared, **others)
            return found

        if self.passes == 1:
            return predicted(positive)
        with_prompt, without = fork(lambda: predicted(positive), lambda: predicted(negative))
        guided: torch.Tensor = without + cfg_scale * (with_prompt - without)
        return guided

    def _foreseen(
        self, look: Callable[..., Preview | None], *given: Any, progress_id: int, **others: Any
    ) -> torch.Tensor:
        """The same, of a picture that somebody watches: what a step foresees is shown.

        What it predicts is not touched. `given` is in DiffSynth's order, as with `_guided`: the third has the latents.
        """
        predicted = self._guided(*given, progress_id=progress_id, **others)
        if progress_id + 1 in self.shown_after:
            preview = look(given[2]["latents"], predicted, others["timestep"], progress_id + 1)
            self.shown += [preview] if preview is not None else []
        return predicted

    def _show(self, tell: Listener) -> None:
        """Tell of previews that the device has come to."""
        while self.shown and self.shown[0].has_come:
            tell.previewed(self.key, self.shown.pop(0))

    @contextlib.contextmanager
    def _developed(self, place: RenderPlace, tell: Listener) -> Iterator[None]:
        """The decode is under way: the next sweep goes first, and within, its values become pixels beside that.

        Layers are decoded together, and become pixels one after the other.
        """
        assert self.decoding is not None
        if not self.is_developing:
            self.is_developing = True
            self.decoding.stop()
            pause(Rest())
            self.decode_s = self.decoding.seconds()
            self._show(tell)
        with self.decoding.followed_by(place.beside):
            yield

    def _ended(self, result: DrawnPicture | None, error: Exception | None) -> None:
        self.pixels, self.over, self.table = result, True, None
        if error is not None:  # explained at once: a traceback would hold what the call had
            self.error = failures.explain_rendering(error)

    # -- what becomes of it besides --

    def give_up(self, error: RendererError) -> None:
        """End it where it is, with that reason."""
        assert self.rider is not None
        self.rider.leave()
        self.table, self.error, self.over = None, error, True

    def again(self, change: str, *, alone: bool, slots: int | None) -> Journey:
        """The same picture from its beginning, without something: `change` says what in its sidecar."""
        adjustments = (*self.adjustments, change)
        return Journey(
            self.key, self.job, self.inputs, adjustments, self.prepared, alone, slots, encode_s=self.encode_s,
            previews=self.previews,
        )  # fmt: skip

    def given(self, family: FamilyNetworks, rider: Rider) -> Mapping[str, Any]:
        """What the block that one of its riders waits for is called with by name, at this picture's present step.

        And what its LoRAs add to that block.
        """
        halt = rider.halt
        assert halt is not None
        if is_control(halt.section):
            return halt.kwargs
        given = family.given(halt, self.table)
        if not self.loras:
            return given
        return {**given, ADAPTED: self.loras.block(halt.section, halt.index)}

    def account(self, sweep: Sweep, part: float) -> None:
        """Note a sweep, and which part of it was this picture's."""
        self.share_s += sweep.took_s * part
        self.streamed_bytes += sweep.moved_bytes * part
        self.sweeps.append(sweep)

    def rendering(self, sharing: Sharing, start: Start, warnings: tuple[str, ...]) -> Rendering:
        """What came of it, after such a start of the worker."""
        assert self.pixels is not None
        return Rendering(
            rgb=self.pixels.rgb,
            layers=self.pixels.layers,
            width=self.job.width,
            height=self.job.height,
            timing=self._timing(start),
            memory=self.peaks.memory(),
            warnings=warnings,
            sharing=sharing,
        )

    def sharing(self, blocks: int, arithmetic: str) -> Sharing:
        """What it shared with the others: slots for some of `blocks`, large products in the format `arithmetic`.

        Waits until its last sweep is over on the device.
        """
        return Sharing(
            share_s=self.share_s,
            mean_in_flight=statistics.fmean(sweep.in_flight for sweep in self.sweeps),
            slots=min(sweep.slots for sweep in self.sweeps),
            blocks=blocks,
            arithmetic=arithmetic,
            streamed_bytes=round(self.streamed_bytes),
            bus_bytes_per_s=_rate((sweep.moved_bytes, sweep.copied) for sweep in self.sweeps),
            flops_per_s=_rate((sweep.flops, sweep.computing) for sweep in self.sweeps),
            adjustments=self.adjustments,
        )

    def _timing(self, start: Start) -> Timing:
        assert self.steps is not None
        steps = self.steps.seconds()
        return Timing(
            start=start,
            encode_s=self.encode_s,
            step_median_s=statistics.median(steps),
            denoise_s=sum(steps),
            decode_s=self.decode_s,
            began_at=self.began_at,
            ended_at=datetime.now(UTC),
        )


def halts(flying: Iterable[Journey]) -> Iterator[Halt]:
    """Where those in flight wait."""
    riders = (rider for journey in flying if journey.rider for rider in journey.rider.riding())
    return (rider.halt for rider in riders if rider.halt is not None)


def _rate(done: Iterable[tuple[float, Span | Spans]]) -> float:
    """How much was done a second, from how much was done in which time; 0 where nothing was."""
    amounts, spans = zip(*done, strict=True)
    total = sum(amounts)
    return float(total / sum(span.seconds() for span in spans)) if total else 0.0
