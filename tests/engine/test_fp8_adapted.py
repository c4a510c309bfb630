"""What LoRAs add to an FP8 product, wherever in memory their factors lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from renderer.engine.fp8_adapted import add_to
from renderer.engine.fp8_reference import Rows, quantise

ROWS, COLUMNS, WIDTH, RANK = 5, 16, 8, 4


def behind_one_another(storages: int) -> list[torch.Tensor]:
    """Two A of memory that goes on from one to the other: of one allocation or, as a GPU may give them, of two."""
    flat = np.random.default_rng(3).standard_normal(2 * RANK * COLUMNS, np.float32)
    if storages == 1:
        halves = torch.from_numpy(flat).chunk(2)
    else:
        halves = torch.from_numpy(flat[: len(flat) // 2]), torch.from_numpy(flat[len(flat) // 2 :])
    first, second = (half.view(RANK, COLUMNS) for half in halves)
    assert second.data_ptr() == first.data_ptr() + first.nbytes
    assert len({each.untyped_storage().data_ptr() for each in (first, second)}) == storages
    return [first, second]


def alone(rows: Rows, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return ((rows.values.float() @ down.T) * rows.scale[:, None]) @ up.T


@pytest.mark.parametrize("storages", [1, 2])
def test_two_loras_whose_memory_adjoins(storages: int) -> None:
    """Two that are weighted are two allocations, and neither reaches into the other."""
    dice = torch.Generator().manual_seed(2)
    rows = quantise(torch.randn(ROWS, COLUMNS, generator=dice))
    ups = [torch.randn(WIDTH, RANK, generator=dice) for _ in range(2)]
    pairs = list(zip(behind_one_another(storages), ups, strict=True))
    out = torch.zeros(rows.count, WIDTH)
    add_to(out, rows, ["attn.to_q"], {"attn.to_q": pairs})
    wanted = sum((alone(rows, down, up) for down, up in pairs), torch.zeros(rows.count, WIDTH))
    assert torch.allclose(out, wanted[: rows.count], atol=1e-5)
