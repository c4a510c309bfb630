"""What the toy family's networks have in memory and compute: the half of it that the estimates find by its name."""

from __future__ import annotations

from renderer.catalog import Architecture
from renderer.estimate.family_costs import Computed, Decode
from renderer.estimate.terms import Term, terms
from renderer.estimate.work import Work
from renderer.families.family import Shapes

FIXED_BYTES = 1000


def inside(way: Computed, tokens: int, text: int) -> tuple[Term, ...]:
    return terms(toy_rows=4 * 2 * (tokens + text) * way.shape.width)


def piece(shape: Architecture, tokens: int) -> int:
    return 3 * 2 * tokens * shape.width


def vectors(shape: Architecture) -> int:
    return 2 * shape.width


def places(shape: Architecture, tokens: int) -> int:
    return 0 * shape.width * tokens


def latents(tokens: int) -> int:
    return 2 * 2 * tokens * 16


def prompt_bytes(shape: Architecture, tokens: int) -> int:
    return 2 * tokens * shape.text_width


def encoder_layer(shape: Architecture, longest: int) -> tuple[Term, ...]:
    return terms(toy_layer=2 * 2 * longest * shape.text_width)


def decode(shape: Architecture, width: int, height: int, *, fused: bool) -> Decode:
    del shape, fused
    return Decode(terms(toy_decode=3 * 2 * width * height), 2 * width * height)


def looking_kept(shapes: Shapes) -> int:
    return 0 * len(shapes)


def vae_kept(shapes: Shapes) -> int:
    return 2 * sum(4 * 4 * 2 * 2 for _ in shapes)


def block_flops(shape: Architecture, tokens: int, text: int) -> tuple[float, float]:
    return 12.0 * shape.width**2 * (tokens + text), 4.0 * shape.width * tokens * (tokens + text)


def control_flops(shape: Architecture, tokens: int) -> float:
    return 0.0 * shape.width * tokens


def decode_flops(shape: Architecture, work: Work) -> tuple[float, float]:
    return 2.0 * work.pixels * shape.vae_width, 0.0


def encode(shape: Architecture, width: int, height: int, *, fused: bool) -> Decode:
    return decode(shape, width, height, fused=fused)


def encode_flops(shape: Architecture, work: Work) -> tuple[float, float]:
    return decode_flops(shape, work)
