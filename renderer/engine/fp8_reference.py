"""The pieces of an FP8 block in plain torch: what they mean, and what they are where there is no compiler.

Rows are tokens. An activation in FP8 is e4m3 with one float32 scale a row: its largest magnitude becomes 448. All
arithmetic between two products is float32; what is handed on is bf16 or FP8.
"""

from __future__ import annotations

import torch

LARGEST = 448.0
SMALLEST_PEAK = 1e-12
EPS = 1e-6

Rows = tuple[torch.Tensor, torch.Tensor]
"""An activation in FP8: rows x width of e4m3, and rows of float32 scales."""


def quantise(x: torch.Tensor) -> Rows:
    """Rows of bf16 or float32 as FP8."""
    full = x.float()
    scale = full.abs().amax(-1).clamp(min=SMALLEST_PEAK) / LARGEST
    return (full / scale[:, None]).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> Rows:
    """LayerNorm without weights, times (1 + scale), plus shift; as FP8."""
    normed = torch.nn.functional.layer_norm(x.float(), x.shape[-1:], eps=EPS)
    return quantise(normed * (1 + scale.float()) + shift.float())


def add_and_modulate(
    x: torch.Tensor, gate: torch.Tensor, update: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, Rows]:
    """The residual sum in bf16, and its modulated rows as FP8."""
    total = add(x, gate, update)
    return total, modulate(total, shift, scale)


def add(x: torch.Tensor, gate: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    """The residual sum: x + gate * update, in bf16."""
    return (x.float() + gate.float() * update.float()).to(x.dtype)


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
    first: int,
) -> None:
    """Norm and rotate queries and keys, and put them and the values into the joint ones from row `first` on.

    `qkv` is rows x (3 * heads * head width); `turns` rows x (head width / 2) x 2 of cosines and sines; each of `joint`
    all rows x heads x head width.
    """
    rows = qkv.shape[0]
    heads, head = joint[0].shape[1:]
    query, key, value = qkv.view(rows, 3, heads, head).unbind(1)
    for target, source, weight in ((joint[0], query, weight_q), (joint[1], key, weight_k)):
        full = source.float()
        normed = full * torch.rsqrt(full.square().mean(-1, keepdim=True) + EPS) * weight.float()
        even, odd = normed.unflatten(-1, (-1, 2)).unbind(-1)
        cosine, sine = turns[:, None, :, 0], turns[:, None, :, 1]
        turned = torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1).flatten(-2)
        target[first : first + rows] = turned.to(target.dtype)
    joint[2][first : first + rows] = value


def multiply(x: Rows, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Rows of FP8 by an FP8 weight of [columns, width] with one scale a column; bf16 rows x columns."""
    values, row_scale = x
    if values.is_cuda:
        return torch._scaled_mm(  # noqa: SLF001  # torch's own name for it
            values,
            weight.t(),
            scale_a=row_scale[:, None],
            scale_b=scale[None, :],
            bias=bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
    product = values.float() @ weight.float().t()
    return (product * row_scale[:, None] * scale[None, :] + bias.float()).to(torch.bfloat16)
