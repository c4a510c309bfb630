"""A picture's VAE: DiffSynth's network for one frame, in strips whose results are the whole's.

`QwenImageVAE` is made for films: it puts two frames of zeros before a picture and convolves in three dimensions. Here
its kernels' last slices are left, which are all that one frame meets. Channels stand last; a stage is computed a strip
of rows at a time, so that memory is bounded at any size. The middle, whose attention looks everywhere, is small, and
computed whole. Bits depend on neither strips nor free memory where the kernels of `vae_kernels` run.

    decode   latents ▶ middle ▶ (residual blocks, twice as large)… ▶ picture
    encode   picture ▶ (residual blocks, half as large)… ▶ middle ▶ latents

Knows nothing of jobs, stores or DiffSynth's other networks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from renderer.engine import vae_reference
from renderer.engine.strips import Kernel, Layer, Strip, in_strips, whole
from renderer.errors import ModelError
from renderer.families.qwen_image.decode import STRIP_BYTES, strip_rows

LOG = logging.getLogger(__name__)


class PictureVae(torch.nn.Module):
    """DiffSynth's `QwenImageVAE` for single pictures: takes its place in a pipeline."""

    def __init__(
        self,
        vae: Any,
        tensors: Mapping[str, torch.Tensor],
        strip_bytes: int = STRIP_BYTES,
        run: ModuleType | None = None,
    ) -> None:
        """`tensors` are a `QwenImageVAE`'s, on the device and in the type that is computed in; they are not kept.

        `vae` is such a network: its constants and its tensors' shapes are taken, its weights not looked at. `run` is
        what computes: `vae_kernels` or `vae_reference`, by default what works here. Raises `ModelError` where `tensors`
        are not of these shapes.
        """
        super().__init__()
        _check(vae, tensors)
        self._strip_bytes = strip_bytes
        device = tensors["decoder.conv_in.weight"].device
        build = _Build(tensors, run or operations(device))
        self._stages_out = [
            [build.convolution("post_quant_conv"), build.convolution("decoder.conv_in"), *build.middle("decoder")],
            *build.decoder_stages(),
        ]
        self._stages_in = [
            *build.encoder_stages(),
            [*build.middle("encoder"), build.norm("encoder.norm_out"),
             build.convolution("encoder.conv_out"), build.convolution("quant_conv")],
        ]  # fmt: skip
        self.channels = int(tensors["encoder.conv_in.weight"].shape[1])
        self.mean, self.std = vae.mean.flatten().to(device), vae.std.flatten().to(device)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, **_options: Any) -> torch.Tensor:
        """Latents [N, 16, height / 8, width / 8] to N pictures [N, channels, height, width] of values from -1 to 1.

        They are decoded one after the other. DiffSynth's options for tiles are not needed: no size takes more than its
        strips.
        """
        mean, std = (each.to(latents.dtype)[:, None, None] for each in (self.mean, self.std))
        first = self._through(self._stages_out, _channels_last(latents[0] / std + mean))
        if len(latents) == 1:
            return first
        pictures = first.new_empty((len(latents), *first.shape[1:]))
        pictures[0] = first[0]
        del first
        for number, each in enumerate(latents[1:], start=1):
            pictures[number] = self._through(self._stages_out, _channels_last(each / std + mean))[0]
        return pictures

    @torch.no_grad()
    def encode(self, picture: torch.Tensor, **_options: Any) -> torch.Tensor:
        """A picture [1, channels, height, width] of values from -1 to 1 to latents [1, 16, height / 8, width / 8]."""
        mean, std = (each.to(picture.dtype)[:, None, None] for each in (self.mean, self.std))
        latents = self._through(self._stages_in, _channels_last(picture[0]))[0]
        return ((latents[: len(self.mean)] - mean) * std)[None]

    def _through(self, stages: Sequence[Sequence[Layer]], picture: Strip) -> torch.Tensor:
        """What stages make of a picture, each stage's result whole before the next: [1, channels, height, width].

        What comes in is kept to the end by whoever calls, so it is the latents or the picture, and no stage's result.
        """
        for stage in stages:
            picture = in_strips(stage, picture, self._rows(stage, picture))
        return picture.values.permute(2, 0, 1)[None].contiguous()

    def _rows(self, stage: Sequence[Layer], picture: Strip) -> int:
        """How many rows of a stage's result are made at once: all, where attention is among its layers."""
        if any(isinstance(layer, Attention) for layer in stage):
            return picture.height
        height, width, widest = picture.height, picture.values.shape[1], 1
        rows = [height]
        for layer in stage:
            height = layer.height(height)
            rows.append(height)
            widest = max(widest, layer.channels_out)
        columns = width * max(rows) // picture.height
        return strip_rows(columns, widest, picture.values.element_size(), self._strip_bytes)


def operations(device: torch.device) -> ModuleType:
    """The kernels, if they compile here; plain torch otherwise, said once."""
    if device.type != "cuda":
        return vae_reference
    try:
        from renderer.engine import vae_kernels  # noqa: PLC0415  # Triton is not everywhere

        probe = torch.ones((1, 1, 32), dtype=torch.bfloat16, device=device)
        vae_kernels.normalise(probe, torch.ones(32, device=device), silu=True)
    except Exception as error:  # noqa: BLE001  # no Triton, no C compiler, a driver it does not know
        LOG.warning("no working compiler (%s): pictures are decoded by cuDNN, in twice the time", error)
        return vae_reference
    return vae_kernels


def _check(vae: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    expected = {name: tensor.shape for name, tensor in vae.state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            there, wanted = (list(each[name]) if name in each else "nothing" for each in (found, expected))
            raise ModelError(f"the VAE's {name} is {there}, and should be {wanted}")


def _channels_last(values: torch.Tensor) -> Strip:
    return whole(values.permute(1, 2, 0).contiguous())


# ---- layers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution alone."""

    kernel: Kernel
    run: ModuleType

    @property
    def channels_out(self) -> int:
        return self.kernel.channels_out

    def height(self, height: int) -> int:
        return height * self.kernel.up // self.kernel.stride

    def needs(self, first: int, last: int, height: int) -> tuple[int, int]:
        kernel = self.kernel
        top = (first * kernel.stride - kernel.pad) // kernel.up
        bottom = ((last - 1) * kernel.stride - kernel.pad + kernel.side - 1) // kernel.up + 1
        return max(0, top), min(height, bottom)

    def __call__(self, strip: Strip, first: int, last: int) -> Strip:
        values = self.run.convolve(strip, self.kernel, first, last)
        return Strip(values, first, self.height(strip.height))


@dataclass(frozen=True, slots=True)
class Norm:
    """Each pixel's channels at length 1, times a gain; through SiLU, but before attention."""

    gain: torch.Tensor
    run: ModuleType
    silu: bool = True

    @property
    def channels_out(self) -> int:
        return len(self.gain)

    def height(self, height: int) -> int:
        return height

    def needs(self, first: int, last: int, height: int) -> tuple[int, int]:  # noqa: ARG002  # a layer's signature
        return first, last

    def __call__(self, strip: Strip, first: int, last: int) -> Strip:
        part = strip.part(first, last)
        return Strip(self.run.normalise(part.values, self.gain, silu=self.silu), first, strip.height)


@dataclass(frozen=True, slots=True)
class Residual:
    """DiffSynth's residual block: twice norm and convolution, and what came in, made as wide, on top."""

    norms: tuple[Norm, Norm]
    convolutions: tuple[Convolution, Convolution]
    shortcut: Convolution | None

    @property
    def channels_out(self) -> int:
        return self.convolutions[1].channels_out

    def height(self, height: int) -> int:
        return height

    def needs(self, first: int, last: int, height: int) -> tuple[int, int]:
        return max(0, first - 2), min(height, last + 2)

    def __call__(self, strip: Strip, first: int, last: int) -> Strip:
        inner = max(0, first - 1), min(strip.height, last + 1)
        once = self.convolutions[0](self.norms[0](strip, strip.top, strip.top + len(strip.values)), *inner)
        once = self.norms[1](once, *inner)
        came = strip.part(first, last)
        if self.shortcut is not None:
            came = self.shortcut(came, first, last)
        last_one = self.convolutions[1]
        values = last_one.run.convolve(once, last_one.kernel, first, last, came.values)
        return Strip(values, first, strip.height)


@dataclass(frozen=True, slots=True)
class Attention:
    """DiffSynth's attention of one head over all pixels. Takes whole pictures only."""

    norm: Norm
    qkv: Convolution
    out: Convolution

    @property
    def channels_out(self) -> int:
        return self.out.channels_out

    def height(self, height: int) -> int:
        return height

    def needs(self, first: int, last: int, height: int) -> tuple[int, int]:
        assert (first, last) == (0, height), "attention looks everywhere"
        return first, last

    def __call__(self, strip: Strip, first: int, last: int) -> Strip:
        height, width, channels = strip.values.shape
        mixed = self.qkv(self.norm(strip, first, last), first, last).values
        query, key, value = mixed.view(1, 1, height * width, 3 * channels).chunk(3, dim=-1)
        if query.device.type == "cuda":
            # The one fused kernel that takes a head of 384 channels, or, on cards for which it is not built, none: a
            # card has no choice, and no other bits.
            with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
                seen = functional.scaled_dot_product_attention(query, key, value)
        else:
            seen = functional.scaled_dot_product_attention(query, key, value)
        seen = seen.reshape(height, width, channels).contiguous()
        values = self.out.run.convolve(whole(seen), self.out.kernel, first, last, strip.values)
        return Strip(values, first, strip.height)


# ---- from DiffSynth's names ------------------------------------------------------------------------------------------


class _Build:
    """Layers from a `QwenImageVAE`'s tensors, by the names that they have there."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], run: ModuleType) -> None:
        self._tensors = tensors
        self._run = run

    def convolution(self, name: str, up: int = 1, stride: int = 1) -> Convolution:
        weight = self._tensors[f"{name}.weight"]
        if weight.ndim == 5:  # noqa: PLR2004  # channels out and in, frames, rows, columns
            weight = weight[:, :, -1]
        side = weight.shape[-1]
        flat = weight.permute(0, 2, 3, 1).reshape(len(weight), -1).clone(memory_format=torch.contiguous_format)
        pad = side // 2 if stride == 1 else 0  # DiffSynth pads what makes it smaller right and below
        bias = self._tensors[f"{name}.bias"].float()
        return Convolution(Kernel(flat, bias, side, up=up, stride=stride, pad=pad), self._run)

    def norm(self, name: str, *, silu: bool = True) -> Norm:
        gamma = self._tensors[f"{name}.gamma"].float().flatten()
        return Norm(gamma * len(gamma) ** 0.5, self._run, silu=silu)

    def residual(self, name: str) -> Residual:
        shortcut = f"{name}.conv_shortcut"
        return Residual(
            norms=(self.norm(f"{name}.norm1"), self.norm(f"{name}.norm2")),
            convolutions=(self.convolution(f"{name}.conv1"), self.convolution(f"{name}.conv2")),
            shortcut=self.convolution(shortcut) if f"{shortcut}.weight" in self._tensors else None,
        )

    def middle(self, network: str) -> list[Layer]:
        attention = f"{network}.mid_block.attentions.0"
        return [
            self.residual(f"{network}.mid_block.resnets.0"),
            Attention(
                norm=self.norm(f"{attention}.norm", silu=False),
                qkv=self.convolution(f"{attention}.to_qkv"),
                out=self.convolution(f"{attention}.proj"),
            ),
            self.residual(f"{network}.mid_block.resnets.1"),
        ]

    def decoder_stages(self) -> list[list[Layer]]:
        """Stages from the middle's size to the picture's, each but the first with what makes it larger in front."""
        stages: list[list[Layer]] = [[]]
        for number in range(self._count("decoder.up_blocks")):
            block = f"decoder.up_blocks.{number}"
            stages[-1] += [self.residual(f"{block}.resnets.{each}") for each in range(self._count(f"{block}.resnets"))]
            larger = f"{block}.upsamplers.0.resample.1"
            if f"{larger}.weight" in self._tensors:
                stages.append([self.convolution(larger, up=2)])
        stages[-1] += [self.norm("decoder.norm_out"), self.convolution("decoder.conv_out")]
        return stages

    def encoder_stages(self) -> list[list[Layer]]:
        """Stages from the picture's size to the middle's, each but the last with what makes it smaller behind."""
        stages: list[list[Layer]] = [[self.convolution("encoder.conv_in")]]
        for number in range(self._count("encoder.down_blocks")):
            block = f"encoder.down_blocks.{number}"
            smaller = f"{block}.resample.1"
            if f"{smaller}.weight" in self._tensors:
                stages[-1].append(self.convolution(smaller, stride=2))
                stages.append([])
            else:
                stages[-1].append(self.residual(block))
        return stages

    def _count(self, prefix: str) -> int:
        """How many numbered members a part has."""
        return len({name.removeprefix(f"{prefix}.").split(".")[0] for name in self._tensors if name.startswith(prefix)})
