"""The pieces of a block with scaled products that lie between two of them, in plain torch: what they mean.

Rows are tokens. All arithmetic is float32; what is handed on is in the type of the rows that came, or float32 for
whoever scales it: `fp8_reference` and `int8_reference` know how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

EPS = 1e-6

SMALLEST_ROW_PEAK = 1e-12
"""What a row of zeros is scaled by."""

FEWEST_ROWS = 128
"""cuBLAS has no scaled product for a handful of rows; these cost no more, and the added ones are ignored."""


@dataclass(frozen=True, slots=True)
class Rows:
    """An activation, scaled: rows x width and a float32 scale a row, of which the first `count` mean something."""

    values: torch.Tensor
    scale: torch.Tensor
    count: int

    def part(self, first: int, last: int) -> Rows:
        """Those from `first` to before `last`."""
        return Rows(self.values[first:last], self.scale[first:last], last - first)


def room(x: torch.Tensor, dtype: torch.dtype) -> Rows:
    """Room for an activation's scaled form, not filled."""
    count, width = x.shape
    there = max(count, FEWEST_ROWS) if x.is_cuda else count
    values = torch.empty((there, width), dtype=dtype, device=x.device)
    return Rows(values, torch.empty(there, dtype=torch.float32, device=x.device), count)


def modulated(x: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, first: int) -> torch.Tensor:
    """LayerNorm without weights, times (1 + scale), plus shift, in float32.

    `vectors` are modulations x (6 * width): of each its timestep's six vectors side by side; shift and scale are the
    `first` and the next of them. `whose` says of each row which modulation is its own.
    """
    shift, scale = (_each(vectors, whose, x, first + place) for place in range(2))
    normed = torch.nn.functional.layer_norm(x.float(), x.shape[-1:], eps=EPS)
    return normed * (1 + scale) + shift


def add(x: torch.Tensor, update: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, gate: int) -> torch.Tensor:
    """The residual sum: x + gate * update, in its type; the gate is one of the six vectors."""
    return (x.float() + _each(vectors, whose, x, gate) * update.float()).to(x.dtype)


def _each(vectors: torch.Tensor, whose: torch.Tensor, x: torch.Tensor, number: int) -> torch.Tensor:
    """Of each row its own modulation's vector of that number: rows x width, float32."""
    width = x.shape[-1]
    return vectors[:, number * width : (number + 1) * width].float()[whose.long()]


def activated(x: torch.Tensor) -> torch.Tensor:
    """GELU by x * sigmoid(1.702 x), as DiffSynth has it, in float32."""
    full = x.float()
    return full * torch.sigmoid(1.702 * full)


def place(
    qkv: torch.Tensor,
    weight_q: torch.Tensor,
    weight_k: torch.Tensor,
    turns: torch.Tensor,
    joint: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    places: torch.Tensor,
) -> None:
    """Norm and rotate queries and keys, and put them and the values into the joint ones, each row at its place.

    `qkv` is rows x (3 * heads * head width); `turns` rows x (head width / 2) x 2 of cosines and sines, as many as there
    are places, and the first rows are theirs; each of `joint` all places x heads x head width.
    """
    rows, which = turns.shape[0], places.long()
    heads, head = joint[0].shape[1:]
    query, key, value = qkv[:rows].view(rows, 3, heads, head).unbind(1)
    for target, source, weight in ((joint[0], query, weight_q), (joint[1], key, weight_k)):
        full = source.float()
        normed = full * torch.rsqrt(full.square().mean(-1, keepdim=True) + EPS) * weight.float()
        even, odd = normed.unflatten(-1, (-1, 2)).unbind(-1)
        cosine, sine = turns[:, None, :, 0], turns[:, None, :, 1]
        turned = torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1).flatten(-2)
        target[which] = turned.to(target.dtype)
    joint[2][which] = value


PIECE_BYTES = 2**25
"""Rows are widened to bf16 a piece at a time, where no kernel does it: less memory than a block has free there."""


def rows_are_alike() -> bool:
    """Whether `narrow` and `widen` give a row the same bits among any others, as kernels with fixed tiles do."""
    return False


def narrow(rows: Rows, spans: Sequence[slice], downs: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
    """Rows of each span by the matrix that is its own, rank x width, in bf16; None is one of no rank.

    Returns rows x rank of each.
    """
    return [_narrow(rows, span, down) for span, down in zip(spans, downs, strict=True)]


def _narrow(rows: Rows, span: slice, down: torch.Tensor | None) -> torch.Tensor:
    count, width = span.stop - span.start, rows.values.shape[1]
    if down is None:
        return torch.empty((count, 0), dtype=torch.bfloat16, device=rows.values.device)
    found = down.new_empty((count, len(down)))
    step = max(1, PIECE_BYTES // (2 * width))
    for first in range(span.start, span.stop, step):
        part = slice(first, min(first + step, span.stop))
        inner = rows.values[part].to(down.dtype) @ down.T
        found[part.start - span.start : part.stop - span.start] = inner * rows.scale[part, None]
    return found


def widen(out: torch.Tensor, inner: torch.Tensor, up: torch.Tensor) -> None:
    """Add to `out`, rows x columns, what `inner`, rows x rank, is by `up`, columns x rank; rounded to bf16 once."""
    out.addmm_(inner, up.T)
