"""How columns are turned: in groups, by a Hadamard matrix that is symmetric and its own inverse.

The matrix is the product (Kronecker's) of as many of four columns as the group is a power of four, over the root of its
size, which is a power of two (Xu et al. 2025, ConvRot). Each of its rows and columns has as many more ones than minus
ones, so that what all columns have in common is spread over all of them, and does not come to stand in one.
"""

from __future__ import annotations

from functools import cache

import torch

_STEP = ((1.0, 1.0, 1.0, -1.0), (1.0, 1.0, -1.0, 1.0), (1.0, -1.0, 1.0, 1.0), (-1.0, 1.0, 1.0, 1.0))
"""The smallest turn, times two."""


def turned(values: torch.Tensor, group: int) -> torch.Tensor:
    """Float32 values, rows x columns, with each `group` of columns turned; 0: the values themselves.

    Additions in an order that is written here, so that every device makes the same bits, of any number of rows.
    """
    if not group:
        return values
    rows, columns = values.shape
    found, below = values, group
    while below > 1:
        below //= 4
        a, b, c, d = found.view(rows, -1, 4, below).unbind(2)
        both, apart, others, differing = a + b, a - b, c + d, c - d
        found = torch.stack((both + differing, both - differing, apart + others, others - apart), 2)
    return found.view(rows, columns).mul_(group**-0.5)


@cache
def matrix(group: int, device: str | torch.device = "cpu") -> torch.Tensor:
    """The turn of a group of columns times the root of its size: [group, group] of 1 and -1 in float32.

    Sums of whole numbers and their division by a power of two are exact in float32, so that a row's bits do not depend
    on how many come at a time.
    """
    found = step = torch.tensor(_STEP, device=device)
    while len(found) < group:
        found = torch.kron(found, step)
    return found
