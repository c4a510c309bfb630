"""Cells with pictures that go in, for `renderer bench memory`: edits, image to image, and what holds a picture.

Values; no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

PixelSize = tuple[int, int]


@dataclass(frozen=True, slots=True)
class InputCase:
    """Pictures alike that fly together through so many slots, each with what goes into it.

    `edited` are the sizes of those that it edits; `drawn_over` says that it begins with one, and `masked` that a mask
    goes with it; `nets` ControlNets, `regions` with a mask each and a `context` picture hold it. Under `limit_gib` the
    GPU's memory is that of a smaller card.
    """

    slots: int
    size: PixelSize = (1024, 1024)
    edited: tuple[PixelSize, ...] = ()
    drawn_over: bool = False
    masked: bool = False
    nets: int = 0
    regions: int = 0
    context: bool = False
    guidance: float = 4.0
    company: int = 1
    limit_gib: int | None = None
    steps: int = 3

    @property
    def name(self) -> str:
        kinds = [
            *[f"edits {width}x{height}" for width, height in self.edited],
            *["drawn over"] * self.drawn_over,
            *["masked"] * self.masked,
            *[f"{self.nets} ControlNets"] * (self.nets > 0),
            *[f"{self.regions} regions"] * (self.regions > 0),
            *["context"] * self.context,
            *["unguided"] * (self.guidance == 1.0),
            *[f"within {self.limit_gib} GiB"] * (self.limit_gib is not None),
        ]
        width, height = self.size
        return f"{self.slots} slots, {self.company} of {width}x{height}, {', '.join(kinds)}"


_SQUARE, _LARGE, _SMALL, _WIDE = (1024, 1024), (1328, 1328), (512, 512), (1664, 928)


def _edits(slots: int) -> Iterator[InputCase]:
    one = InputCase(slots, edited=(_SQUARE,))
    yield from (one, replace(one, guidance=1.0), replace(one, edited=(_SQUARE,) * 3), replace(one, size=_LARGE))
    yield from (replace(one, size=_SMALL, company=4), replace(one, size=_WIDE, edited=(_WIDE,) * 2))


def _others(slots: int) -> Iterator[InputCase]:
    over, plain = InputCase(slots, drawn_over=True), InputCase(slots)
    yield from (over, replace(over, size=_LARGE, masked=True), replace(over, size=_SMALL, masked=True, company=4))
    yield from (replace(plain, nets=1), replace(plain, nets=2, size=_LARGE), replace(plain, nets=1, guidance=1.0))
    yield from (replace(plain, regions=2), replace(plain, regions=2, size=_SMALL, company=2))
    yield from (replace(plain, context=True), replace(plain, context=True, size=_LARGE))


def _within(gib: int) -> Iterator[InputCase]:
    yield from (InputCase(3, nets=1, limit_gib=gib), InputCase(3, nets=2, drawn_over=True, limit_gib=gib))


def _processes() -> Iterator[tuple[InputCase, ...]]:
    yield tuple(case for slots in (3, 60) for case in _edits(slots))
    yield tuple(case for slots in (3, 60) for case in _others(slots))
    yield (InputCase(3, edited=(_SQUARE,) * 3, limit_gib=3),)
    yield (*_within(3), InputCase(3, regions=2, limit_gib=3))


INPUT_CASES = tuple(_processes())
"""Each a process of its own: all of one are edits or none, and under one limit."""
