"""Attention in the middle of a VAE: one head as wide as all channels, between all latent pixels.

On a GPU no fused kernel is made for so wide a head: the one that takes it has 7 TFLOP/s on an H100, and before compute
capability 8.0 there is none. Here it is two products of matrices and a softmax, of some pixels at a time.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from renderer.families.qwen_image.decode import attention_rows


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """What each of `query`'s pixels sees: pixels x channels, as each of the three is."""
    if query.device.type == "cpu":
        return functional.scaled_dot_product_attention(query[None, None], key[None, None], value[None, None])[0, 0]
    return in_parts(query, key, value)


def in_parts(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The same by products of matrices. Scores and their softmax are in float32.

    How many pixels are taken at a time depends on their number alone: a card has no choice, and no other bits.
    """
    found = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    rows = attention_rows(len(query))
    for first in range(0, len(query), rows):
        shares = _shares(query[first : first + rows], key).to(value.dtype)
        torch.mm(shares, value, out=found[first : first + rows])
        del shares  # the next ones' scores take their place
    return found


def _shares(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """How much of each key's pixel every query sees, in float32."""
    return torch.softmax(_scores(query, key).mul_(query.shape[1] ** -0.5), dim=-1)


def _scores(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Products of all queries with all keys, in float32."""
    if query.dtype == torch.float32 or not torch.cuda.is_bf16_supported(including_emulation=False):
        return query.float() @ key.float().T
    return torch.mm(query, key.T, out_dtype=torch.float32)
