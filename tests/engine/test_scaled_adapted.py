"""What LoRAs add to an FP8 product, wherever in memory their factors lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from renderer.engine import fp8_reference
from renderer.engine.adapted import ADAPTED
from renderer.engine.fp8_reference import Rows, quantise
from renderer.engine.scaled_adapted import Wearers, add_to, wearers

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
    worn = Wearers({"attn.to_q": pairs}, slice(0, 0), slice(0, rows.count))
    in_text, in_image = worn.terms(fp8_reference, rows, ((), ("attn.to_q",)))
    assert not in_text
    add_to(fp8_reference, out, in_image)
    wanted = sum((alone(rows, down, up) for down, up in pairs), torch.zeros(rows.count, WIDTH))
    assert torch.allclose(out, wanted[: rows.count], atol=1e-5)


def test_riders_with_the_same_go_as_one() -> None:
    """Behind one another and with the very same factors; others, and riders between them, part them."""
    pair, other = ((torch.ones(RANK, COLUMNS), torch.ones(WIDTH, RANK)) for _ in range(2))
    sets = [{"attn.to_q": [pair]}, {"attn.to_q": [pair]}, {"attn.to_q": [other]}, {}, {"attn.to_q": [other]}]
    spans = [(slice(2 * at, 2 * at + 2), slice(10 + 3 * at, 13 + 3 * at)) for at in range(len(sets))]
    riders = [{ADAPTED: each} for each in sets]
    found = wearers(riders, spans, together=True)
    assert [(each.text, each.image) for each in found] == [
        (slice(0, 4), slice(10, 16)),
        (slice(4, 6), slice(16, 19)),
        (slice(8, 10), slice(22, 25)),
    ]
    assert found[0].adapted["attn.to_q"][0] is pair
    assert [each.image for each in wearers(riders, spans, together=False)] == [
        image for (_, image), worn in zip(spans, sets, strict=True) if worn
    ]
