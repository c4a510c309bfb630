"""What `vae_kernels` means, in plain torch: for the CPU, and for GPUs where no Triton works.

Channels last, as there. The bits of a strip are those that the library gives it: on the CPU, and by cuDNN, they may
differ from the whole's in the last place.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from renderer.engine.strips import Kernel, Strip


def convolve(strip: Strip, kernel: Kernel, first: int, last: int, residual: torch.Tensor | None = None) -> torch.Tensor:
    """As `vae_kernels.convolve`."""
    picture = strip.values.permute(2, 0, 1)[None]  # channels last, seen as torch's convolutions take them
    if kernel.up > 1:
        picture = picture.repeat_interleave(kernel.up, 2).repeat_interleave(kernel.up, 3)
    # Of the enlarged picture, which rows there are, and which are wanted: from `above` (zeros where it is negative).
    above = first * kernel.stride - kernel.pad - strip.top * kernel.up
    below = (last - 1) * kernel.stride - kernel.pad + kernel.side - strip.top * kernel.up - picture.shape[2]
    columns = picture.shape[3] // kernel.stride
    right = (columns - 1) * kernel.stride - kernel.pad + kernel.side - picture.shape[3]
    around = kernel.pad
    if {-above, below, right} != {kernel.pad}:  # otherwise torch pads as it goes, without a copy
        picture, around = functional.pad(picture, (kernel.pad, right, -above, below)), 0
    weight = kernel.weight.view(kernel.channels_out, kernel.side, kernel.side, kernel.channels_in).permute(0, 3, 1, 2)
    result = functional.conv2d(picture, weight, kernel.bias.to(weight.dtype), stride=kernel.stride, padding=around)
    values = result[0].permute(1, 2, 0)
    return (values if residual is None else values.add_(residual)).contiguous()


def normalise(values: torch.Tensor, gain: torch.Tensor, *, silu: bool) -> torch.Tensor:
    """As `vae_kernels.normalise`."""
    wide = values.float()
    lengths = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).clamp_(min=1e-12)
    result = wide / lengths * gain
    return (functional.silu(result, inplace=True) if silu else result).to(values.dtype)
