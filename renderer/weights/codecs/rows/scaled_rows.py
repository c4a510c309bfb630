"""Rows that are scaled already: eight bits a number, a scale a row, and perhaps columns that were turned in groups.

The values they stand for are multiplied in float32 and rounded to bf16 once. A codec of the same form may keep them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

_STEP = ((1.0, 1.0, 1.0, -1.0), (1.0, 1.0, -1.0, 1.0), (1.0, -1.0, 1.0, 1.0), (-1.0, 1.0, 1.0, 1.0))
"""The smallest turn: larger ones are its products with itself, by Kronecker."""


@dataclass(frozen=True, slots=True)
class ScaledRows:
    """`values`, [rows, …] in e4m3, e5m2 or int8, times `scale`, [rows] in float32.

    `turned` is how many columns were turned together before (ConvRot), a power of four; 0 where none were. The turn is
    a Hadamard matrix that is symmetric and its own inverse, so that the same turn undoes it.
    """

    values: torch.Tensor
    scale: torch.Tensor
    turned: int = 0

    def whole(self) -> torch.Tensor:
        """What they stand for, in bf16 and in new memory."""
        found = self.values.float().view(len(self.values), -1)
        if self.turned:
            found = (found.view(-1, self.turned) @ _turn(self.turned)).view(found.shape) / self.turned**0.5
        found *= self.scale[:, None]
        return found.to(torch.bfloat16).view(self.values.shape)


@cache
def _turn(group: int) -> torch.Tensor:
    """The turn of a group of columns times the root of its size: [group, group] of 1 and -1.

    Sums of whole numbers and their division by a power of two are exact in float32, so that a row's bits do not depend
    on how many come at a time.
    """
    found = step = torch.tensor(_STEP)
    while len(found) < group:
        found = torch.kron(found, step)
    return found
