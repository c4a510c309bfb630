"""What a reader is: how tensors lie in somebody's file, found out from its header. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from renderer.families.family import Shape


@dataclass(frozen=True, slots=True)
class TensorAt:
    """Where a tensor lies in somebody's file: `offset` is from the file's beginning, in bytes.

    `dtype` is what its reader calls its type, and `shape` the tensor's own, whatever lies in the file. `besides` are
    the places of what its values cannot be told without, as scales, by what they are.
    """

    path: Path
    reader: str
    dtype: str
    shape: Shape
    offset: int
    bytes: int
    besides: Mapping[str, TensorAt] = field(default_factory=dict)

    @property
    def row_bytes(self) -> int:
        """Of one row, the smallest piece that is read."""
        return self.bytes // self.shape[0]

    @property
    def is_plain(self) -> bool:
        """Whether its bytes are the tensor itself, as safetensors has it."""
        return self.reader == "safetensors" and not self.besides


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file says that is in it: its tensors by the names there. `sha256` is that of its header."""

    path: Path
    tensors: Mapping[str, TensorAt]
    metadata: Mapping[str, str]
    sha256: str


class Reader(Protocol):
    """A format of files. Each tensor of a file is in its contents once, and no key of it is left over."""

    @property
    def name(self) -> str:
        """What it is called, in tables and in `TensorAt.reader`."""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The types whose values it tells (`renderer.weights.readers.values`); others are refused by their names."""

    def is_its(self, start: bytes) -> bool:
        """Whether a file is of this format, by its first `START_BYTES`."""

    def read(self, path: Path) -> Contents:
        """A file's contents, from its header alone. Raises `ModelError`, which names the file, if it is not sound."""
