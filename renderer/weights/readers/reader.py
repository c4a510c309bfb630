"""What a reader is: how tensors lie in somebody's file, found out from its header. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from renderer.errors import ModelError, shorten
from renderer.families.family import Shape

_MAX_MARK_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class TensorAt:
    """Where a tensor lies in somebody's file: `offset` is from the file's beginning, in bytes.

    `dtype` is what its reader calls its type, and `shape` the tensor's own, whatever lies in the file. `besides` are
    the places of what its values cannot be told without, as scales, by what they are; `settings` are the numbers of
    that kind, as the sizes of groups.
    """

    path: Path
    reader: str
    dtype: str
    shape: Shape
    offset: int
    bytes: int
    besides: Mapping[str, TensorAt] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)

    @property
    def row_bytes(self) -> int:
        """Of one row, the smallest piece that is read."""
        return self.bytes // self.shape[0]

    @property
    def row_memory(self) -> int:
        """Of one row, the bytes that its values take while they are made: what is not plain goes through float32."""
        return self.row_bytes if self.is_plain else max(self.row_bytes, 4 * math.prod(self.shape[1:]))

    @property
    def paths(self) -> frozenset[Path]:
        """The files that its values are in."""
        return frozenset({self.path, *(path for each in self.besides.values() for path in each.paths)})

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


class Scheme(Protocol):
    """How a tool keeps matrices in safetensors: as which tensors, by which names, with which marks."""

    @property
    def name(self) -> str:
        """What it is called, in tables and in `TensorAt.reader`."""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The types whose values it tells."""

    def take(
        self, tensors: Mapping[str, TensorAt], files: Sequence[Contents], hub_name: Callable[[str], str]
    ) -> dict[str, TensorAt]:
        """A network's tensors with its matrices put together, and without what they are put together of.

        `tensors` are by the hub's names, of all `files`; `hub_name` is what a name in those is there. What is not in
        the scheme's form stays as it is. Raises `ModelError`, which names file and tensor, for a matrix that is not
        whole, and for what belongs to none; without a hint for a form of the tool's that is not read.
        """


def read_mark(name: str, place: TensorAt) -> dict[str, Any]:
    """A small tensor that is a table in JSON: what a tool says of a layer. Raises `ModelError`."""
    where = f'{place.path}: tensor "{shorten(name)}"'
    if place.dtype not in {"U8", "I8"} or place.bytes > _MAX_MARK_BYTES:
        raise damaged(where, "is no mark of a layer")
    try:
        with place.path.open("rb") as stream:
            stream.seek(place.offset)
            found = json.loads(stream.read(place.bytes))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(where, "cannot be read as JSON") from error
    if not isinstance(found, dict):
        raise damaged(where, "is not a table")
    return found


def damaged(where: str, what: str) -> ModelError:
    """That a file's tensors are not what its tool writes."""
    return ModelError(f"{where} {what}", hint="fetch or make it again: it is damaged, or its tool does not say all")
