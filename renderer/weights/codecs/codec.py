"""What a codec is: how one matrix of a network lies in a packed store. Frozen values; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from renderer.families.family import Shape
from renderer.job import BlockArithmetic, Stored
from renderer.weights.headers import PlannedTensor, tensor_bytes

WEIGHT = "weight"
"""The suffix of a codec's first part, and what a layer's matrix is called in a checkpoint."""

SCALE = "scale"
"""The suffix of a part that has a number for each row."""


@dataclass(frozen=True, slots=True)
class CodecPart:
    """One of the tensors that a matrix is kept as: what follows its layer's name, its type in safetensors, its shape.

    Values of fewer than eight bits are kept several in a byte (`U8`, with fewer columns): a part's bytes are its own,
    and not the matrix's.
    """

    suffix: str
    dtype: str
    shape: Shape

    @property
    def bytes(self) -> int:
        return tensor_bytes(self.dtype, self.shape)

    def planned(self, name: str) -> PlannedTensor:
        """The part as a tensor of a file, under a name."""
        return PlannedTensor(name, self.dtype, self.shape)


class Codec(Protocol):
    """How a matrix is kept. Its numbers are made and read back in `renderer.weights.codecs.rows`."""

    @property
    def name(self) -> Stored:
        """The precision of a store whose matrices are kept so."""

    @property
    def error(self) -> float:
        """How far a value may be from what is read back, as a share of the largest magnitude in its row.

        Of rows of random numbers, where a codec spreads the error of one value over others.
        """

    @property
    def is_plain(self) -> bool:
        """Whether the one part is the matrix in bf16, which is multiplied where it lies."""

    @property
    def multiplied_as(self) -> Stored:
        """The codec in whose form its matrices are multiplied: its own, or another's, to which they are unpacked."""

    @property
    def arithmetic(self) -> BlockArithmetic:
        """What its matrices are multiplied in as they are, where a card can; `bf16` after they were decoded."""

    @property
    def capability(self) -> tuple[int, int]:
        """The least compute capability of cards with such products."""

    @property
    def on_cpu(self) -> bool:
        """Whether its matrices are multiplied as they are on a CPU, too."""

    @property
    def row_bytes(self) -> int:
        """Bytes of each number of the rows that its matrices are multiplied with."""

    @property
    def dtypes(self) -> Mapping[str, str]:
        """The parts' types by their suffixes: what a matrix's codec is told by in a file. No two codecs' are alike."""

    def parts(self, shape: Shape) -> tuple[CodecPart, ...]:
        """The parts of a matrix, `WEIGHT` first; each has as many rows as the matrix, so that rows can be made alone.

        Raises `ModelError` for a shape that cannot be kept so.
        """

    def shape(self, parts: Mapping[str, Shape]) -> Shape:
        """The matrix's shape, from its parts' shapes by their suffixes."""

    def turned(self, columns: int) -> int:
        """How many columns of a matrix as wide are turned together before they are kept; 0: none are."""
