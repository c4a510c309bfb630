"""The codecs' numbers: rows of a matrix made into its parts, and read back. Torch's half of `renderer.weights.codecs`.

`encoded` is what a codec makes of rows; `bf16`, `fp8` and `int8` make it, also of `scaled_rows`; `turns` is how columns
are turned. Numbers in, numbers out: knows no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from renderer.job import Stored
from renderer.weights.codecs.rows import bf16, fp8, int8
from renderer.weights.codecs.rows.encoded import EncodedRows, Loss, RowCoder
from renderer.weights.codecs.rows.scaled_rows import ScaledRows

__all__ = ["ROW_CODERS", "EncodedRows", "Loss", "RowCoder", "ScaledRows"]

ROW_CODERS: Mapping[Stored, RowCoder] = MappingProxyType({"bf16": bf16, "fp8": fp8, "int8": int8})
"""Every codec's numbers by its name."""
