"""A matrix in whole numbers of eight bits, with a float32 scale for each row (an output channel), its columns turned.

Whole numbers are as far apart near zero as at the peak, so that one large value in a row costs all others their bits.
Turned by a Hadamard matrix, each column holds a little of every other of its group, and none is large (Ashkboos et al.
2024, QuaRot). What the matrix is multiplied with is turned likewise, and the product is what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from renderer.families.family import Shape
from renderer.job import BlockArithmetic, Stored
from renderer.weights.codecs.codec import SCALE, WEIGHT, CodecPart

STEPS = 127
"""The largest magnitude that is made: -128 is left out, so that both signs have as many."""

TURNED_TOGETHER = (256, 64, 16)
"""How many columns may be turned together: powers of four, for the turn is a product of turns of four (ConvRot)."""


def group(columns: int) -> int:
    """How many columns of a matrix as wide are turned together: as many as divide its width; 0: none are."""
    return next((size for size in TURNED_TOGETHER if columns % size == 0), 0)


class _Int8:
    name: ClassVar[Stored] = "int8"
    error: ClassVar[float] = 0.02  # of a group of random numbers; half a step alone, were the columns not turned back
    is_plain: ClassVar[bool] = False
    multiplied_as: ClassVar[Stored] = "int8"
    arithmetic: ClassVar[BlockArithmetic] = "int8"
    capability: ClassVar[tuple[int, int]] = (7, 5)
    on_cpu: ClassVar[bool] = True
    row_bytes: ClassVar[int] = 1
    dtypes: ClassVar[Mapping[str, str]] = MappingProxyType({WEIGHT: "I8", SCALE: "F32"})

    def parts(self, shape: Shape) -> tuple[CodecPart, ...]:
        return CodecPart(WEIGHT, "I8", shape), CodecPart(SCALE, "F32", shape[:1])

    def shape(self, parts: Mapping[str, Shape]) -> Shape:
        return parts[WEIGHT]

    def turned(self, columns: int) -> int:
        return group(columns)


CODEC = _Int8()
