"""The bytes of a packed store, for good: whatever is changed in how it is made, its files stay what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from renderer.job import Stored
from renderer.weights.index import FORMAT_VERSION, Index
from tests.weights import tiny
from tests.weights.tiny import Source

DEMO: Mapping[Stored, str] = {
    "bf16": "d05a2a30bc75189c48b04af5d529081b61cd2234103865a6079c36ae01797324",
    "fp8": "71e1fdd1159c4ebf4619bb68264264cce2b8f57ffc305f4ced93cdbc00d7d6f9",
}
"""Of the demo model's store, by its precision."""

TINY: Mapping[tuple[torch.dtype, Stored], str] = {
    (torch.bfloat16, "bf16"): "ba00fd559faf389b19acf2990fcbae6115babec0c1b625747d4e6b9d6d16ae27",
    (torch.bfloat16, "fp8"): "75bef7392f865d4c912748192b4d97cb75f29199bef11bf1c8a79fcdfed26287",
    (torch.float32, "bf16"): "ba00fd559faf389b19acf2990fcbae6115babec0c1b625747d4e6b9d6d16ae27",
    (torch.float32, "fp8"): "185ac48681c0ec3619a4e93641b1e01520d57d0032354877b7b80b1eebc0790b",
    (torch.float8_e4m3fn, "bf16"): "3d10938c41ecca50e0af547719b66a8e9fe5bbd37afd076a13c0e6a6e1a8a28c",
    (torch.float8_e4m3fn, "fp8"): "431cd5a2c6651d2d0803e95fcff294ae91ef0aff762070c8581784c6d1359f0c",
}
"""Of the tiny model's store, by what its checkpoint is in and by its precision."""


def digest(index: Index) -> str:
    """Over every file's name and SHA-256, and the errors that were recorded."""
    files = [(file.name, file.sha256) for file in index.files]
    return hashlib.sha256(json.dumps([files, index.errors], sort_keys=True).encode()).hexdigest()


def test_the_format() -> None:
    """Never change one of these for a store of format 1: stores on people's disks have these bytes."""
    assert FORMAT_VERSION == 1


@pytest.mark.parametrize("precision", DEMO)
def test_the_demo_model(precision: Stored, demo_folder: Path, tmp_path: Path) -> None:
    """Every file of its store has the bytes that it had in the first version."""
    assert digest(Source(demo_folder).pack(tmp_path / "packed", precision)) == DEMO[precision]


@pytest.mark.parametrize(("dtype", "precision"), TINY)
def test_other_formats(dtype: torch.dtype, precision: Stored, tmp_path: Path) -> None:
    """Also of a checkpoint in float32 and of one that is e4m3 already."""
    source = tiny.make(tmp_path / "source", dtype)
    assert digest(source.pack(tmp_path / "packed", precision)) == TINY[dtype, precision]
