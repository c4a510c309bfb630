"""What Qwen-Image's networks have in memory where they have most, and how much they compute.

The half of the family that `renderer.estimate` finds by its name (`estimate.family_costs.Costs`). Each function names
the tensors that the code holds at its peak; `tests/estimate` counts them in that code itself, and
`tests/benchmarks/memory-h200.md` in what a GPU showed. docs/forecasts.md derives the whole.

Symbols: N tokens of the picture (one of 16 x 16 pixels), T of the prompt, D the DiT's width; 2 bytes a number in bf16.
"""

from __future__ import annotations

import math
import re

from renderer.catalog import DROPPED_TOKENS, Architecture
from renderer.estimate.family_costs import Computed, Decode
from renderer.estimate.terms import Term, terms, total
from renderer.estimate.work import BEHIND, Work
from renderer.families.family import Shapes
from renderer.families.qwen_image import decode as vae
from renderer.text import MIB
from renderer.weights.codecs import CODECS, PLAIN

FIXED_BYTES = 5 * MIB
"""The table of rotary frequencies (4 MiB) and small things."""

_VECTORS = 2 * 6
"""Of a block's two streams: shift, scale and gate, before attention and before the MLP."""

# ---- one block -------------------------------------------------------------------------------------------------------


def inside(way: Computed, tokens: int, text: int) -> tuple[Term, ...]:
    """What one block has in memory for one rider, its input included: at its attention or at its MLP.

    The same for several that go through it together, whose tokens and texts these are. Attention takes more where its
    scores are in memory; what is there before them, in projections and rotation, is less than in the MLP always.
    """
    if way.arithmetic != PLAIN.arithmetic:
        parts = _fused_attention(way, tokens, text), _fused_mlp(way, tokens, text)
    else:
        parts = _attention(way, tokens, text), _mlp(way, tokens, text)
    return max(parts, key=total)


def _fused_attention(way: Computed, tokens: int, text: int) -> tuple[Term, ...]:
    """Of blocks that multiply what is stored (`engine.scaled_blocks`); riders' rows are brought together before it."""
    both = 2 * (tokens + text) * way.shape.width
    there = terms(block_input=both, side_by_side=both, queries_keys_values=3 * both, attention_output=both)
    return there + _rows(way, both) + _scores(way, tokens + text)


def _attention(way: Computed, tokens: int, text: int) -> tuple[Term, ...]:
    both = 2 * (tokens + text) * way.shape.width
    norms = terms(block_input=both, normed_and_modulated=2 * both)
    heads = terms(queries_keys_values_by_stream=3 * both, queries_keys_values=3 * both, attention_output=both)
    return norms + heads + _scores(way, tokens + text)


def _scores(way: Computed, rows: int) -> tuple[Term, ...]:
    """All scores and their softmax in bf16, where attention is not fused."""
    if way.kernels.fused_attention:
        return ()
    return terms(attention_scores_twice=2 * 2 * way.shape.heads * rows**2)


def _fused_mlp(way: Computed, tokens: int, text: int) -> tuple[Term, ...]:
    """The MLPs of both streams, whose rows lie behind one another."""
    both = 2 * (tokens + text) * way.shape.width
    there = terms(block_input=both, side_by_side=both, residual_sums=both, MLP_hidden=4 * both)
    return there + _rows(way, 4 * both, "MLP activated ")


def _mlp(way: Computed, tokens: int, text: int) -> tuple[Term, ...]:
    image, both = 2 * tokens * way.shape.width, 2 * (tokens + text) * way.shape.width
    wide = 2 * max(tokens, text) * way.shape.width
    return terms(
        block_input=both,
        normed_and_modulated=4 * both,  # before attention and before the MLP
        attention_output=both,
        residual_sums=both,
        MLP_hidden=3 * 4 * wide,  # as it is, its sigmoid, their product
        image_MLP_output=image if text > tokens else 0,  # the text's comes second
    )


def _rows(way: Computed, plain: int, what: str = "") -> tuple[Term, ...]:
    """Rows that take so many bytes in bf16, as the codec's products want them."""
    name = what + way.arithmetic.upper() + ("" if what else " rows")
    return (Term(name, plain * CODECS[way.precision].row_bytes // 2),)


def piece(shape: Architecture, tokens: int) -> int:
    """An MLP's rows in a byte each, and its result."""
    return 14 * shape.width * tokens


def block_flops(shape: Architecture, tokens: int, text: int) -> tuple[float, float]:
    """Linear layers (four of D x D and an MLP of 4 D a stream: 12 D^2 weights a row) and attention."""
    rows = tokens + text
    return 24.0 * shape.width**2 * rows, 4.0 * shape.width * rows**2


def control_flops(shape: Architecture, tokens: int) -> float:
    """Two layers of D x D."""
    return 4.0 * shape.width**2 * tokens


# ---- what a picture has with it --------------------------------------------------------------------------------------


def vectors(shape: Architecture) -> int:
    """Modulation of one block for one step."""
    return _VECTORS * shape.width * 2


def places(shape: Architecture, tokens: int) -> int:
    """Rotary frequencies of a picture: half a head's width of complex64 a token."""
    return tokens * shape.head_width // 2 * 8


def latents(tokens: int) -> int:
    """Sixty-four numbers a token, five times."""
    return 5 * tokens * 64 * 2


# ---- text encoder ----------------------------------------------------------------------------------------------------


def prompt_bytes(shape: Architecture, tokens: int) -> int:
    """Every layer's hidden state, keys and values: transformers keeps the states of all; the last is wanted."""
    a_token = 2 * shape.text_width + 2 * 2 * shape.text_key_width
    return (tokens + DROPPED_TOKENS + BEHIND) * a_token * shape.text_layers


def encoder_layer(shape: Architecture, longest: int) -> tuple[Term, ...]:
    """Its MLP and its residuals, for the longest prompt."""
    return terms(
        MLP_of_the_longest_prompt=3 * 2 * longest * shape.text_mlp_width,
        its_residuals=3 * 2 * longest * shape.text_width,
    )


def looking_kept(shapes: Shapes) -> int:
    """The vision tower's patches and its merger, in bf16."""
    around = (shape for name, shape in shapes.items() if re.match(r"visual\.(?!blocks\.)", name))
    return sum(2 * math.prod(shape) for shape in around)


# ---- VAE -------------------------------------------------------------------------------------------------------------


def decode(shape: Architecture, width: int, height: int, *, fused: bool) -> Decode:
    """A decode in strips of rows, over its weights."""
    return vae.decode(shape.vae_width, width, height, fused=fused)


def encode(shape: Architecture, width: int, height: int, *, fused: bool) -> Decode:
    """A picture that goes in, in strips of rows as well."""
    return vae.encode(shape.vae_width, width, height, fused=fused)


def vae_kept(shapes: Shapes) -> int:
    """Of kernels over frames the last slice alone, the rest in float32."""
    return vae.kept_bytes(shapes)


def decode_flops(shape: Architecture, work: Work) -> tuple[float, float]:
    """Convolutions of 3 x 3, stage by stage at its share of the pixels; one head of 4 C over all latent pixels."""
    base, square = shape.vae_width, 9.0
    found = square * base * 3
    for part, before, width, up in ((64, 4, 4, 2), (16, 2, 4, 2), (4, 2, 2, 1), (1, 1, 1, 0)):
        found += square * base**2 * (before * width + 5 * width**2) / part
        found += square * base**2 * width * up / (part / 4) if up else 0.0
    found += 4 * square * (4 * base) ** 2 / 64
    return work.pixels * 2 * found, 4.0 * 4 * base * (work.pixels // vae.LATENT_PIXEL**2) ** 2


def encode_flops(shape: Architecture, work: Work) -> tuple[float, float]:
    """The encoder's two residual blocks a stage and what halves it, at a stage's share of the pixels; its middle."""
    base, square = shape.vae_width, 9.0
    found = square * base * 3
    for part, before, width, down in ((1, 1, 1, 1), (4, 1, 2, 1), (16, 2, 4, 1), (64, 4, 4, 0)):
        found += square * base**2 * (before * width + 3 * width**2 + width**2 * down / 4) / part
    found += 4 * square * (4 * base) ** 2 / 64
    return work.pixels * 2 * found, decode_flops(shape, work)[1]
