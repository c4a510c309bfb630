"""What a model's weights take, from its shape alone: as files, as slots, as parts that stay on the GPU.

The layout is the packed store's own (`renderer.weights.layout`), so a forecast is a store's size to the byte.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from renderer.catalog import Architecture, Role
from renderer.estimate.decode import kept_bytes
from renderer.families import QWEN_IMAGE_FAMILY
from renderer.job import Stored
from renderer.weights import layout

_TOKENIZER_BYTES = 5_060_000
_HEADER_BYTES = 3000  # of one file of a store, on average: names, places and padding to a page


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes at one precision: of one DiT block without its modulation, of that modulation, and so on.

    `outside` is what of DiT and text encoder is on the GPU besides blocks; `embedding` stays in its file when streamed.
    `vae_kept` is what of the VAE is on the GPU; `largest` the number of weights in a kind of file's largest layer.
    """

    block: int
    modulation: int
    outside: int
    text_block: int
    text_norm: int
    embedding: int
    vision: int
    vae: int
    vae_kept: int
    largest_of_block: int
    largest_of_text_block: int
    store: int


@lru_cache(maxsize=32)
def weight_bytes(shape: Architecture, precision: Stored) -> WeightBytes:
    """The bytes of a shape's weights at a precision."""
    text = shape.text_width
    found = QWEN_IMAGE_FAMILY.shapes(shape)
    files = {(file.network, file.kind): file for file in layout.plan_files(QWEN_IMAGE_FAMILY, found, precision)}

    def size(network: Role, kind: str) -> int:
        return sum(tensor.bytes for tensor in files[network, kind].tensors)

    def largest(network: Role) -> int:
        return max(math.prod(found[network][tensor.source]) for tensor in files[network, "block"].tensors)

    norm = 2 * text
    parts = {
        "block": size("transformer", "block"),
        "modulation": size("transformer", "modulation"),
        "outside": size("transformer", "outside"),
        "text_block": size("text_encoder", "block"),
        "text_norm": norm,
        "embedding": size("text_encoder", "outside") - norm,
        "vision": size("text_encoder", "vision"),
        "vae": size("vae", "whole"),
        "vae_kept": kept_bytes(found["vae"]),
    }
    count = 2 * shape.layers + shape.text_layers + 4
    store = (
        shape.layers * (parts["block"] + parts["modulation"])
        + shape.text_layers * parts["text_block"]
        + sum(parts[name] for name in ("outside", "text_norm", "embedding", "vision", "vae"))
    )
    return WeightBytes(
        **parts,
        largest_of_block=largest("transformer"),
        largest_of_text_block=largest("text_encoder"),
        store=store + count * _HEADER_BYTES + _TOKENIZER_BYTES,
    )
