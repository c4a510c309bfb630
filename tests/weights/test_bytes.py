"""The bytes of a packed store, for good: whatever is changed in how it is made, its files stay what they are.

Stores of models that edit nothing have no vision tower any more; their other files are those of the first version.
"""

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
    "bf16": "73e3d7d587f38209ce7435db5984a8fb00b688135cf6c365b5ba253b8caf38e2",
    "fp8": "3fd0b126882f15abc16438475180b62bde10cef7ea63851aa2c5843da3a1c560",
}
"""Of the demo model's store, by its precision."""

TINY: Mapping[tuple[torch.dtype, Stored], str] = {
    (torch.bfloat16, "bf16"): "b61ae788859b01874074c1b58a6f16eed0e382f8a05aa9125558d28bd8bfc5e3",
    (torch.bfloat16, "fp8"): "76fc2756bbc33c677ed46924dcc8e0998b9c2655cfb5e0ce4598285eff9a2e50",
    (torch.float32, "bf16"): "b61ae788859b01874074c1b58a6f16eed0e382f8a05aa9125558d28bd8bfc5e3",
    (torch.float32, "fp8"): "4b06a23f728789b6864a41d25c0c32a87cb33370e9ed1a28ae69425250199312",
    (torch.float8_e4m3fn, "bf16"): "83fdbcf1f9e117089d1affbbd412121f614898a98ab057ca0a2a1bbbfa1b902f",
    (torch.float8_e4m3fn, "fp8"): "4cd2aabd881faeed773112e1980a310d9136d41104c80c42d05d9e91209e76ab",
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
