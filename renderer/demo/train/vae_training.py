"""The VAE: trained to give pictures back, then scaled so that its latents have the mean and deviation of noise.

DiffSynth normalises latents with Qwen-Image's constants. Training keeps them near zero and one, and at its end the two
1x1 convolutions around the latents take over what is missing, exactly. Latents are disturbed a little on the way, so
that what the DiT gets slightly wrong is drawn slightly wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from renderer.demo.train.draw import Atlas, busy_cells, draw
from renderer.demo.train.passes import TRAINED_SIZES, FlatVae


@dataclass(frozen=True, slots=True)
class VaeTraining:
    """How the VAE is trained: until `seconds` are over or `steps` done."""

    seconds: float
    steps: int = 10**9
    learning_rate: float = 2e-3
    disturbance: float = 0.15
    busy_weight: float = 4.0
    warm_up: int = 100


def train(
    vae: Any, feed: Iterator[Any], atlas: Atlas, plan: VaeTraining, flat: FlatVae, log: Callable[..., None]
) -> None:
    """Train `vae` in place on pictures of `feed`'s scenes."""
    device = next(vae.parameters()).device
    used = [value for name, value in vae.named_parameters() if "time_conv" not in name]
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, torch.nn.Conv3d):
                module.weight[:, :, :-1] = 0  # frames that a single picture does not have
    average = [value.detach().clone() for value in used]
    optimizer = torch.optim.AdamW(used, lr=plan.learning_rate, weight_decay=1e-4, betas=(0.9, 0.99), fused=True)
    began, step = time.monotonic(), 0
    total = torch.zeros(3, device=device)
    while (share := max((time.monotonic() - began) / plan.seconds, step / plan.steps)) < 1:
        rate = plan.learning_rate * min(1, (step + 1) / plan.warm_up) * min(1, 2.5 * (1 - share) + 1e-3)
        for group in optimizer.param_groups:
            group["lr"] = rate
        size, numbers, _, _ = next(feed)
        numbers = numbers.to(device, non_blocking=True)
        pictures = draw(numbers, *TRAINED_SIZES[size], atlas) * 2 - 1
        weights = 1 + (plan.busy_weight - 1) * functional.interpolate(
            busy_cells(numbers, *TRAINED_SIZES[size])[:, None], scale_factor=16.0
        )
        weights /= weights.mean()
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            latents = flat.encode(pictures)
            strength = torch.rand(len(latents), 1, 1, 1, device=device) * plan.disturbance
            decoded = flat.decode(latents + strength * torch.randn_like(latents))
        errors = decoded - pictures
        squares = errors.square().mean()
        weighted = (weights * (errors.abs() + 4 * errors.square())).mean()
        means, deviations = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        spread = means.square().mean() + deviations.clamp(min=1e-3).log().square().mean()
        loss = weighted + 0.02 * spread + 1e-4 * latents.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(used, 1.0)
        optimizer.step()
        decay = min(0.998, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [value.detach() for value in used], 1 - decay)
        total += torch.stack([loss, squares, deviations.mean()]).detach()
        step += 1
        if step % 100 == 0:
            mean_loss, mean_squares, deviation = (total / 100).tolist()
            psnr = -10 * torch.tensor(mean_squares / 4).log10().item()
            log(stage="vae", step=step, loss=mean_loss, psnr_db=psnr, deviation=deviation, rate=rate)
            total.zero_()
    with torch.no_grad():
        for value, kept in zip(used, average, strict=True):
            value.copy_(kept)


@torch.no_grad()  # type: ignore[untyped-decorator]
def scale(vae: Any, feed: Iterator[Any], atlas: Atlas, flat: FlatVae, rounds: int = 16) -> tuple[Tensor, Tensor]:
    """Give the latents of `feed`'s pictures mean 0 and deviation 1 in each channel; what they had before."""
    device = next(vae.parameters()).device
    found = []
    for _ in range(rounds):
        size, numbers, _, _ = next(feed)
        latents = flat.encode(draw(numbers.to(device), *TRAINED_SIZES[size], atlas) * 2 - 1)
        found.append(latents.transpose(0, 1).flatten(1))
    values = torch.cat(found, 1)
    mean, deviation = values.mean(1), values.std(1)
    # raw = z * std + centre, and z' = (z - mean) / deviation: the first convolution gives raw', the second takes it.
    centre, std = (value.flatten() for value in flat.statistics(values))
    offset = centre - (centre + mean * std) / deviation
    out, back = vae.quant_conv, vae.post_quant_conv
    out.weight[:16] /= deviation.view(16, 1, 1, 1, 1)
    out.bias[:16] = out.bias[:16] / deviation + offset
    back.bias -= back.weight[:, :, 0, 0, 0] @ (offset * deviation)
    back.weight *= deviation.view(1, 16, 1, 1, 1)
    return mean, deviation


@torch.no_grad()  # type: ignore[untyped-decorator]
def measure(flat: FlatVae, pictures: Tensor) -> tuple[float, Tensor]:
    """PSNR in decibels over pictures from 0 to 1, and what came back."""
    back = (flat.decode(flat.encode(pictures * 2 - 1)) / 2 + 0.5).clamp(0, 1)
    return float(-10 * (back - pictures).square().mean().log10()), back
