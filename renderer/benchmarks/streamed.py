"""The streaming engine's measured cases: `python -m renderer.benchmarks.streamed STORE CASE…`, a line of JSON each.

All cases are of one engine, which has each case's slots in turn. It is warmed up with pictures of the case's size, then
emptied: prompts are encoded and modulations computed within what is measured, as in a process's first batch.
"""

from __future__ import annotations

import hashlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from renderer.benchmarks import bare
from renderer.benchmarks.running import Figures
from renderer.benchmarks.share_cases import LAUNCH_GAP_US, gaps
from renderer.engine.calling import Rendering
from renderer.engine.previews import Preview
from renderer.engine.streaming import StreamingEngine
from renderer.errors import RendererError
from renderer.job import Job
from renderer.machine import hardware
from renderer.planning import placement
from renderer.protocol import Setup
from renderer.text import GIB
from renderer.weights.store import open_store

BENCH_PROMPT = 'A harbour town at dusk, a neon sign that says "你好 HELLO" above a bookshop, rain on the cobbles'


@dataclass(frozen=True, slots=True)
class Case:
    """What is rendered: so many pictures of one side, in so many steps, through so many slots.

    `recorded` False: no launches are recorded. `profiled`: it is found how long the GPU waits. Every block is brought
    in so many `copies`, as over a bus that is so much slower.
    """

    slots: int
    side: int
    pictures: int = 1
    steps: int = 8
    guidance: float = 4.0
    recorded: bool = True
    profiled: bool = False
    copies: int = 1


SLOW_COPIES = 7
"""Of 55 GB/s, which an H100's host copies, they leave 8: a card in an old machine's slot, or behind a long riser."""

ENGINE_CASES: Mapping[str, Case] = MappingProxyType(
    {
        "resident": Case(60, 1328, profiled=True),
        "3-slots": Case(3, 1328, profiled=True),
        "2-slots": Case(2, 1328),
        "3-slots-8-small": Case(3, 512, pictures=8, steps=12),
        "resident-small": Case(60, 512, steps=20),
        "resident-small-unrecorded": Case(60, 512, steps=12, recorded=False),
        "resident-8-small": Case(60, 512, pictures=8, steps=12),
        "resident-8-small-unguided": Case(60, 512, pictures=8, steps=12, guidance=1.0),
        "resident-768": Case(60, 768, steps=12),
        "resident-1024": Case(60, 1024),
        "3-slots-small": Case(3, 512),
        "3-slots-768": Case(3, 768),
        "3-slots-1024": Case(3, 1024),
        "3-slots-1024-unguided": Case(3, 1024, guidance=1.0),
        "3-slots-4-of-1024": Case(3, 1024, pictures=4),
        "3-slots-2048": Case(3, 2048, steps=6),
        "int8-3-slots": Case(3, 1328, profiled=True),
        "int8-resident": Case(60, 1328, profiled=True),
        "int8-3-slots-small": Case(3, 512),
        "int8-resident-8-small": Case(60, 512, pictures=8, steps=12),
        "int4-3-slots": Case(3, 1328, profiled=True),
        "int4-resident": Case(60, 1328, profiled=True),
        "int4-3-slots-small": Case(3, 512),
        "int4-resident-8-small": Case(60, 512, pictures=8, steps=12),
        **{
            f"{kept}slow-bus-{riders}-small": Case(3, 512, pictures=riders, steps=6, copies=SLOW_COPIES)
            for kept in ("", "int8-", "int4-")
            for riders in (1, 8)
        },
        "bf16-3-slots": Case(3, 1328, profiled=True),
        "bf16-3-slots-small": Case(3, 512, steps=12),  # as many as the peers'
        "demo": Case(2, 128, pictures=2, steps=3, profiled=True),
    }
)

MIXED: tuple[tuple[int, int, float], ...] = (
    (512, 512, 4.0),
    (1024, 1024, 1.0),
    (1328, 1328, 4.0),
    (2048, 2048, 4.0),
    (512, 512, 1.0),
    (1664, 928, 4.0),
    (768, 768, 4.0),
    (928, 1664, 4.0),
)
"""A mixed manifest: width, height, guidance."""

MIXED_STEPS = 6


def main() -> None:
    """Measure the cases that are named; `cap-N` renders the mixed manifest with N GiB of the GPU."""
    store, *names = sys.argv[1:]
    cases = [name for name in names if name in ENGINE_CASES]
    for place, found in enumerate(measured(Path(store), cases) if cases else capped_by(Path(store), names)):
        if place > 0:  # the process's peak may be an earlier case's
            found["rss_bytes"] = None
        print(json.dumps(found), flush=True)  # noqa: T201


def measured(store: Path, names: Iterable[str]) -> Iterator[Figures]:
    """The rows of cases, by one engine."""
    engine = bare.forgetful(open_engine(store, slots=2, in_flight=1))
    for name in names:
        yield {"case": name, **measure(engine, ENGINE_CASES[name])}


def capped_by(store: Path, names: Iterable[str]) -> Iterator[Figures]:
    """The rows of caps, each by an engine of its own: what it may take is found out when it opens."""
    for name in names:
        yield {"case": name, **capped(store, int(name.removeprefix("cap-")))}
        bare.reset()  # the next one's engine is not to find this one's still there


def measure(engine: StreamingEngine, case: Case) -> Figures:
    """A case's seconds a step, of encoding and of decoding, its peaks, and what its picture's bits are.

    The engine is a forgetful one, whose slots are taken from it. `encode_s` are a picture's part of the seconds before
    the steps: prompts and modulations. Peaks are of all of it.
    """
    bare.unequip(engine)
    recorded = nullcontext() if case.recorded else bare.unrecorded(engine)
    with _counting_compiled() as compiled, bare.slow_bus(case.copies), recorded:
        setup = engine.setup.model_copy(update={"slots": case.slots, "in_flight": case.pictures})
        bare.equip(engine, setup)
        jobs = [
            job_of(engine.setup, case.side, case.side, case.guidance, case.steps, seed)
            for seed in range(1, case.pictures + 1)
        ]
        render(engine, [job.model_copy(update={"num_inference_steps": 2}) for job in jobs])
        first = len(compiled)
        bare.empty(engine)
        began = time.perf_counter()
        with latents_of(engine._skeleton.parts["vae"]) as latents:  # noqa: SLF001  # DiffSynth's pipeline hands them to it alone
            pictures = render(engine, jobs)
        took_s = time.perf_counter() - began
    step_s = statistics.median(picture.timing.step_median_s or 0.0 for picture in pictures)
    sharing = pictures[0].sharing
    assert sharing is not None
    found = {
        "slots": sharing.slots,
        "side": case.side,
        "pictures": case.pictures,
        "steps": case.steps,
        "guidance": case.guidance,
        "recorded": case.recorded,
        "copies": case.copies,
        "together": bare.together(engine),
        "precision": engine.setup.precision,
        "prompt_tokens": bare.tokens(engine, BENCH_PROMPT),
        "arithmetic": sharing.arithmetic,
        "step_s": step_s / case.pictures,
        "encode_s": statistics.fmean(picture.timing.encode_s or 0.0 for picture in pictures),
        "decode_s": pictures[0].timing.decode_s,
        "seconds": took_s,
        "bus_bytes_per_s": sharing.bus_bytes_per_s,
        "flops_per_s": sharing.flops_per_s,
        "adjustments": sharing.adjustments,
        "sha256": hashlib.sha256(pictures[0].rgb).hexdigest(),
        "latents": latents,
        "kernels_compiled": len(compiled),
        "kernels_compiled_after_the_first_picture": len(compiled) - first,
        "compile_s": sum(compiled),
        **peaks(pictures),
    }
    if case.profiled:
        found["idle"] = _idle(engine, jobs[0])
    bare.empty(engine)
    return found


@contextmanager
def latents_of(vae: Any) -> Iterator[list[str]]:
    """SHA-256 of all latents that a VAE is given to decode, as they come."""
    seen: list[str] = []
    decode = vae.decode

    def noted(latents: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        seen.append(hashlib.sha256(latents.contiguous().view(torch.uint8).cpu().numpy().tobytes()).hexdigest())
        return decode(latents, *arguments, **named)

    vae.decode = noted
    try:
        yield seen
    finally:
        del vae.decode


def capped(folder: Path, gib: int) -> Figures:
    """The mixed manifest in a process that gets no more than `gib` GiB of the GPU: its peak and its rate.

    Prompts are encoded within it.
    """
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total))
    setup = setup_of(folder)
    jobs = [job_of(setup, *shape, MIXED_STEPS, seed) for seed, shape in enumerate(MIXED, start=1)]
    planned = placement.setup_for(jobs, hardware.look(), "stream", gib * GIB)
    own = {"store": str(folder), "identity": setup.identity}
    engine = bare.forgetful(StreamingEngine.open(planned.model_copy(update=own), lambda _: None))
    bare.reset()
    began = time.perf_counter()
    pictures = render(engine, jobs)
    took_s = time.perf_counter() - began
    sharings = [picture.sharing for picture in pictures if picture.sharing is not None]
    return {
        "cap_bytes": gib * GIB,
        "pictures": len(pictures),
        "steps": MIXED_STEPS,
        "slots": [min(each.slots for each in sharings), max(each.slots for each in sharings)],
        "in_flight": statistics.fmean(each.mean_in_flight for each in sharings),
        "adjustments": sorted({change for each in sharings for change in each.adjustments}),
        "pictures_per_hour": 3600 * len(pictures) / took_s,
        **peaks(pictures),
    }


@dataclass(slots=True)
class BenchListener:
    """Keeps what was rendered; a failure ends the benchmark."""

    pictures: dict[str, Rendering] = field(default_factory=dict)

    def started(self, key: str) -> None:
        """Of no interest here."""

    def stepped(self, key: str, step: int, steps: int) -> None:
        """Of no interest here."""

    def previewed(self, key: str, preview: Preview) -> None:
        """Of no interest here."""

    def rendered(self, key: str, rendering: Rendering) -> None:
        self.pictures[key] = rendering

    def failed(self, key: str, error: RendererError) -> None:
        error.add_note(f"picture {key}")
        raise error


def setup_of(folder: Path) -> Setup:
    """The setup that streams from a packed store."""
    index = open_store(folder).index
    return Setup(
        model=_model(index.source.id),
        identity=index.source,
        precision=index.precision,
        profile="stream",
        store=str(folder),
    )


def open_engine(folder: Path, **choices: Any) -> StreamingEngine:
    """The streaming engine on a packed store; `choices` are fields of its `Setup`."""
    return StreamingEngine.open(setup_of(folder).model_copy(update=choices), lambda _: None)


def _model(source: str) -> str:
    """The catalogue's model of a store: random weights stand for the full-size one."""
    return "Qwen/Qwen-Image" if source == "synthetic" else source


def job_of(
    setup: Setup, width: int, height: int, cfg_scale: float, steps: int, seed: int, prompt: str = BENCH_PROMPT
) -> Job:
    """A picture of the setup's model."""
    return Job(
        model=setup.model,
        precision=setup.precision,
        prompt=prompt,
        negative_prompt="",
        cfg_scale=cfg_scale,
        num_inference_steps=steps,
        width=width,
        height=height,
        seed=seed,
    )


def render(engine: StreamingEngine, jobs: Sequence[Job]) -> list[Rendering]:
    """All of them, let in together."""
    tell = BenchListener()
    for number, job in enumerate(jobs):
        engine.take(str(number), job)
    while engine.busy:
        engine.advance(tell)
    return [tell.pictures[str(number)] for number in range(len(jobs))]


def told(picture: Rendering) -> Figures:
    """What a streamed picture's sidecar will say of it alone, and what its bits are."""
    sharing = picture.sharing
    assert sharing is not None
    return {
        "slots": sharing.slots,
        "arithmetic": sharing.arithmetic,
        "step_s": picture.timing.step_median_s,
        "encode_s": picture.timing.encode_s,
        "decode_s": picture.timing.decode_s,
        "bus_bytes_per_s": sharing.bus_bytes_per_s,
        "flops_per_s": sharing.flops_per_s,
        "adjustments": sharing.adjustments,
        "sha256": hashlib.sha256(picture.rgb).hexdigest(),
        **peaks([picture]),
    }


def peaks(pictures: Sequence[Rendering]) -> Figures:
    """The highest of what the pictures' sidecars will say."""
    found: Figures = {"rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    for name in ("reserved", "allocated"):
        peaks = [getattr(picture.memory, f"peak_{name}_bytes") for picture in pictures]
        found[f"{name}_bytes"] = max((peak for peak in peaks if peak is not None), default=None)
    return found


@contextmanager
def _counting_compiled() -> Iterator[list[float]]:
    """The seconds of every kernel that Triton compiles inside, or finds in its cache on the disk."""
    seconds: list[float] = []
    try:
        from triton import knobs  # noqa: PLC0415  # Triton is not everywhere
    except ImportError:
        yield seconds
        return

    def note(*_: Any, times: Any = None, **__: Any) -> None:
        seconds.append(times.total / 1e6 if times is not None else 0.0)

    before, knobs.compilation.listener = knobs.compilation.listener, note
    try:
        yield seconds
    finally:
        knobs.compilation.listener = before


def _idle(engine: StreamingEngine, job: Job) -> Figures | None:
    """The part of the sweeps in which no kernel runs on the GPU: all of it, and of that the gaps that are no launches'.

    One kernel ends a microsecond or two before the next begins, whatever waits in the queue; longer gaps are waiting:
    for a block, for the host, between one sweep and the next.
    """
    if not torch.cuda.is_available():
        return None
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415  # slow to import

    tell = BenchListener()
    engine.take("0", job)
    for _ in range(2):  # its admission and its first sweeps are not what is asked for
        engine.advance(tell)
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(4):
            engine.advance(tell)
        torch.cuda.synchronize()
    while engine.busy:
        engine.advance(tell)
    kernels = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and "Mem" not in event.name
    ]
    found = gaps(kernels)
    whole = max(end for _, end in kernels) - min(start for start, _ in kernels)
    return {"all": sum(found) / whole, "waiting": sum(gap for gap in found if gap > LAUNCH_GAP_US) / whole}


if __name__ == "__main__":
    main()
