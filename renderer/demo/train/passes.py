"""The family's forward passes, batched and padded, as training wants them.

DiffSynth's own take one picture and one prompt at a time, turn positions with complex numbers, and convolve pictures as
videos of one frame. These use the same modules' weights and give the same values (tests/demo/test_passes.py), with
masks for what is padding, in a form that compiles. Sequences are `IMAGE_TOKENS` patches, then `TEXT_TOKENS` of text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from renderer.catalog import DROPPED_TOKENS
from renderer.demo.members import DIT_HEAD_WIDTH, TEXT_HEADS, TEXT_KEY_HEADS, TEXT_WIDTH

TRAINED_SIZES = ((256, 256), (208, 320), (320, 208), (192, 336), (336, 192), (224, 304), (304, 224))
"""Widths and heights that training shows; the first one most of the time."""

IMAGE_TOKENS = 272
TEXT_TOKENS = 48

TrainedWeights = dict[str, Tensor]
Block = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotations for each of `TRAINED_SIZES`, of patches and of text, and which patches are there.

    Cosines and sines are sizes x tokens x half a head's width, `present` is sizes x tokens.
    """

    image: tuple[Tensor, Tensor]
    text: tuple[Tensor, Tensor]
    present: Tensor

    @classmethod
    def make(cls, dit: Any, device: torch.device | str) -> Rope:
        """DiffSynth's own rotations, as cosines and sines, padded."""
        images, texts, present = [], [], []
        for width, height in TRAINED_SIZES:
            image, text = dit.pos_embed([(1, height // 16, width // 16)], [TEXT_TOKENS], torch.device("cpu"))
            images.append(functional.pad(torch.view_as_real(image), (0, 0, 0, 0, 0, IMAGE_TOKENS - len(image))))
            texts.append(torch.view_as_real(text))
            present.append(torch.arange(IMAGE_TOKENS) < len(image))
        image, text = torch.stack(images).to(device), torch.stack(texts).to(device)
        return cls((image[..., 0], image[..., 1]), (text[..., 0], text[..., 1]), torch.stack(present).to(device))


def pack(latents: Tensor, tokens: int = IMAGE_TOKENS) -> Tensor:
    """Latents, batch x 16 x height x width, as padded patches: batch x `tokens` x 64."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(batch, height * width // 4, channels * 4)
    return functional.pad(patches, (0, 0, 0, tokens - patches.shape[1]))


def unpack(patches: Tensor, width: int, height: int) -> Tensor:
    """The inverse of `pack` for pictures of one size in pixels."""
    rows, columns = height // 16, width // 16
    grid = patches[:, : rows * columns].view(len(patches), rows, columns, 16, 2, 2)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), 16, rows * 2, columns * 2)


# --- text encoder ----------------------------------------------------------------------------------------------------


def text_layer(weights: TrainedWeights, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One layer of Qwen2.5-VL's language model on text without pictures; attends to what comes before."""
    normed = rms(hidden, weights["input_layernorm.weight"])
    query, key, value = (
        functional.linear(normed, weights[f"self_attn.{name}.weight"], weights[f"self_attn.{name}.bias"])
        for name in ("q_proj", "k_proj", "v_proj")
    )
    query, key, value = _heads(query, TEXT_HEADS), _heads(key, TEXT_KEY_HEADS), _heads(value, TEXT_KEY_HEADS)
    query, key = rotate_half(query, cos, sin), rotate_half(key, cos, sin)
    groups = TEXT_HEADS // TEXT_KEY_HEADS
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    hidden = hidden + functional.linear(out.transpose(1, 2).flatten(2), weights["self_attn.o_proj.weight"])
    normed = rms(hidden, weights["post_attention_layernorm.weight"])
    gate = functional.silu(functional.linear(normed, weights["mlp.gate_proj.weight"]))
    up = functional.linear(normed, weights["mlp.up_proj.weight"])
    return hidden + functional.linear(gate * up, weights["mlp.down_proj.weight"])


def encode_text(encoder: Any, tokens: Tensor, layer: Callable[..., Tensor] = text_layer) -> Tensor:
    """What DiffSynth gives the DiT for prompts: batch x 48 x width, of the template's tokens and the prompts'.

    They are padded at the end. Nothing looks ahead, so the padding changes nothing.
    """
    language = encoder.model.language_model
    hidden = language.embed_tokens(tokens)
    width = TEXT_WIDTH // TEXT_HEADS
    steps = torch.arange(0, width, 2, device=tokens.device).float() / width
    angles = torch.outer(torch.arange(tokens.shape[1], device=tokens.device).float(), 1e6**-steps)
    angles = torch.cat([angles, angles], -1)
    cos, sin = angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)
    for module in language.layers:
        hidden = layer(dict(module.named_parameters()), hidden, cos, sin)
    return rms(hidden, language.norm.weight)[:, DROPPED_TOKENS:]


def _heads(values: Tensor, count: int) -> Tensor:
    return values.unflatten(-1, (count, -1)).transpose(1, 2)


def rms(values: Tensor, weight: Tensor) -> Tensor:
    """`RMSNorm` over the last dimension, computed in float32."""
    floats = values.float()
    return weight * (floats * torch.rsqrt(floats.square().mean(-1, keepdim=True) + 1e-6)).to(values.dtype)


def rotate_half(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each value of the first half of the last dimension with its fellow of the second."""
    first, second = values.chunk(2, -1)
    return values * cos + torch.cat([-second, first], -1) * sin


# --- DiT -------------------------------------------------------------------------------------------------------------


def block(
    weights: TrainedWeights,
    image: Tensor,
    text: Tensor,
    condition: Tensor,
    rope: tuple[Tensor, Tensor, Tensor, Tensor],
    mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """One `QwenImageTransformerBlock`; `mask` is batch x 1 x 1 x tokens, text first, true where there is something.

    `condition` is batch x parts x width: of each part of the image's tokens, all as long; the text has the first.
    """

    def linear(values: Tensor, name: str) -> Tensor:
        return functional.linear(values, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def mlp(values: Tensor, name: str) -> Tensor:
        wide = linear(values, f"{name}.net.0.proj")
        return linear(wide * torch.sigmoid(1.702 * wide), f"{name}.net.2")

    def apart(values: Tensor) -> Tensor:
        return values.unflatten(1, (condition.shape[1], -1))

    heads = image.shape[-1] // DIT_HEAD_WIDTH
    image_turns = linear(functional.silu(condition), "img_mod.1")[:, :, None].chunk(6, -1)
    text_turns = linear(functional.silu(condition[:, :1]), "txt_mod.1").chunk(6, -1)
    seen_image = _modulate(apart(image), image_turns[0], image_turns[1]).flatten(1, 2)
    seen_text = _modulate(text, text_turns[0], text_turns[1])
    image_q, image_k = (
        _turn(rms(_heads(linear(seen_image, f"attn.{name}"), heads), weights[f"attn.{norm}.weight"]), *rope[:2])
        for name, norm in (("to_q", "norm_q"), ("to_k", "norm_k"))
    )
    text_q, text_k = (
        _turn(rms(_heads(linear(seen_text, f"attn.{name}"), heads), weights[f"attn.{norm}.weight"]), *rope[2:])
        for name, norm in (("add_q_proj", "norm_added_q"), ("add_k_proj", "norm_added_k"))
    )
    image_v = _heads(linear(seen_image, "attn.to_v"), heads)
    text_v = _heads(linear(seen_text, "attn.add_v_proj"), heads)
    out = functional.scaled_dot_product_attention(
        torch.cat([text_q, image_q], 2).to(image_v.dtype),
        torch.cat([text_k, image_k], 2).to(image_v.dtype),
        torch.cat([text_v, image_v], 2),
        attn_mask=mask,
    )
    out = out.transpose(1, 2).flatten(2)
    image = image + (image_turns[2] * apart(linear(out[:, text.shape[1] :], "attn.to_out.0"))).flatten(1, 2)
    text = text + text_turns[2] * linear(out[:, : text.shape[1]], "attn.to_add_out")
    inner = mlp(_modulate(apart(image), image_turns[3], image_turns[4]), "img_mlp")
    image = image + (image_turns[5] * inner).flatten(1, 2)
    text = text + text_turns[5] * mlp(_modulate(text, text_turns[3], text_turns[4]), "txt_mlp")
    return image, text


def predict_velocity(
    dit: Any,
    patches: Tensor,
    sigma: Tensor,
    text: Tensor,
    text_lengths: Tensor,
    sizes: Tensor,
    rope: Rope,
    one_block: Block = block,
) -> Tensor:
    """`model_fn_qwen_image` for a batch: velocities, batch x 272 x 64, of noisy patches at noise levels `sigma`.

    `text` is what `encode_text` gives, of which `text_lengths` tokens are meant; `sizes` are places in `TRAINED_SIZES`.
    """
    there = torch.arange(text.shape[1], device=text.device)[None] < text_lengths[:, None]
    mask = torch.cat([there, rope.present[sizes]], 1)[:, None, None]
    turns = tuple(table[sizes][:, None] for table in (*rope.image, *rope.text))
    image = dit.img_in(patches)
    # In bf16, as DiffSynth hands the timestep over.
    condition = dit.time_text_embed((sigma * 1000).bfloat16() / 1000, image.dtype)
    text = dit.txt_in(rms(text, dit.txt_norm.weight))
    for module in dit.transformer_blocks:
        image, text = one_block(dict(module.named_parameters()), image, text, condition[:, None], turns, mask)
    velocity: Tensor = dit.proj_out(dit.norm_out(image, condition))
    return velocity


def _modulate(values: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normed = functional.layer_norm(values, values.shape[-1:], eps=1e-6)
    return normed * (1 + scale) + shift


def _turn(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of neighbours, as one complex number each."""
    pairs = values.float().unflatten(-1, (-1, 2))
    real, imaginary = pairs[..., 0], pairs[..., 1]
    turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], -1)
    return turned.flatten(-2).to(values.dtype)


# --- VAE -------------------------------------------------------------------------------------------------------------


def norm_silu(values: Tensor, gamma: Tensor) -> Tensor:
    """`QwenImageRMS_norm` over the channels, and SiLU; `gamma` is zero where channels are padding, and scaled."""
    floats = values.float()
    scale = torch.rsqrt(floats.square().sum(1, keepdim=True).clamp(min=1e-24))
    return functional.silu(floats * scale * gamma.float()).to(values.dtype)


def _padded(values: Tensor, dim: int) -> Tensor:
    """Zeros behind a weight's channels, up to a multiple of 8: tensor cores compute no others."""
    missing = -values.shape[dim] % 8
    return functional.pad(values, (0, 0) * (values.dim() - 1 - dim) + (0, missing)) if missing else values


def _gamma(norm: Any) -> Tensor:
    """A norm's factors, times the root of how many they are, as norm_silu wants them."""
    scaled: Tensor = norm.gamma.view(1, -1, 1, 1) * norm.gamma.numel() ** 0.5
    return _padded(scaled, 1)


class FlatVae:
    """`QwenImageVAE.encode` and `decode` for batches of pictures, without the dimension of time.

    A causal convolution sees one picture through the last of its three frames; the other two are never used. Channels
    are padded with zeros to multiples of 8 on the way.
    """

    def __init__(self, vae: Any, activation: Callable[[Tensor, Tensor], Tensor] = norm_silu) -> None:
        self.vae = vae
        self._activation = activation

    def encode(self, pictures: Tensor) -> Tensor:
        """Normalised latents of pictures from -1 to 1."""
        encoder = self.vae.encoder
        values = self._convolve(encoder.conv_in, _padded(pictures, 1))
        for part in encoder.down_blocks:
            values = self._resample(part, values) if hasattr(part, "resample") else self._residual(part, values)
        values = self._middle(encoder.mid_block, values)
        values = self._convolve(encoder.conv_out, self._activation(values, _gamma(encoder.norm_out)))
        values = self._convolve(self.vae.quant_conv, values)[:, :16].float()
        mean, std = self.statistics(values)
        return (values - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures from about -1 to 1 of normalised latents."""
        decoder = self.vae.decoder
        mean, std = self.statistics(latents)
        values = self._convolve(self.vae.post_quant_conv, latents * std + mean)
        values = self._middle(decoder.mid_block, self._convolve(decoder.conv_in, values))
        for up in decoder.up_blocks:
            for part in up.resnets:
                values = self._residual(part, values)
            for part in up.upsamplers or ():
                values = self._resample(part, values)
        return self._convolve(decoder.conv_out, self._activation(values, _gamma(decoder.norm_out)))[:, :3].float()

    def statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """DiffSynth's fixed mean and standard deviation of each latent channel."""
        return self.vae.mean[:, :, 0].to(like), 1 / self.vae.std[:, :, 0].to(like)

    @staticmethod
    def _convolve(module: Any, values: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        weight = module.weight[:, :, -1] if module.weight.dim() == 5 else module.weight  # with frames
        weight = _padded(_padded(weight, 0), 1).contiguous(memory_format=torch.channels_last)
        around = weight.shape[2] // 2 if padding is None else padding
        return functional.conv2d(values, weight, _padded(module.bias, 0), stride, around)

    def _residual(self, part: Any, values: Tensor) -> Tensor:
        kept = (
            values if isinstance(part.conv_shortcut, torch.nn.Identity) else self._convolve(part.conv_shortcut, values)
        )
        values = self._convolve(part.conv1, self._activation(values, _gamma(part.norm1)))
        return kept + self._convolve(part.conv2, self._activation(values, _gamma(part.norm2)))

    def _middle(self, part: Any, values: Tensor) -> Tensor:
        values = self._residual(part.resnets[0], values)
        (attention,) = part.attentions
        batch, channels, height, width = values.shape
        normed = functional.normalize(values.float(), dim=1) * channels**0.5 * attention.norm.gamma.view(1, -1, 1, 1)
        joint = attention.to_qkv(normed).flatten(2).transpose(1, 2)[:, None]
        out = functional.scaled_dot_product_attention(*joint.chunk(3, -1))
        out = out[:, 0].transpose(1, 2).reshape(batch, channels, height, width)
        return self._residual(part.resnets[1], values + attention.proj(out))

    def _resample(self, part: Any, values: Tensor) -> Tensor:
        first, convolution = part.resample
        if isinstance(first, torch.nn.Upsample):
            return self._convolve(convolution, functional.interpolate(values, scale_factor=2.0, mode="nearest-exact"))
        return self._convolve(convolution, first(values), stride=2, padding=0)
