"""Host memory by arithmetic, held against the buffers that the engine really makes."""

from __future__ import annotations

import torch

from renderer import catalog
from renderer.engine import modulation
from renderer.estimate import host
from renderer.text import MIB


def table_bytes(timesteps: int) -> int:
    terms = host.estimate_host(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", timesteps=timesteps).terms
    return next(term.bytes for term in terms if term.name == "modulation tables")


def test_a_modulation_table_is_as_large_as_it_is() -> None:
    """4.4 MB a timestep for Qwen-Image, to a page: not the 8 MiB that torch's own pinned memory would take."""
    shape = catalog.QWEN_IMAGE_ARCHITECTURE
    table = modulation._table(shape.layers, torch.empty((2, 6 * shape.width), dtype=torch.bfloat16), "cpu")
    assert table_bytes(1) == table.nbytes == 4_423_680
    assert table_bytes(512) < 2.2 * 1024 * MIB
