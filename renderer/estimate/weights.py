"""What a model's weights take, from its shape alone: as files, as slots, as parts that stay on the GPU.

The layout is the packed store's own (`renderer.weights.layout`), so a forecast is a store's size to the byte.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from renderer import families
from renderer.catalog import Architecture
from renderer.estimate.family_costs import of
from renderer.families import Network
from renderer.job import Stored
from renderer.weights import layout
from renderer.weights.layout import PackedFile

_TOKENIZER_BYTES = 5_060_000
_HEADER_BYTES = 3000  # of one file of a store, on average: names, places and padding to a page


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes at one precision: of one DiT block without its modulation, of that modulation, and so on.

    `outside` is what of DiT and text encoder is on the GPU besides blocks; `embedding` stays in its file when streamed.
    `looking` is what of the vision tower is on the GPU besides its blocks, `vae_kept` what of the VAE is; `largest` the
    number of weights in a kind of file's largest layer.
    """

    block: int
    modulation: int
    outside: int
    text_block: int
    text_norm: int
    embedding: int
    vision: int
    looking: int
    vae: int
    vae_kept: int
    largest_of_block: int
    largest_of_text_block: int
    store: int

    @property
    def store_of_text(self) -> int:
        """Of a model that edits nothing: its store has no vision tower."""
        return self.store - self.vision


@lru_cache(maxsize=32)
def weight_bytes(shape: Architecture, precision: Stored) -> WeightBytes:
    """The bytes of a shape's weights at a precision. Of blocks of several kinds, each counts as the largest."""
    family, costs = families.find(shape.family), of(shape)
    found = family.shapes(shape)
    files = layout.plan_files(family, found, precision)
    dit, text = family.network("transformer"), family.network("text_encoder")

    def size(network: Network, kinds: Iterable[str]) -> int:
        return sum(map(_bytes, _of_kinds(files, network, kinds)))

    def largest_file(network: Network, kinds: Iterable[str]) -> int:
        return max((_bytes(file) for file in _of_kinds(files, network, kinds)), default=0)

    def largest_weight(network: Network) -> int:
        streamed = _of_kinds(files, network, _streamed(network))
        return max(math.prod(found[network.role][tensor.source]) for file in streamed for tensor in file.tensors)

    norm = 2 * shape.text_width
    parts = {
        "block": largest_file(dit, _streamed(dit)),
        "modulation": largest_file(dit, (each.beforehand.kind for each in dit.sections if each.beforehand)),
        "outside": size(dit, (each.kind for each in dit.outside)),
        "text_block": largest_file(text, _streamed(text)),
        "text_norm": norm,
        "embedding": size(text, (each.kind for each in text.outside if not each.optional)) - norm,
        "vision": size(text, (each.kind for each in text.outside if each.optional)),
        "looking": costs.looking_kept(found["text_encoder"]),
        "vae": size(family.network("vae"), (each.kind for each in family.network("vae").outside)),
        "vae_kept": costs.vae_kept(found["vae"]),
    }
    count = 2 * shape.layers + shape.text_layers + 4
    store = (
        shape.layers * (parts["block"] + parts["modulation"])
        + shape.text_layers * parts["text_block"]
        + sum(parts[name] for name in ("outside", "text_norm", "embedding", "vision", "vae"))
    )
    return WeightBytes(
        **parts,
        largest_of_block=largest_weight(dit),
        largest_of_text_block=largest_weight(text),
        store=store + count * _HEADER_BYTES + _TOKENIZER_BYTES,
    )


def _streamed(network: Network) -> list[str]:
    return [section.streamed.kind for section in network.sections]


def _of_kinds(files: Iterable[PackedFile], network: Network, kinds: Iterable[str]) -> list[PackedFile]:
    wanted = set(kinds)
    return [file for file in files if file.network == network.role and file.kind in wanted]


def _bytes(file: PackedFile) -> int:
    return sum(tensor.bytes for tensor in file.tensors)
