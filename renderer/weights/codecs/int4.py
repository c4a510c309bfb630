"""A matrix in four bits a value, in groups of 32 with a step and a least value each, and a float32 scale for each row.

It is int8 in fewer bits. Columns are turned as int8's are (`int8.py`), and a row's scale is int8's: its largest
magnitude is 127 of it. A group's values are `low + step * n`, n from 0 to 15, where step and low are whole numbers of
the row's scale themselves: steps in four bits, least values in eight. So what a matrix stands for are int8 rows, to the
bit and on every machine; they are multiplied as such, and nothing is rounded again. With both numbers of a group
searched, random weights lose 0.077: 0.4 bits more than four, where a scale alone for each 64 of them loses 0.11.

A byte has a value of either half of a row, and so has a byte of steps: both halves are unpacked alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from renderer.errors import ModelError
from renderer.families.family import Shape
from renderer.job import BlockArithmetic, Stored
from renderer.weights.codecs import int8
from renderer.weights.codecs.codec import SCALE, WEIGHT, CodecPart

STEP, LOW = "step", "low"
"""The suffixes of what a group has: how far its values are apart, less one, and the least of them."""

LEVELS = 15
"""Steps from a group's least value to its largest."""

MOST_STEP = 16
"""What four bits hold, for no step is zero: nearly as far as int8 reaches, in fifteen of them."""

_SIZES = (32, 16, 8, 4)
"""How many columns may have a step together."""


def group(columns: int) -> int:
    """How many columns of a matrix as wide have a step together: as many as divide either half of it; 0: none do."""
    return next((size for size in _SIZES if columns % (2 * size) == 0), 0)


class _Int4:
    name: ClassVar[Stored] = "int4"
    error: ClassVar[float] = 0.18  # of a group of random numbers; half a step alone, were the columns not turned back
    is_plain: ClassVar[bool] = False
    multiplied_as: ClassVar[Stored] = "int8"
    arithmetic: ClassVar[BlockArithmetic] = int8.CODEC.arithmetic
    capability: ClassVar[tuple[int, int]] = int8.CODEC.capability
    on_cpu: ClassVar[bool] = int8.CODEC.on_cpu
    row_bytes: ClassVar[int] = int8.CODEC.row_bytes
    dtypes: ClassVar[Mapping[str, str]] = MappingProxyType({WEIGHT: "U8", STEP: "U8", LOW: "I8", SCALE: "F32"})

    def parts(self, shape: Shape) -> tuple[CodecPart, ...]:
        rows, columns = shape
        size = group(columns)
        if not size:
            message = f"a matrix of {columns} columns cannot be kept in four bits: they are no multiple of 8"
            raise ModelError(message, hint="take precision: int8 or fp8")
        groups = columns // size
        return (
            CodecPart(WEIGHT, "U8", (rows, columns // 2)),
            CodecPart(STEP, "U8", (rows, groups // 2)),
            CodecPart(LOW, "I8", (rows, groups)),
            CodecPart(SCALE, "F32", (rows,)),
        )

    def shape(self, parts: Mapping[str, Shape]) -> Shape:
        rows, half = parts[WEIGHT]
        return rows, 2 * half

    def turned(self, columns: int) -> int:
        return int8.CODEC.turned(columns)


CODEC = _Int4()
