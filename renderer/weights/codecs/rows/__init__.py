"""The codecs' numbers: rows of a matrix made into its parts, and read back. Torch's half of `renderer.weights.codecs`.

`encoded` is what a codec makes of rows; `bf16`, `fp8`, `int8` and `int4` make it, also of `scaled_rows`; `turns` is how
columns are turned. Numbers in, numbers out: knows no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from renderer.job import Stored
from renderer.weights.codecs.rows import bf16, fp8, int4, int8
from renderer.weights.codecs.rows.encoded import EncodedRows, Loss, RowCoder, Unpacker
from renderer.weights.codecs.rows.scaled_rows import ScaledRows

__all__ = ["ROW_CODERS", "UNPACKERS", "EncodedRows", "Loss", "RowCoder", "ScaledRows", "Unpacker"]

ROW_CODERS: Mapping[Stored, RowCoder] = MappingProxyType({"bf16": bf16, "fp8": fp8, "int8": int8, "int4": int4})
"""Every codec's numbers by its name."""

UNPACKERS: Mapping[Stored, Unpacker] = MappingProxyType({"int4": int4.unpack_into})
"""Of each codec that is multiplied in the form of another, how it gets there."""
