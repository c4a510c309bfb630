"""safetensors: tensors as they are, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from renderer.weights.headers import read_header
from renderer.weights.readers.reader import Contents, TensorAt

_BRACE = 8
"""Where the header begins, behind its length."""


class _Safetensors:
    name: ClassVar[str] = "safetensors"
    dtypes: ClassVar[tuple[str, ...]] = ("BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2")

    def is_its(self, start: bytes) -> bool:
        return start[_BRACE : _BRACE + 1] == b"{"

    def read(self, path: Path) -> Contents:
        header = read_header(path)
        tensors = {
            name: TensorAt(
                path, self.name, entry.dtype, entry.shape, header.data_offset + entry.begin, entry.end - entry.begin
            )
            for name, entry in header.tensors.items()
        }
        return Contents(path, tensors, header.metadata, header.sha256)


READER = _Safetensors()
