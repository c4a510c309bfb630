"""How tensors lie in other people's files: a reader a format. Imports no torch; what tells values is `values`.

    reader.py        what readers and schemes are, and where a tensor lies
    safetensors.py   safetensors: numbers that mean what they are
    gguf.py          GGUF: blocks of numbers with scales of their own
    bitsandbytes.py  four bits and eight, in safetensors, as diffusers saves them
    scaled.py        ComfyUI's scaled FP8 and int8, in safetensors
    values/          each one's bytes as numbers, in torch

A reader knows a format of files; a scheme knows how a tool keeps matrices in safetensors. A checkpoint is read by
these, whatever its files are, and the packer knows none by its name. A new one is a file here, one in `values`, and a
line in either's table. Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from renderer.errors import ModelError
from renderer.weights.readers import bitsandbytes, gguf, safetensors, scaled
from renderer.weights.readers.reader import Contents, Reader, Scheme, TensorAt

__all__ = [
    "MEANT_BY",
    "READERS",
    "SAFETENSORS",
    "SCHEMES",
    "START_BYTES",
    "Contents",
    "Reader",
    "Scheme",
    "TensorAt",
    "put_together",
    "read",
    "types_of",
]

SAFETENSORS: Reader = safetensors.READER
"""Who says what a file is that nobody reads."""

READERS: Mapping[str, Reader] = MappingProxyType({SAFETENSORS.name: SAFETENSORS, gguf.READER.name: gguf.READER})
"""Every reader by its name."""

SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {scheme.name: scheme for scheme in (bitsandbytes.SCHEME, scaled.SCHEME)}
)
"""Every scheme by its name."""

MEANT_BY = frozenset({scaled.TABLE})
"""Keys of a file's metadata on which its tensors' values depend."""

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


def put_together(
    tensors: Mapping[str, TensorAt], files: Sequence[Contents], hub_name: Callable[[str], str]
) -> dict[str, TensorAt]:
    """A network's tensors with the matrices of every scheme put together, as `Scheme.take`; by the hub's names."""
    found = dict(tensors)
    for scheme in SCHEMES.values():
        found = scheme.take(found, files, hub_name)
    return found


def types_of(name: str) -> tuple[str, ...]:
    """The types whose values a reader or a scheme of this name tells."""
    return (READERS.get(name) or SCHEMES[name]).dtypes
