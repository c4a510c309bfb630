"""What the arithmetic asks of a family: what its blocks, its text encoder and its VAE have in memory, and compute.

A family's own, `renderer.families.<name>.costs`, is found by its name and nothing else, as the engine finds its
networks. Bytes are those at the moment at which most is there; N are a picture's tokens, T a prompt's.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol, cast

from renderer import families
from renderer.catalog import Architecture
from renderer.estimate.terms import Term
from renderer.estimate.work import Kernels, Work
from renderer.families.family import Shapes
from renderer.job import BlockArithmetic, Stored


@dataclass(frozen=True, slots=True)
class Decode:
    """What a decode holds where it holds most, and the largest tensor that comes and goes there."""

    terms: tuple[Term, ...]
    piece: int


@dataclass(frozen=True, slots=True)
class Computed:
    """How blocks of a shape are computed: kept by a codec, multiplied in an arithmetic, by a card's kernels."""

    shape: Architecture
    precision: Stored
    arithmetic: BlockArithmetic
    kernels: Kernels


class Costs(Protocol):
    """A family's terms of memory and of operations: a module of these functions."""

    @property
    def FIXED_BYTES(self) -> int:  # noqa: N802  # a module's constant
        """What is on the GPU for all pictures besides weights."""

    def inside(self, way: Computed, tokens: int, text: int) -> tuple[Term, ...]:
        """What one block has in memory for one rider, its input included."""

    def piece(self, shape: Architecture, tokens: int) -> int:
        """The largest tensor that comes and goes in a block."""

    def vectors(self, shape: Architecture) -> int:
        """Bytes that a step hands to one block, computed beforehand."""

    def places(self, shape: Architecture, tokens: int) -> int:
        """Bytes by which a picture of so many tokens tells its blocks where each is: rotary frequencies."""

    def latents(self, tokens: int) -> int:
        """Bytes of a picture's latents, with what a scheduler has beside them."""

    def prompt_bytes(self, shape: Architecture, tokens: int) -> int:
        """What a prompt of so many tokens holds while it is encoded."""

    def encoder_layer(self, shape: Architecture, longest: int) -> tuple[Term, ...]:
        """What a layer of the text encoder has in memory beside that, for its longest prompt."""

    def decode(self, shape: Architecture, width: int, height: int, *, fused: bool) -> Decode:
        """The decode of a picture of so many pixels, over its weights; `fused` attention never holds its scores."""

    def encode(self, shape: Architecture, width: int, height: int, *, fused: bool) -> Decode:
        """The same of a picture that goes in: its way to latents."""

    def looking_kept(self, shapes: Shapes) -> int:
        """What of a text encoder's tensors is on the GPU besides blocks, where it is shown pictures."""

    def vae_kept(self, shapes: Shapes) -> int:
        """What of the VAE's tensors is on the GPU."""

    def block_flops(self, shape: Architecture, tokens: int, text: int) -> tuple[float, float]:
        """Floating-point operations of one block for one pass: of linear layers, and of attention."""

    def control_flops(self, shape: Architecture, tokens: int) -> float:
        """The same of a ControlNet's block beside it, for so many tokens of the picture's own."""

    def decode_flops(self, shape: Architecture, work: Work) -> tuple[float, float]:
        """The same of a decode: of convolutions, and of attention."""

    def encode_flops(self, shape: Architecture, work: Work) -> tuple[float, float]:
        """The same of a picture that goes in."""


@cache
def _module(name: str) -> Costs:
    return cast("Costs", importlib.import_module(name))


def of(shape: Architecture) -> Costs:
    """The terms of a shape's family. Raises `LookupError` for a family that is not there."""
    return _module(families.find(shape.family).costs)


def modules() -> Mapping[str, Costs]:
    """Every family's, by its name."""
    return {name: _module(family.costs) for name, family in families.FAMILIES.items()}
