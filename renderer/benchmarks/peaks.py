"""The measured cells: `python -m renderer.benchmarks.peaks STORE CASE…`, a line of JSON each, peaks by stage.

All cells of one call are of one engine: so many slots, or one of DiffSynth's profiles. A cell that leaves memory behind
ends the process, so that no other is measured on top of it.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from renderer.benchmarks import bare, streamed
from renderer.benchmarks.cases import CASES, WARM, BatchCase, NativeCase
from renderer.benchmarks.running import LEFT_BYTES, Figures
from renderer.benchmarks.streamed import BENCH_PROMPT, BenchListener
from renderer.engine.inputs import NO_INPUTS, Inputs
from renderer.engine.native import NativeEngine
from renderer.engine.streaming import StreamingEngine
from renderer.job import Job
from renderer.text import GIB


def main() -> None:
    """Measure the cells that are named."""
    store, *names = sys.argv[1:]
    cells = [CASES[name] for name in names]
    through_slots = [cell for cell in cells if isinstance(cell, BatchCase)]
    natives = [cell for cell in cells if isinstance(cell, NativeCase)]
    rows = native(Path(store), natives) if natives else stream(Path(store), through_slots)
    for row in rows:
        print(json.dumps(row), flush=True)  # noqa: T201


# ---- the streaming engine --------------------------------------------------------------------------------------------


def stream(store: Path, cells: Sequence[BatchCase], warm: tuple[int, int, float] = WARM) -> Iterator[Figures]:
    """The rows of cells that all have the first one's slots, up to the first that leaves memory behind."""
    most = max(len(cell.pictures) for cell in cells)
    engine = bare.forgetful(streamed.open_engine(store, slots=cells[0].slots, in_flight=most))
    streamed.render(engine, [streamed.job_of(engine.setup, *warm, 2, 1)])
    before = bare.empty(engine)
    for cell in cells:
        row = stream_one(engine, cell)
        row["left_bytes"] = bare.empty(engine) - before
        yield row
        if row["left_bytes"] > LEFT_BYTES:
            return


def stream_one(engine: StreamingEngine, cell: BatchCase) -> Figures:
    """One cell's row, by an engine that has been emptied."""
    jobs = [
        streamed.job_of(engine.setup, *shape, cell.steps, seed, prompt)
        for seed, (shape, prompt) in enumerate(zip(cell.pictures, _prompts(cell), strict=True), start=1)
    ]
    return {
        "case": cell.name,
        "jobs": [list(shape) for shape in (dict.fromkeys(cell.pictures) if _alike(cell) else cell.pictures)],
        "prompt_tokens": max(bare.tokens(engine, job.prompt) for job in jobs),
        "prompts": bare.largest_group(engine, jobs),
        **staged(engine, [(job, NO_INPUTS) for job in jobs]),
    }


def staged(engine: StreamingEngine, asked: Sequence[tuple[Job, Inputs]]) -> Figures:
    """Pictures that fly together, by an engine that has been emptied: the peaks of their stages, and what they did."""
    there = _there()
    tell = _Staged()
    with _told(bare.vae(engine), "decode", lambda: tell.stages.begin("decode")):
        for number, (job, given) in enumerate(asked):
            engine.take(str(number), job, given)
        while engine.busy:
            engine.advance(tell)
            tell.stages.note()
    pictures = list(tell.pictures.values())
    sharings = [picture.sharing for picture in pictures if picture.sharing is not None]
    return {
        "engine": "stream",
        "precision": engine.setup.precision,
        "slots": min(sharing.slots for sharing in sharings),
        "in_flight": len(asked),
        "together": bare.together(engine),
        **there,
        "stages": tell.stages.peaks,
        "adjustments": sorted({change for sharing in sharings for change in sharing.adjustments}),
        "mean_in_flight": max(sharing.mean_in_flight for sharing in sharings),
        "step_s": pictures[0].timing.step_median_s,
        "rss_bytes": _rss_bytes(),
    }


def _prompts(cell: BatchCase) -> list[str]:
    """Short ones are all the same; long ones differ, so that each has to be encoded."""
    if cell.copies == 1:
        return [BENCH_PROMPT] * len(cell.pictures)
    return [f"{number} " + " ".join([BENCH_PROMPT] * cell.copies) for number in range(len(cell.pictures))]


def _alike(cell: BatchCase) -> bool:
    return len(set(cell.pictures)) == 1


# ---- DiffSynth's profiles --------------------------------------------------------------------------------------------


def native(store: Path, cells: Sequence[NativeCase]) -> Iterator[Figures]:
    """The rows of cells that all have the first one's profile and limit."""
    limit = None if cells[0].limit_gib is None else cells[0].limit_gib * GIB
    setup = streamed.setup_of(store).model_copy(update={"profile": cells[0].profile, "vram_bytes": limit})
    engine = NativeEngine.open(setup, lambda _: None)
    for cell in cells:
        yield native_one(engine, cell)


def native_one(engine: NativeEngine, cell: NativeCase) -> Figures:
    """One cell's row. What the first step has is told apart: text encoding is in it, and weights on their way."""
    job = streamed.job_of(engine.setup, *cell.picture, cell.steps, 1)
    bare.reset()
    there = _there()
    stages = Stages()
    pipe: Any = engine._pipe  # noqa: SLF001  # when the decode begins only its VAE knows

    def stepped(step: int, _steps: int) -> None:
        if step == 1:
            stages.begin("denoise")

    with _told(pipe.vae, "decode", lambda: stages.begin("decode")):
        picture = engine.render(job, stepped)
    stages.note()
    first = stages.peaks.pop("encode", None)
    return {
        "case": cell.name,
        "engine": "native",
        "precision": engine.setup.precision,
        "profile": cell.profile,
        "vram_limit_bytes": engine.setup.vram_bytes,
        "jobs": [list(cell.picture)],
        "in_flight": 1,
        "prompt_tokens": len(pipe.tokenizer(job.prompt).input_ids),
        "prompts": [],
        **{name: value for name, value in there.items() if name != "held_before"},
        "stages": stages.peaks,
        "first": first,
        "step_s": picture.timing.step_median_s,
        "rss_bytes": _rss_bytes(),
    }


# ---- peaks by stage --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Stages:
    """Peaks of each stage, tensors and what the allocator had taken; nothing where there is no GPU.

    A stage that has begun goes on until another begins; none comes twice.
    """

    now: str = "encode"
    peaks: dict[str, tuple[int, int]] = field(default_factory=dict)

    def begin(self, name: str) -> None:
        """What comes from here on is of stage `name`. Waits for the GPU."""
        self.note()
        self.now = name

    def note(self) -> None:
        """Keep the peaks since the last note, and count anew."""
        if not torch.cuda.is_available():
            return
        torch.cuda.synchronize()
        self.add(int(torch.cuda.max_memory_allocated()), int(torch.cuda.max_memory_reserved()))
        torch.cuda.reset_peak_memory_stats()

    def add(self, tensors: int, taken: int) -> None:
        """Peaks of the present stage, which keeps the higher ones."""
        others = self.peaks.get(self.now, (0, 0))
        self.peaks[self.now] = max(tensors, others[0]), max(taken, others[1])


@dataclass(slots=True)
class _Staged(BenchListener):
    """Hears of the first picture that is started: what was before is encoding and modulation."""

    stages: Stages = field(default_factory=Stages)

    def started(self, key: str) -> None:  # noqa: ARG002
        if self.stages.now == "encode":
            self.stages.begin("denoise")


@contextmanager
def _told(network: Any, name: str, hear: Callable[[], None]) -> Iterator[None]:
    """Hear of each call of a network's method before it happens."""
    called = getattr(network, name)

    def call(*arguments: Any, **named: Any) -> Any:
        hear()
        return called(*arguments, **named)

    setattr(network, name, call)
    try:
        yield
    finally:
        delattr(network, name)


def _there() -> Figures:
    """What is on the device before a cell: tensors, what the allocator holds in vain, and all that is beside it."""
    if not torch.cuda.is_available():
        return {"weights_bytes": None, "held_before": 0, "context_bytes": None}
    free, total = torch.cuda.mem_get_info()
    tensors, taken = int(torch.cuda.memory_allocated()), int(torch.cuda.memory_reserved())
    return {"weights_bytes": tensors, "held_before": taken - tensors, "context_bytes": total - free - taken}


def _rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
