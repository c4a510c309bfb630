"""How tensors lie in other people's files: a reader a format. Imports no torch; what tells values is `values`.

    reader.py        what a reader is, and where a tensor lies
    safetensors.py   safetensors: numbers that mean what they are
    values/          each one's bytes as numbers, in torch

A checkpoint is read by these, whatever its files are, and the packer knows none by its name. A new one is a file here,
one in `values`, and a line in either's table. Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from renderer.errors import ModelError
from renderer.weights.readers import safetensors
from renderer.weights.readers.reader import Contents, Reader, TensorAt

__all__ = ["READERS", "SAFETENSORS", "START_BYTES", "Contents", "Reader", "TensorAt", "read"]

SAFETENSORS: Reader = safetensors.READER
"""Who says what a file is that nobody reads."""

READERS: Mapping[str, Reader] = MappingProxyType({SAFETENSORS.name: SAFETENSORS})
"""Every reader by its name."""

START_BYTES = 64
"""How much of a file tells its format."""


def read(path: Path) -> Contents:
    """What is in a file, by the reader of its format. Raises `ModelError`, which names the file."""
    try:
        with path.open("rb") as stream:
            start = stream.read(START_BYTES)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    reader = next((reader for reader in READERS.values() if reader.is_its(start)), SAFETENSORS)
    return reader.read(path)
