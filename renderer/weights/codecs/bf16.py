"""A matrix as the hub has it: in bfloat16. What is no matrix is kept so as well."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from renderer.families.family import Shape
from renderer.job import BlockArithmetic, Stored
from renderer.weights.codecs.codec import WEIGHT, CodecPart


class _Bf16:
    name: ClassVar[Stored] = "bf16"
    error: ClassVar[float] = 2.0**-8  # of what was wider than bf16
    is_plain: ClassVar[bool] = True
    multiplied_as: ClassVar[Stored] = "bf16"
    arithmetic: ClassVar[BlockArithmetic] = "bf16"
    capability: ClassVar[tuple[int, int]] = (0, 0)
    on_cpu: ClassVar[bool] = False
    row_bytes: ClassVar[int] = 2
    dtypes: ClassVar[Mapping[str, str]] = MappingProxyType({WEIGHT: "BF16"})

    def parts(self, shape: Shape) -> tuple[CodecPart, ...]:
        return (CodecPart(WEIGHT, "BF16", shape),)

    def shape(self, parts: Mapping[str, Shape]) -> Shape:
        return parts[WEIGHT]

    def turned(self, columns: int) -> int:
        del columns
        return 0


CODEC = _Bf16()
