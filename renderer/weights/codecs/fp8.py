"""A matrix in eight bits a value: e4m3, with a float32 scale for each row (an output channel)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from renderer.families.family import Shape
from renderer.job import BlockArithmetic, Stored
from renderer.weights.codecs.codec import SCALE, WEIGHT, CodecPart

LARGEST = 448.0
"""The largest finite number of e4m3fn (Micikevicius et al. 2022, FP8 Formats for Deep Learning, table 1)."""


class _Fp8:
    name: ClassVar[Stored] = "fp8"
    error: ClassVar[float] = 16 / LARGEST + 2.0**-8  # half the largest step, and bf16 of it
    is_plain: ClassVar[bool] = False
    multiplied_as: ClassVar[Stored] = "fp8"
    arithmetic: ClassVar[BlockArithmetic] = "fp8"
    capability: ClassVar[tuple[int, int]] = (8, 9)
    on_cpu: ClassVar[bool] = False
    row_bytes: ClassVar[int] = 1
    dtypes: ClassVar[Mapping[str, str]] = MappingProxyType({WEIGHT: "F8_E4M3", SCALE: "F32"})

    def parts(self, shape: Shape) -> tuple[CodecPart, ...]:
        return CodecPart(WEIGHT, "F8_E4M3", shape), CodecPart(SCALE, "F32", shape[:1])

    def shape(self, parts: Mapping[str, Shape]) -> Shape:
        return parts[WEIGHT]

    def turned(self, columns: int) -> int:
        del columns
        return 0


CODEC = _Fp8()
