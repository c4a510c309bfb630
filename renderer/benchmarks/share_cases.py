"""`renderer bench engine --part shares`: where the seconds of pictures of few steps go. Imports no torch.

What the GPU did is told by the names of its kernels. They are measured in `share_steps`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from renderer.benchmarks.running import Figures

LAUNCH_GAP_US = 10.0
"""A gap between two kernels that is longer is not one of launching."""


@dataclass(frozen=True, slots=True)
class ShareCase:
    """So many squares of one side without guidance, within so much of the GPU; None: all of it."""

    side: int
    pictures: int
    vram_gib: int | None = None
    steps: int = 4


SHARE_CASES: Mapping[str, ShareCase] = MappingProxyType(
    {
        f"shares-{side}{'' if gib is None else f'-{gib}GiB'}": ShareCase(side, pictures, gib)
        for side, pictures in ((512, 16), (1024, 8), (1328, 6), (2048, 4))
        for gib in (None, 6)
    }
)

KERNEL_KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bus": ("Memcpy HtoD",),
        "moves": ("Memcpy", "Memset"),
        "attention": ("sdpa", "fmha", "flash_fwd", "attention"),
        "decode": ("_convolve", "_normalise", "conv", "implicit"),
        "passes": ("_modulate", "_add_and_modulate", "_activate", "_quantise", "_place", "_add"),
        "products": ("gemm", "nvjet", "cutlass", "device_kernel", "cublas", "splitK", "_multiply", "_product"),
    }
)
"""What kernels are called, a part of the name: the first kind that fits. Passes are ours, between two products."""

OTHERS = "others"
SHARE_COLUMNS = ("products", "attention", "passes", OTHERS, "decode", "moves")


def kind_of(name: str) -> str:
    """What a kernel of this name does."""
    plain = name.removeprefix("void ")
    for kind, marks in KERNEL_KINDS.items():
        if kind == "passes":
            if plain in marks:
                return kind
        elif any(mark in plain for mark in marks):
            return kind
    return OTHERS


@dataclass(frozen=True, slots=True)
class Launched:
    """What the GPU did, from when to when, in microseconds."""

    name: str
    start: float
    end: float


def gaps(times: Iterable[tuple[float, float]]) -> list[float]:
    """The times between one's end and the next one's start in which nothing else is under way."""
    found, until = [], None
    for start, end in sorted(times):
        if until is not None:
            found.append(max(0.0, start - until))
        until = end if until is None else max(until, end)
    return found


def shares(spans: Sequence[Launched]) -> Figures:
    """Seconds by kind, those in which there was any kernel, and the longest of the kernels and of the gaps, by name."""
    seconds: dict[str, float] = defaultdict(float)
    names: dict[str, float] = defaultdict(float)
    waits: dict[str, float] = defaultdict(float)
    for span in spans:
        kind, took_s = kind_of(span.name), (span.end - span.start) / 1e6
        seconds[kind] += took_s
        names[f"{kind}: {span.name[:60]}"] += took_s
    work = sorted((span for span in spans if kind_of(span.name) != "bus"), key=lambda span: span.start)
    between = gaps((span.start, span.end) for span in work)
    for before, after, gap in zip(work, work[1:], between, strict=False):
        if gap > LAUNCH_GAP_US:
            waits[f"{before.name[:48]} > {after.name[:48]}"] += gap / 1e6
    whole_us = max((span.end for span in work), default=0.0) - min((span.start for span in work), default=0.0)
    return {
        "seconds": dict(seconds),
        "busy_s": (whole_us - sum(between)) / 1e6,
        "longest": _longest(names),
        "waits": _longest(waits),
    }


def _longest(seconds: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(seconds.items(), key=lambda each: -each[1])[:16])


def lines(rows: Sequence[Figures]) -> Iterator[str]:
    """The rows as a table of Markdown: milliseconds of the GPU a picture."""
    if not rows:
        return
    yield "Where the milliseconds of a picture of few steps without guidance go, by the GPU's own record:"
    yield ""
    yield f"| size | steps | memory | slots | in flight | ms a picture | {' | '.join(SHARE_COLUMNS)} | waiting | bus |"
    yield "|---" * (8 + len(SHARE_COLUMNS)) + "|"
    for row in rows:
        waiting_s = max(0.0, row["whole_s"] - row["busy_s"])  # unrecorded: a record makes the host wait more
        each = [row["seconds"].get(kind, 0.0) for kind in SHARE_COLUMNS] + [waiting_s, row["seconds"].get("bus", 0.0)]
        told = " | ".join(f"{1000 * took_s / row['pictures']:.1f}" for took_s in each)
        memory = "all" if row["vram_gib"] is None else f"{row['vram_gib']} GiB"
        first = (f"{row['side']}²", str(row["steps"]), memory, str(row["slots"]), f"{row['in_flight']:.1f}")
        yield f"| {' | '.join(first)} | {1000 * row['whole_s'] / row['pictures']:.1f} | {told} |"
    yield ""
