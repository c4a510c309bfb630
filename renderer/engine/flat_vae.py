"""The VAE of one frame: DiffSynth's network with two-dimensional convolutions in place of its causal ones.

A picture is one frame. `QwenImageCausalConv3d` puts two frames of zeros before it and convolves in three dimensions, so
that two thirds of its work multiply zeros. What is left is the kernel's last slice, which is all that is kept here; the
weights in a store stay as they are, and are sliced as they are loaded. What joins several frames (`time_conv`) is never
called for one, and goes. All else is DiffSynth's own. Knows nothing of pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from diffsynth.core.vram.initialization import skip_model_initialization
from diffsynth.models.qwen_image_vae import QwenImageCausalConv3d, QwenImageResample, QwenImageUpsample
from torch.nn import functional

from renderer.engine.placement import Device

CHANNELS_LAST: Mapping[Device, bool] = MappingProxyType({"cpu": True, "cuda": False})
"""Where a pixel's channels lie side by side. torch follows the kernels' layout: theirs is what decides."""

JOINS_FRAMES = "time_conv"

FRAME_DIMENSION = 2
CAUSAL_DIMENSIONS = 5
"""Of a causal convolution's weight: channels out, channels in, frames, rows, columns."""


class FlatConv(torch.nn.Conv2d):
    """What a causal convolution does to a single frame. Takes and gives 1 x channels x 1 x rows x columns."""

    def __init__(self, causal: Any) -> None:
        """On the meta device, as wide as `causal`."""
        left, _, top, *_ = causal._padding  # noqa: SLF001  # DiffSynth keeps it nowhere else
        assert set(causal.stride) == {1}, "only what joins frames leaves some out"
        with skip_model_initialization():
            super().__init__(
                causal.in_channels, causal.out_channels, causal.kernel_size[1:], padding=(top, left), bias=True
            )

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # torch's name
        assert input.shape[FRAME_DIMENSION] == 1, "a picture is one frame"
        flat = functional.conv2d(input.squeeze(FRAME_DIMENSION), self.weight, self.bias, padding=self.padding)
        return flat.unsqueeze(FRAME_DIMENSION)


class FlatUpsample(QwenImageUpsample):
    """Repeats pixels as they are. By way of float32, as DiffSynth does it, they are the same and take three times."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        repeated: torch.Tensor = torch.nn.Upsample.forward(self, x)
        return repeated


def flatten(vae: torch.nn.Module) -> None:
    """Put a `FlatConv` in each causal convolution's place, and take out what joins frames.

    New layers are on the meta device, to be loaded from `flat(…)`. `QwenImageVAE` only.
    """
    for parent in list(vae.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(parent, QwenImageResample) and name == JOINS_FRAMES:
                delattr(parent, name)
            elif isinstance(child, QwenImageCausalConv3d):
                setattr(parent, name, FlatConv(child))
            elif isinstance(child, QwenImageUpsample):
                setattr(parent, name, FlatUpsample(scale_factor=child.scale_factor, mode=child.mode))


def flat(
    tensors: Mapping[str, torch.Tensor], device: Device, *, channels_last: bool | None = None
) -> dict[str, torch.Tensor]:
    """The tensors of a `QwenImageVAE` as its flat form takes them, in memory of their own, a third of it.

    They are in the layout in which `device` convolves, unless another is named.
    """
    last = CHANNELS_LAST[device] if channels_last is None else channels_last
    return {name: flat_weight(tensors[name], channels_last=last) for name in tensors if not _joins_frames(name)}


def flat_weight(tensor: torch.Tensor, *, channels_last: bool) -> torch.Tensor:
    """A causal kernel's last slice, or any other tensor as it is; kernels in one layout or the other. A copy."""
    if tensor.ndim == CAUSAL_DIMENSIONS:
        tensor = tensor[:, :, -1]
    is_kernel = tensor.ndim == CAUSAL_DIMENSIONS - 1
    layout = torch.channels_last if is_kernel and channels_last else torch.contiguous_format
    return tensor.clone(memory_format=layout)


class FlatTensors(Mapping[str, torch.Tensor]):
    """The same, each read when it is asked for: for a network whose weights wait on the disk."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], device: Device) -> None:
        self._tensors = tensors
        self._device = device

    def __getitem__(self, name: str) -> torch.Tensor:
        return flat_weight(self._tensors[name], channels_last=CHANNELS_LAST[self._device])

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._tensors if not _joins_frames(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _joins_frames(name: str) -> bool:
    return f".{JOINS_FRAMES}." in name
