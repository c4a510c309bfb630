"""The pieces of an FP8 block in plain torch: what they mean, and what they are where there is no compiler.

Rows are tokens. An activation in FP8 is e4m3 with one float32 scale a row: its largest magnitude becomes 448. All
arithmetic between two products is float32; what is handed on is bf16 or FP8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from renderer.weights.codecs.fp8 import LARGEST

SMALLEST_ROW_PEAK = 1e-12
EPS = 1e-6

FAST_ACCUMULATION = True
"""Whether the card adds up its products as fast as it can, with fewer bits than float32 has for a part of the way.

It is a part of every FP8 picture's bits: who changes it has pictures of another `RENDERING_VERSION`. What it costs and
gains is measured by `python -m renderer.benchmarks.sums`.
"""

FEWEST_ROWS = 128
"""cuBLAS has no row-wise scaled product for a handful of rows; these cost no more, and the added ones are ignored."""


@dataclass(frozen=True, slots=True)
class Rows:
    """An activation in FP8: e4m3 rows x width and a float32 scale a row, of which the first `count` mean something."""

    values: torch.Tensor
    scale: torch.Tensor
    count: int

    def part(self, first: int, last: int) -> Rows:
        """Those from `first` to before `last`."""
        return Rows(self.values[first:last], self.scale[first:last], last - first)


def quantise(x: torch.Tensor) -> Rows:
    """Rows of bf16 or float32 as FP8."""
    rows = room_for(x)
    quantise_into(x, rows, torch.arange(rows.count, device=x.device))
    return rows


def quantise_into(x: torch.Tensor, rows: Rows, which: torch.Tensor) -> None:
    """Rows of bf16 or float32 as FP8, each as that of `rows` which it is told."""
    full = x.float()
    scale = full.abs().amax(-1).clamp(min=SMALLEST_ROW_PEAK) / LARGEST
    values = (full / scale[:, None]).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    rows.values.view(torch.uint8)[which] = values.view(torch.uint8)  # torch puts no FP8 numbers by their index
    rows.scale[which] = scale


def room_for(x: torch.Tensor) -> Rows:
    """Room for the FP8 form of an activation, not filled."""
    count, width = x.shape
    room = max(count, FEWEST_ROWS) if x.is_cuda else count
    values = torch.empty((room, width), dtype=torch.float8_e4m3fn, device=x.device)
    return Rows(values, torch.empty(room, dtype=torch.float32, device=x.device), count)


def modulate(x: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, first: int) -> Rows:
    """LayerNorm without weights, times (1 + scale), plus shift; as FP8.

    `vectors` are modulations x (6 * width): of each its timestep's six vectors side by side; shift and scale are the
    `first` and the next of them. `whose` says of each row which modulation is its own.
    """
    shift, scale = (_each(vectors, whose, x, first + place) for place in range(2))
    normed = torch.nn.functional.layer_norm(x.float(), x.shape[-1:], eps=EPS)
    return quantise(normed * (1 + scale) + shift)


def add_and_modulate(
    x: torch.Tensor, update: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, gate: int, first: int
) -> tuple[torch.Tensor, Rows]:
    """The residual sum in bf16, and its modulated rows as FP8."""
    total = add(x, update, vectors, whose, gate)
    return total, modulate(total, vectors, whose, first)


def add(x: torch.Tensor, update: torch.Tensor, vectors: torch.Tensor, whose: torch.Tensor, gate: int) -> torch.Tensor:
    """The residual sum: x + gate * update, in bf16; the gate is one of the six vectors."""
    return (x.float() + _each(vectors, whose, x, gate) * update.float()).to(x.dtype)


def _each(vectors: torch.Tensor, whose: torch.Tensor, x: torch.Tensor, number: int) -> torch.Tensor:
    """Of each row its own modulation's vector of that number: rows x width, float32."""
    width = x.shape[-1]
    return vectors[:, number * width : (number + 1) * width].float()[whose.long()]


def activate(x: torch.Tensor) -> Rows:
    """GELU by x * sigmoid(1.702 x), as DiffSynth has it; as FP8."""
    full = x.float()
    return quantise(full * torch.sigmoid(1.702 * full))


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


def multiply(
    x: Rows,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor | None = None,
    *,
    fast: bool = FAST_ACCUMULATION,
) -> torch.Tensor:
    """Rows of FP8 by an FP8 weight of [columns, width] with one scale a column; bf16 rows x columns, `out` if given.

    What a row comes to does not depend on how many there are. On a GPU that is tried before it is relied on
    (`fp8_trial`); `fast` is of its sums. A CPU's are exact: a product of two e4m3 numbers is a multiple of 2^-18 below
    2^18, and float64 holds each sum of up to 2^17 of them as it is.
    """
    if x.values.is_cuda:
        product = torch._scaled_mm(  # noqa: SLF001  # torch's own name for it
            x.values,
            weight.t(),
            scale_a=x.scale[:, None],
            scale_b=scale[None, :],
            bias=bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=fast,
            out=out,
        )
        return product[: x.count]
    product = (x.values.double() @ weight.double().t()).float()
    found = (product * x.scale[:, None] * scale[None, :] + bias.float()).to(torch.bfloat16)
    return found if out is None else out.copy_(found)


def rows_are_alike() -> bool:
    """Whether `narrow` and `widen` give a row the same bits among any others, as kernels with fixed tiles do."""
    return False


PIECE_BYTES = 2**25
"""Rows are widened to bf16 a piece at a time, where no kernel does it: less memory than a block has free there."""


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
