"""Failures by the dozen: every place that allocates fails once; then allocating, reading and recording in one batch.

On the CPU, with the demo model: an operation that gives new memory is made to fail as torch does on a full GPU.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from renderer.engine.device import arithmetic_of
from renderer.engine.recorded import RecordedBlocks
from renderer.engine.sections import Passage
from renderer.engine.streaming import StreamingEngine
from renderer.errors import ModelError, OutOfMemoryError, RendererError
from renderer.estimate import host
from renderer.job import Job
from renderer.weights.store import BlockFile
from tests.engine.test_recorded import Again
from tests.engine.test_streaming import Heard, _tensor_bytes, open_engine, pixels, render
from tests.making import make_job

OURS = ("/renderer/engine/", "/renderer/weights/", "/diffsynth/", "/transformers/")
"""Whose lines are told apart: a line of theirs that comes to memory is a place that allocates."""

Place = tuple[str, str, int]


class Allocations(TorchDispatchMode):  # type: ignore[misc]  # torch has no types for it
    """Asks before each operation that gives new memory whether it is to fail."""

    def __init__(self, fails: Callable[[Place], bool]) -> None:
        super().__init__()
        self._fails = fails

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _allocates(func) and self._fails(_place(func)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 434.00 MiB")
        return func(*args, **(kwargs or {}))


def _allocates(func: Any) -> bool:
    """Whether an operation gives a tensor that is neither a view of what it is given nor written into it."""
    gives = any("Tensor" in str(each.type) for each in func._schema.returns)
    return gives and not func.is_view and not func._schema.is_mutable


def _place(func: Any) -> Place:
    """The operation, and the line that it was asked for from."""
    frame = sys._getframe(2)
    while frame.f_back and not any(part in frame.f_code.co_filename for part in OURS):
        frame = frame.f_back
    return str(func), frame.f_code.co_filename, frame.f_lineno


class Forgetful:
    """Stands where the disk's memory of embeddings would: prompts are encoded each time."""

    def find(self, _prompt: str) -> None: ...

    def keep(self, _prompt: str, _encoded: Any) -> None: ...

    def trim(self) -> None: ...


def forget(engine: StreamingEngine) -> None:
    """Take all that is kept from one batch to the next."""
    engine._beforehand._tables.clear()  # type: ignore[attr-defined]  # Qwen-Image's
    engine._skeleton.parts["dit"].pos_embed.rope_cache.clear()
    engine._recover()


def jobs() -> list[Job]:
    """Pictures that differ in size, steps, guidance and prompt."""
    kinds = itertools.product(("a red circle", "x"), (64, 96), (2, 3), (1.0, 4.0))
    return [
        make_job(prompt, seed=number, side=side, steps=steps).model_copy(
            update={"cfg_scale": guidance, "precision": "fp8"}
        )
        for number, (prompt, side, steps, guidance) in enumerate(kinds)
    ]


@pytest.fixture(scope="module")
def engine() -> Iterator[StreamingEngine]:
    """One whose blocks come from the disk, are scaled back as they arrive, and are recorded where that can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "MARGIN_BYTES", 2**60)
        opened = open_engine("fp8", slots=4, in_flight=3)
        opened._prompts._cache = Forgetful()  # type: ignore[assignment]
        yield opened


@pytest.fixture(scope="module")
def alone(engine: StreamingEngine) -> list[bytes]:
    """Each of the jobs by itself."""
    return [pixels(render(engine, [job]))[0] for job in jobs()]


def bits(heard: Heard, alone: Sequence[bytes]) -> bool:
    """Whether every picture that came has the bits that it has alone."""
    return all(rendering.rgb == alone[int(key)] for key, rendering in heard.pictures.items())


@contextlib.contextmanager
def all_comes_back(engine: StreamingEngine, alone: list[bytes]) -> Iterator[None]:
    """After it pictures have their bits and all slots; and tensors have the bytes that they had before, within 1 %."""
    forget(engine)
    before = _tensor_bytes()
    gc.freeze()  # what is there already need not be looked through after each failure
    try:
        yield
    finally:
        gc.unfreeze()
    while not engine._recovery.due:  # as after some sweeps without trouble
        engine._recovery.passed()
    assert pixels(render(engine, jobs()[:3])) == alone[:3]
    assert engine._slots.count == 4
    forget(engine)
    assert abs(_tensor_bytes() - before) <= before * 0.01


def test_every_place_that_allocates_fails_once(engine: StreamingEngine, alone: list[bytes]) -> None:
    """Nothing leaves the engine but what it tells; the others, and the pictures after, have their bits."""
    failed: set[Place] = set()
    count = -1

    def once(place: Place) -> bool:
        is_new = place not in failed
        failed.add(place)
        return is_new

    with all_comes_back(engine, alone):
        while count < len(failed):
            count = len(failed)
            forget(engine)
            with Allocations(once):
                heard = render(engine, jobs()[:3])
            assert bits(heard, alone)
            assert all(isinstance(error, OutOfMemoryError) for error in heard.failures.values())
    assert len(failed) > (
        200 if arithmetic_of("cpu") == "bf16" else 190
    )  # nothing is cast to bf16 where it is not used
    files = {Path(file).name for _, file, _ in failed}
    assert {"slots.py", "precision.py", "journeys.py", "picture_vae.py", "encoding.py", "modulation.py"} <= files


class NowAndThen:
    """Says yes once in so many times that it is asked, somewhere among them, and no more than so often."""

    def __init__(self, times: int, every: int) -> None:
        dice = random.Random(times)  # noqa: S311  # the same every time
        self._at = {number * every + dice.randrange(every) for number in range(times)}
        self._lock, self._asked, self.said = threading.Lock(), itertools.count(), 0

    def __call__(self, *_: Any) -> bool:
        with self._lock:
            yes = next(self._asked) in self._at
            self.said += yes
            return yes


class Unsteady(Again):
    """A recorder that finds no room now and then."""

    def __init__(self, now: NowAndThen) -> None:
        super().__init__()
        self._now = now

    def record(self, launch: Callable[[], None], pool: Any) -> Callable[[], None]:
        if self._now():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().record(launch, pool)


def failing_beside(engine: StreamingEngine, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """By the pictures that fail from now on: how many others are on board at that moment."""
    failed, found = Heard.failed, dict[str, int]()

    def noted(self: Heard, key: str, error: RendererError) -> None:
        found[key] = len(engine._flying) + len(engine._decoded)
        failed(self, key, error)

    monkeypatch.setattr(Heard, "failed", noted)
    return found


def test_forty_failures_in_one_batch(
    engine: StreamingEngine, alone: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Allocating, reading and recording fail: every picture that comes has the bits that it has alone.

    One that fails had nothing left to give up: nothing was beside it. Where the failures fall is the arithmetic's luck.
    """
    beside = failing_beside(engine, monkeypatch)
    allocating, reading, recording = NowAndThen(14, every=5000), NowAndThen(14, every=8), NowAndThen(12, every=4)
    monkeypatch.setattr("renderer.engine.recorded.LONGEST_PAUSE", 1)
    (section,) = engine._passage._sections
    recorded = RecordedBlocks(section.blocks, Unsteady(recording))
    monkeypatch.setattr(engine, "_passage", Passage([replace(section, blocks=recorded)]))
    twice = [*jobs(), *jobs()]
    read_into, again = BlockFile.read_into, set[Path]()

    def read(file: BlockFile, buffer: Any, *, direct: bool = False) -> None:
        if file.path not in again and reading():
            again.add(file.path)
            raise ModelError(f"{file.path}: cannot be read: Input/output error")
        again.discard(file.path)
        read_into(file, buffer, direct=direct)

    monkeypatch.setattr(BlockFile, "read_into", read)
    with all_comes_back(engine, alone):
        with Allocations(allocating):
            heard = render(engine, twice)
        assert (allocating.said, reading.said, recording.said) == (14, 14, 12)
        assert bits(heard, [*alone, *alone])
        assert all(isinstance(error, OutOfMemoryError) for error in heard.failures.values())
        assert len(heard.pictures) + len(heard.failures) == len(twice)
        assert beside == dict.fromkeys(heard.failures, 0)
        assert len(heard.failures) <= 4
        del heard
