"""What `renderer bench memory` measures, by name: cells of the engines, and cases under caps. Values; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from renderer.job import Profile

PictureKind = tuple[int, int, float]
"""Width, height, guidance."""

WARM = (512, 512, 4.0)
"""What is rendered before anything is measured: width, height, guidance."""

MEASURED_SIZES = ((512, 512), (768, 768), (1024, 1024), (1328, 1328), (1664, 928), (2048, 2048))

CAPS_GIB = (4, 6, 8, 10, 12, 16, 24)

LONG_COPIES = 24
"""Of the benchmarks' prompt, one behind the other, for a long one."""

LONGEST_COPIES = 90
"""For one that is as long as any: DiffSynth cuts it off."""


@dataclass(frozen=True, slots=True)
class BatchCase:
    """Pictures that fly together through so many slots."""

    slots: int
    pictures: tuple[PictureKind, ...]
    copies: int = 1
    steps: int = 3

    @property
    def name(self) -> str:
        kinds = "+".join(dict.fromkeys(map(_shape, self.pictures)))
        long = ", long prompts" if self.copies > 1 else ""
        return f"{self.slots} slots, {len(self.pictures)} of {kinds}{long}"


@dataclass(frozen=True, slots=True)
class NativeCase:
    """A picture by one of DiffSynth's profiles, of which one is bounded by a limit."""

    profile: Profile
    limit_gib: int | None
    picture: PictureKind
    steps: int = 2

    @property
    def name(self) -> str:
        limit = "" if self.limit_gib is None else f" {self.limit_gib} GiB"
        return f"native {self.profile}{limit}, {_shape(self.picture)}"


@dataclass(frozen=True, slots=True)
class CappedCase:
    """What is forced under a cap: slots, so many squares in flight. Without slots, what the plan says."""

    cap_gib: int
    slots: int | None = None
    side: int = 0
    pictures: int = 1
    copies: int = 1

    @property
    def name(self) -> str:
        if self.slots is None:
            return f"cap {self.cap_gib} GiB, as planned"
        how = ", long prompt" if self.copies > 1 else ""
        return f"cap {self.cap_gib} GiB, {self.slots} slots, {self.pictures} of {self.side}x{self.side}{how}"


UNGUIDED_THROUGH = (3, 2, 10)
"""Slots through which every size is measured without guidance as well."""

SIDES_WITHIN: Mapping[int, tuple[int, ...]] = MappingProxyType(
    {24: (512, 1328, 2048), 16: (512, 1328, 2048), 10: (1328, 512)}
)
"""By DiffSynth's limit in GiB, the squares that are rendered within it: fewer where each takes long."""


def _shape(shape: PictureKind) -> str:
    width, height, guidance = shape
    return f"{width}x{height}{'' if guidance != 1.0 else ' unguided'}"


def _cells(slots: int) -> Iterator[BatchCase]:
    for width, height in MEASURED_SIZES:
        yield BatchCase(slots, ((width, height, 4.0),))
        if slots in UNGUIDED_THROUGH:
            yield BatchCase(slots, ((width, height, 1.0),))
    if slots in (3, 10):
        for side, company in ((512, 8), (1024, 4), (1328, 3)):
            yield BatchCase(slots, ((side, side, 4.0),) * company)
        for side, company in ((512, 1), (1328, 1), (512, 8)):
            yield BatchCase(slots, ((side, side, 4.0),) * company, copies=LONG_COPIES)
        yield BatchCase(slots, ((512, 512, 4.0), (1024, 1024, 1.0), (1328, 1328, 4.0)))


def _natives() -> Iterator[tuple[NativeCase, ...]]:
    yield tuple(NativeCase("resident", None, (*size, guidance)) for size in MEASURED_SIZES for guidance in (4.0, 1.0))
    for limit, sides in SIDES_WITHIN.items():
        yield tuple(NativeCase("fp8", limit, (side, side, 4.0)) for side in sides)


def _choices(cap: int) -> Iterator[CappedCase]:
    yield CappedCase(cap)
    yield CappedCase(cap, 2, 1328)
    yield CappedCase(cap, 10, 1328)
    yield CappedCase(cap, 20, 1024, pictures=4)
    yield CappedCase(cap, 34, 512, pictures=4)
    yield CappedCase(cap, 60, 1328)
    yield CappedCase(cap, 2, 2048)
    yield CappedCase(cap, 2, 2048, pictures=4)
    yield CappedCase(cap, 2, 1328, copies=LONGEST_COPIES)


STREAMED = tuple(tuple(_cells(slots)) for slots in (3, 2, 10, 60))
NATIVE = tuple(_natives())
CAPPED = tuple(tuple(_choices(cap)) for cap in CAPS_GIB)
"""Each a process of its own."""

AnyCase = BatchCase | NativeCase | CappedCase


def _by_name(groups: Sequence[Sequence[AnyCase]]) -> Mapping[str, AnyCase]:
    return MappingProxyType({case.name: case for group in groups for case in group})


CASES: Mapping[str, AnyCase] = _by_name((*STREAMED, *NATIVE, *CAPPED))
PROCESSES: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        part: tuple(tuple(case.name for case in group) for group in groups)
        for part, groups in (("cells", STREAMED), ("native", NATIVE), ("verdicts", CAPPED))
    }
)
"""The names of the cases, by part and by process."""
