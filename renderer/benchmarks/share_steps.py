"""Where pictures' seconds go, measured: `python -m renderer.benchmarks.share_steps STORE CASE…`, a line of JSON each.

A case is rendered three times: to warm up, then for its seconds, then with a record of what the GPU does.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from renderer.benchmarks import bare
from renderer.benchmarks.running import Figures
from renderer.benchmarks.share_cases import SHARE_CASES, Launched, ShareCase, shares
from renderer.benchmarks.streamed import BenchListener, job_of, open_engine, render
from renderer.engine.streaming import StreamingEngine
from renderer.job import Job
from renderer.machine import hardware
from renderer.planning import placement
from renderer.text import GIB


def main() -> None:
    """Measure the cases that are named, by one engine."""
    store, *names = sys.argv[1:]
    engine = open_engine(Path(store), slots=2, in_flight=1)
    for name in names:
        print(json.dumps({"case": name, **measure(engine, SHARE_CASES[name])}), flush=True)  # noqa: T201


def measure(engine: StreamingEngine, case: ShareCase) -> Figures:
    """Seconds of a case's pictures, and by kind of what the GPU did meanwhile."""
    bare.unequip(engine)
    jobs = [job_of(engine.setup, case.side, case.side, 1.0, case.steps, seed) for seed in range(1, case.pictures + 1)]
    limit = None if case.vram_gib is None else case.vram_gib * GIB
    planned = placement.setup_for(jobs, hardware.look(), "stream", limit)
    bare.equip(engine, planned.model_copy(update={"store": engine.setup.store, "identity": engine.setup.identity}))
    render(engine, jobs)  # kernels are compiled, prompts are kept, what may go together is found out
    with _under_way(engine, jobs) as (tell, begun):
        began = time.perf_counter()
        _finish(engine, tell)
        whole_s = time.perf_counter() - began
    with _under_way(engine, jobs) as (tell, _):
        spans = list(_recorded(engine, tell))
    sharings = [picture.sharing for picture in tell.pictures.values() if picture.sharing is not None]
    return {
        "side": case.side,
        "steps": case.steps,
        "pictures": case.pictures - begun / case.steps,
        "vram_gib": case.vram_gib,
        "slots": min(each.slots for each in sharings),
        "in_flight": statistics.fmean(each.mean_in_flight for each in sharings),
        "whole_s": whole_s,
        **shares(spans),
    }


class _Listener(BenchListener):
    """Counts steps."""

    steps = 0

    def stepped(self, key: str, step: int, steps: int) -> None:  # noqa: ARG002  # as it is told
        self.steps += 1


@contextmanager
def _under_way(engine: StreamingEngine, jobs: Sequence[Job]) -> Iterator[tuple[_Listener, int]]:
    """Pictures after a sweep, and the steps that were made in it: what comes before a first step is not of interest."""
    tell = _Listener()
    for number, job in enumerate(jobs):
        engine.take(str(number), job)
    engine.advance(tell)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    yield tell, tell.steps


def _finish(engine: StreamingEngine, tell: BenchListener) -> None:
    while engine.busy:
        engine.advance(tell)


def _recorded(engine: StreamingEngine, tell: BenchListener) -> Iterator[Launched]:
    """What the GPU does until all pictures are done; nothing where there is none."""
    if not torch.cuda.is_available():
        _finish(engine, tell)
        return
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415  # slow to import

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        _finish(engine, tell)
        torch.cuda.synchronize()
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            yield Launched(event.name, event.time_range.start, event.time_range.end)


if __name__ == "__main__":
    main()
