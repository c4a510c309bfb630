"""The readers' and the schemes' numbers: bytes of a file's rows as values. Torch's half of `renderer.weights.readers`.

Those of `safetensors` are there already; `gguf` asks the library of that name; `bitsandbytes` looks up four bits in a
table; `scaled` hands on eight bits with their scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import torch

from renderer.weights.codecs.rows import ScaledRows
from renderer.weights.readers.reader import TensorAt
from renderer.weights.readers.values import bitsandbytes, gguf, safetensors, scaled

__all__ = ["VALUES", "Values"]


class Values(Protocol):
    """A reader's numbers."""

    def values(
        self, place: TensorAt, first: int, raw: torch.Tensor, read: Callable[[TensorAt], torch.Tensor]
    ) -> torch.Tensor | ScaledRows:
        """Some rows of a tensor, [rows, …] in any format of floats, from their bytes `raw`; `first` is the first one.

        Rows with scales are handed on as they are, for codecs that keep such. They may lie in `raw`'s memory. `read`
        gives all bytes of a place that lies beside it.
        """


VALUES: Mapping[str, Values] = MappingProxyType(
    {"safetensors": safetensors, "gguf": gguf, "bitsandbytes": bitsandbytes, "scaled": scaled}
)
"""Every reader's and every scheme's numbers by its name."""
