"""A block's launches, recorded once a slot and size, and played since: CUDA graphs for pictures that are small.

A block of a small picture is computed faster than its twenty kernels are launched one by one, so that the GPU waits for
the host. Recorded, they are one launch. What is recorded reads and writes one place in memory; a rider's tensors are
brought there and its results taken from there, by the same stream, so that all riders and sizes share it. Riders that
go together are recorded together. Their bits are those of the block called plainly: the same kernels on the same
numbers.

Recordings take room, and are made where there is some. Where memory runs out, in a recording or beside it, all of them
are let go and the block is called plainly: a picture fails for want of memory only where it would without recordings.
Knows nothing of pictures or turns of slots.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from renderer.engine import failures
from renderer.engine.adapted import ADAPTED
from renderer.engine.blocks import Blocks, is_rare, size_of
from renderer.engine.modulation import ReadyModulation
from renderer.engine.side_by_side import Arranged, Arrangement, Sizes, Streams
from renderer.estimate.companies import MOST_RECORDED_TOGETHER, is_small
from renderer.estimate.memory import FILLED_UP_ROWS
from renderer.job import BlockArithmetic

LOG = logging.getLogger(__name__)

SETTLED = 3
"""Sweeps in which the same riders went together before that is recorded: others come and go with every picture."""

LONGEST_PAUSE = 64
"""Sweeps that pass plainly, at most, before recording is tried again after memory ran out."""


class Recorder(Protocol):
    """Records launches, to be played any number of times."""

    def record(self, launch: Callable[[], None], pool: Any) -> Callable[[], None]:
        """What `launch` launches, without running it; its memory comes from `pool`, and stays there."""

    def pool(self) -> Any:
        """Room for recordings that are never played at the same time; once the last of them is gone, take another.

        torch 2.11 records in no pool again whose last recording has died, also where that one failed.
        """

    def wait(self) -> None:
        """Until nothing is played any more."""

    def clear(self) -> None:
        """Give back memory that nobody uses, elsewhere than in a pool: a recording cannot take it."""


class CudaRecorder:
    """Records CUDA graphs on a stream of its own, on which nothing ever runs but a first product."""

    def __init__(self) -> None:
        self._stream: Any = None
        self._broken: list[Any] = []

    def record(self, launch: Callable[[], None], pool: Any) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._own()), _nothing_collected(), self._capturing(graph, pool):
            launch()
        replay: Callable[[], None] = graph.replay
        return replay

    @contextlib.contextmanager
    def _capturing(self, graph: Any, pool: Any) -> Iterator[None]:
        """Capture what is launched within. However it ends, nothing of torch takes itself to be capturing after it."""
        whole = False
        try:
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")  # other threads wait for copies meanwhile
            try:
                yield
            except Exception:
                with contextlib.suppress(Exception):  # of which there would be only one more to tell
                    graph.capture_end()
                    whole = True
                raise
            graph.capture_end()
            whole = True
        finally:
            if not whole:
                self._broken.append(graph)  # torch's allocator of pinned memory may go on asking it
                _leave(graph, pool)

    def pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def wait(self) -> None:
        torch.cuda.synchronize()

    def clear(self) -> None:
        torch.cuda.empty_cache()

    def _own(self) -> Any:
        """The stream, which already has its cuBLAS workspace: it would stay in a recording's pool for good."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
            with torch.cuda.stream(self._stream):
                small = torch.zeros((16, 16), dtype=torch.bfloat16, device="cuda")
                torch.mm(small, small)
            self._stream.synchronize()
        return self._stream


def _leave(graph: Any, pool: Any) -> None:
    """Do what torch leaves undone where CUDA ends no capture, or begins none: it gives up at that call.

    The allocator would take itself to be capturing for as long as the process lives, and never give memory back. torch
    2.15 ends that itself when the graph is reset, and is asked first: it would end it again when the graph dies. The
    pool is not recorded in again: torch 2.11's allocator of pinned memory stays in it, and has no door to be told.

    The random generator would refuse to draw anything outside a capture. What does so is its state, which is replaced
    by a copy: the seed and place in the sequence are the same.
    """
    device = torch.cuda.current_device()
    with contextlib.suppress(Exception):
        graph.reset()
    with contextlib.suppress(Exception):  # torch has done it, if it came so far, and will let go of the pool too
        torch.cuda.memory._cuda_endAllocateToPool(device, pool)  # noqa: SLF001  # it has no public name
        torch.cuda.memory._cuda_releasePool(device, pool)  # noqa: SLF001
    with contextlib.suppress(Exception):
        generator = torch.cuda.default_generators[device]
        generator.graphsafe_set_state(generator.clone_state())


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """It may be pinned memory, and letting go of that is no call to be made while launches are recorded."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@dataclass(slots=True)
class _Form:
    """Sizes that go together: where their tensors are while a recording plays, and the recordings, by block.

    What is `arranged` for them is read by every one of these.
    """

    arranged: Arranged
    rows: torch.Tensor
    turns: torch.Tensor
    vectors: torch.Tensor
    used: bool = True
    plays: dict[int, tuple[Any, Callable[[], None]]] = field(default_factory=dict)


class RecordedBlocks:
    """Blocks that are recorded where that makes them faster, and called plainly elsewhere."""

    def __init__(self, blocks: Blocks, recorder: Recorder, wanted: Callable[[], bool] = lambda: True) -> None:
        """`wanted` is asked at the beginning of each sweep whether there is room."""
        self._blocks = blocks
        self._recorder = recorder
        self._wanted = wanted
        self._works, self._on = True, True
        self._failures = self._pause = 0
        self._place: _Place | None = None
        self._met: set[Sizes] = set()
        self._company: dict[Sizes, int] = {}
        self._went: set[Sizes] = set()
        self._forms: dict[Sizes, _Form] = {}
        self._pools: dict[int, Any] = {}

    @property
    def arithmetic(self) -> BlockArithmetic:
        return self._blocks.arithmetic

    @property
    def shares(self) -> bool:
        """Whether riders go together."""
        return bool(getattr(self._blocks, "shares", False))

    def arrive(self, number: int, slot: torch.Tensor) -> RecordedBlock:
        """As the blocks' own; with the first, what the sweep before did not use is let go."""
        if number == 0:
            self._on = self._may_record()
            self._settle()
        return RecordedBlock(self._blocks.arrive(number, slot), self.call, shares=self.shares)

    def forget(self) -> None:
        self._let_go()
        self._blocks.forget()

    def _may_record(self) -> bool:
        """Whether this sweep's launches are recorded, or what was is played: with room, and no failure shortly before.

        After memory ran out n times in a row, 2^n - 2 sweeps pass: the next one has what was given back, but where that
        is not enough, most of the time nothing has changed.
        """
        if self._on and self._forms:  # a sweep went well
            self._failures = 0
        if not self._works or not self._wanted():
            return False
        self._pause = max(0, self._pause - 1)
        return self._pause == 0

    def call(self, block: Any, riders: Sequence[Mapping[str, Any]]) -> list[Streams]:
        """What a block gives its riders: one, or those that go together."""
        sizes = tuple(map(size_of, riders))
        rare = any(is_rare(inputs) or inputs.get(ADAPTED) for inputs in riders)  # LoRAs come and go with their sweeps
        small = is_small(sizes) and not rare
        recorded = self._on and small and self._is_known(sizes)
        holds = self._place is not None
        try:
            return self._play(block, sizes, riders) if recorded else _plainly(block, riders)
        except _UnrecordedError as error:
            failure: Exception = error.failure
        except Exception as error:
            if not (recorded or holds) or not failures.is_out_of_memory(error):
                raise
            failure = error.with_traceback(None)
        self._give_up(failure)  # here, where no traceback holds what the failed call had
        return _plainly(block, riders)

    def _is_known(self, sizes: Sizes) -> bool:
        """Whether these may be recorded by now, which they are met again for.

        What runs for the first time loads kernels, which may not be recorded. A company has to have stayed together.
        """
        if len(sizes) > 1:
            self._went.add(sizes)
            return self._company.get(sizes, 0) >= SETTLED
        known = sizes in self._met
        self._met.add(sizes)
        return known

    def _play(self, block: Any, sizes: Sizes, riders: Sequence[Mapping[str, Any]]) -> list[Streams]:
        """Bring riders past a block by its recording, which is made first where there is none yet.

        Raises `_UnrecordedError` where it cannot be made, and whatever a full GPU raises.
        """
        one = riders[0]
        if self._place is None:
            self._place = _Place(one["image"], one["image_rotary_emb"][0])
        form = self._forms.get(sizes)
        if form is None:
            form = self._forms[sizes] = self._place.form(block, sizes)
        form.used = True
        if id(block) not in form.plays:
            form.plays[id(block)] = block, self._record(block, form)
        return self._place.play(form, form.plays[id(block)][1], riders)

    def _record(self, block: Any, form: _Form) -> Callable[[], None]:
        assert self._place is not None
        tokens = form.arranged.order.images
        pool = self._pools.get(tokens) or self._pools.setdefault(tokens, self._recorder.pool())
        try:
            return self._recorder.record(self._place.launch(block, form), pool)
        except Exception as error:  # noqa: BLE001  # whatever it is, blocks can be called plainly
            raise _UnrecordedError(error.with_traceback(None)) from None

    def _give_up(self, failure: Exception) -> None:
        """Let go of all recordings, and of all their room and pools: for some sweeps, or for good.

        For good where it was not for want of memory: whatever it was would come again.
        """
        self._on = False
        self._let_go()
        if failures.is_out_of_memory(failure):
            self._failures += 1
            self._pause = min(LONGEST_PAUSE, 2**self._failures - 1)
            self._recorder.clear()
        else:
            self._works = False
            LOG.warning("blocks' launches cannot be recorded here (%s): small pictures take longer", failure)

    def _settle(self) -> None:
        """Let go of forms that the last sweep had no rider of, and of room that no form is left in."""
        self._company = {sizes: self._company.get(sizes, 0) + 1 for sizes in self._went}
        self._went = set()
        if not self._on:
            self._let_go()
            return
        stale = [key for key, form in self._forms.items() if not form.used]
        if stale:
            self._recorder.wait()
        for key in stale:
            del self._forms[key]
        for form in self._forms.values():
            form.used = False
        left = {form.arranged.order.images for form in self._forms.values()}
        for tokens in self._pools.keys() - left:
            del self._pools[tokens]
        if not self._forms:
            self._let_go()

    def _let_go(self) -> None:
        """Of all recordings, and of all their room."""
        if self._place is None:
            return
        self._recorder.wait()
        self._forms.clear()
        self._pools.clear()
        self._place = None


class _UnrecordedError(Exception):
    """A recording could not be made."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(str(failure))
        self.failure = failure


class _Place:
    """Where every recording finds its riders' tensors and leaves its results."""

    def __init__(self, image: torch.Tensor, turns: torch.Tensor) -> None:
        """With room for the most rows of tensors like these."""
        self._rows = image.new_empty((MOST_RECORDED_TOGETHER + FILLED_UP_ROWS, image.shape[2]))
        self._turns = turns.new_empty((MOST_RECORDED_TOGETHER, turns.shape[1]))

    def form(self, block: Any, sizes: Sizes) -> _Form:
        arrange = getattr(block, "arrange", None)
        arranged = arrange(sizes, self._rows.device) if arrange else Arranged(Arrangement(sizes))
        vectors = self._rows.new_empty((2 * len(sizes), 6 * self._rows.shape[1]))
        order = arranged.order
        return _Form(arranged, self._rows[: order.rows], self._turns[: order.texts + order.images], vectors)

    def launch(self, block: Any, form: _Form) -> Callable[[], None]:
        """What is recorded: the block, from this place to this place."""
        order = form.arranged.order
        turns = zip(*_turns_apart(form), strict=True)
        riders = [
            {
                "image": image,
                "text": text,
                "temb": ReadyModulation(form.vectors[2 * number : 2 * number + 2]),
                "image_rotary_emb": both,
            }
            for number, ((text, image), both) in enumerate(zip(order.apart(form.rows), turns, strict=True))
        ]

        def launch() -> None:
            order.together(_plainly(block, riders), out=form.rows)

        return launch

    def play(self, form: _Form, replay: Callable[[], None], riders: Sequence[Mapping[str, Any]]) -> list[Streams]:
        """Bring the riders' tensors, play a recording, and take the results away."""
        order = form.arranged.order
        order.together([(rider["text"], rider["image"]) for rider in riders], out=form.rows)
        turns = [rider["image_rotary_emb"] for rider in riders]
        torch.cat([text for _, text in turns] + [image for image, _ in turns], out=form.turns)
        torch.cat([rider["temb"].both for rider in riders], out=form.vectors)
        replay()
        return order.apart(form.rows.clone())


def _turns_apart(form: _Form) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Each rider's turns of its image, and of its text: all texts' lie before all images'."""
    sizes = form.arranged.order.sizes
    each = list(form.turns.split([words for _, words in sizes] + [tokens for tokens, _ in sizes]))
    return each[len(sizes) :], each[: len(sizes)]


def _plainly(block: Any, riders: Sequence[Mapping[str, Any]]) -> list[Streams]:
    return [block(**riders[0])] if len(riders) == 1 else block.together(riders)


class RecordedBlock:
    """A block that is played where it is recorded."""

    def __init__(self, block: Any, call: Callable[..., list[Streams]], *, shares: bool) -> None:
        self._block = block
        self._call = call
        self._shares = shares

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        if args:
            return self._block(*args, **inputs)
        (found,) = self._call(self._block, [inputs])
        return found

    def size(self, inputs: Mapping[str, Any]) -> tuple[int, int] | None:
        """As the block's own; None where it lets each go alone."""
        size: tuple[int, int] | None = self._block.size(inputs) if self._shares else None
        return size

    def together(self, riders: Sequence[Mapping[str, Any]]) -> list[Streams]:
        """As the block's own."""
        return self._call(self._block, riders)
