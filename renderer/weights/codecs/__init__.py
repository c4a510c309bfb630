"""How matrices are kept in a packed store: a codec a precision. Imports no torch; what computes with numbers is `rows`.

    codec.py   what a codec is, and its parts
    bf16.py    as the hub has it
    fp8.py     e4m3, with a scale a row
    int8.py    whole numbers, with a scale a row, of columns that were turned
    int4.py    the same in four bits, with a step and a least value a group
    rows/      each one's numbers, in torch: encode and decode

Layout, packer, store, engine and estimate ask codecs, and know none by its name. A new one is a file here, one in
`rows`, a line in either's table, and its name among `job.Stored`. Knows nothing of files and networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from renderer.job import Stored
from renderer.weights.codecs import bf16, fp8, int4, int8
from renderer.weights.codecs.codec import WEIGHT, Codec, CodecPart

__all__ = ["CODECS", "PLAIN", "WEIGHT", "Codec", "CodecPart", "Kept", "kept", "types"]

PLAIN: Codec = bf16.CODEC
"""What everything is kept by that is no large matrix: biases, norms, convolutions, embeddings."""

CODECS: Mapping[Stored, Codec] = MappingProxyType(
    {"bf16": PLAIN, "fp8": fp8.CODEC, "int8": int8.CODEC, "int4": int4.CODEC}
)
"""Every codec by its name."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How a tensor of a network is kept in a file: by which codec, and its parts' names there by their suffixes."""

    codec: Codec
    parts: Mapping[str, str]


def kept(dtypes: Mapping[str, str]) -> dict[str, Kept]:
    """By the names that a network's module has, how its tensors are kept: from a file's names and their types."""
    found: dict[str, Kept] = {}
    for name in dtypes:
        if name.rpartition(".")[2] == WEIGHT and (each := _of_weight(name, dtypes)):
            found[name] = each
    parts = {part for each in found.values() for part in each.parts.values()}
    return {name: found.get(name, Kept(PLAIN, {WEIGHT: name})) for name in dtypes if name in found or name not in parts}


def types() -> frozenset[str]:
    """The types of tensors that a packed store may have."""
    return frozenset(dtype for codec in CODECS.values() for dtype in codec.dtypes.values())


def _of_weight(name: str, dtypes: Mapping[str, str]) -> Kept | None:
    """The codec whose parts lie beside a weight, with the types that they must have."""
    stem = name.removesuffix(WEIGHT)
    for codec in CODECS.values():
        parts = {suffix: stem + suffix for suffix in codec.dtypes}
        if all(dtypes.get(part) == codec.dtypes[suffix] for suffix, part in parts.items()):
            return Kept(codec, parts)
    return None
