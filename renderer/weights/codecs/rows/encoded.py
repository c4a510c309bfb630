"""What becomes of rows when they are encoded, and what a codec's module of numbers has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from renderer.weights.codecs.rows.scaled_rows import ScaledRows


class Loss(NamedTuple):
    """For the relative error of a matrix: the squared norms of its difference to what is read back, and of itself."""

    difference: float
    original: float


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Rows as a codec keeps them, in host memory: its parts by their suffixes, and whether all numbers were finite.

    `loss` is None where nothing is lost but what bf16 has no room for.
    """

    parts: Mapping[str, torch.Tensor]
    is_finite: bool
    loss: Loss | None = None


class Unpacker(Protocol):
    """Brings a matrix from what a codec keeps into the first part of the codec in whose form it is multiplied."""

    def __call__(self, values: torch.Tensor, parts: Mapping[str, torch.Tensor]) -> None:
        """Fill `values`, [rows, columns], in: of one matrix's parts, or of several of one width behind one another."""


class RowCoder(Protocol):
    """A codec's numbers. Every step is one that gives the same bits on the CPU and on a GPU."""

    def encode(self, rows: torch.Tensor, device: str = "cpu") -> EncodedRows:
        """Rows of a matrix, [rows, columns] in any format of floats, reckoned on a device."""

    def take_over(self, rows: ScaledRows) -> EncodedRows | None:
        """Rows that are in its form already, with the bits they have; None for those of another, which are encoded."""

    def decode(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The bf16 matrix, [rows, columns], that parts stand for, where they are; a plain one is its part itself."""
