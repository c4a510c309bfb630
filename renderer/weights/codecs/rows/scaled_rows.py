"""Rows that are scaled already: eight bits a number, a scale a row, and perhaps columns that were turned in groups.

The values they stand for are multiplied in float32 and rounded to bf16 once. A codec of the same form may keep them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from renderer.weights.codecs.rows.turns import matrix


@dataclass(frozen=True, slots=True)
class ScaledRows:
    """`values`, [rows, …] in e4m3, e5m2 or int8, times `scale`, [rows] in float32.

    `turned` is how many columns were turned together before (ConvRot), a power of four; 0 where none were. The same
    turn undoes it.
    """

    values: torch.Tensor
    scale: torch.Tensor
    turned: int = 0

    def whole(self) -> torch.Tensor:
        """What they stand for, in bf16 and in new memory."""
        found = self.values.float().view(len(self.values), -1)
        if self.turned:
            turn = matrix(self.turned, found.device)
            found = (found.view(-1, self.turned) @ turn).view(found.shape) / self.turned**0.5
        found *= self.scale[:, None]
        return found.to(torch.bfloat16).view(self.values.shape)
