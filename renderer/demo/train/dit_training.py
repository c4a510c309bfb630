"""Text encoder and DiT together, by flow matching on the schedule that DiffSynth samples with.

A noisy picture is `(1 - sigma) x latents + sigma x noise`, the DiT predicts `noise - latents`, and sigma is drawn with
the density of Qwen-Image's schedule at 256 x 256. A tenth of the prompts are empty. Latents wait in a pool on the GPU,
each used about `Plan.uses` times with new noise, so that drawing and encoding cost little beside training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from diffsynth.diffusion.flow_match import FlowMatchScheduler
from torch import Tensor

from renderer.catalog import DROPPED_TOKENS
from renderer.demo.train import passes
from renderer.demo.train.draw import Atlas, busy_cells, draw
from renderer.demo.train.passes import IMAGE_TOKENS, TEXT_TOKENS, TRAINED_SIZES, FlatVae, Rope

SHIFT = 0.5
"""Qwen-Image's `mu` for 256 patches (`FlowMatchScheduler._calculate_shift_qwen_image`)."""


@dataclass(frozen=True, slots=True)
class DitTraining:
    """How DiT and text encoder are trained: until `seconds` are over or `steps` done.

    The learning rate rises for `warm_up` steps, stays, and falls to zero in the last `decay` of the time.
    """

    seconds: float
    steps: int = 10**9
    batch: int = 512
    learning_rate: float = 1.5e-3
    warm_up: int = 300
    decay: float = 0.0
    pool: int = 65536
    uses: int = 8
    busy_weight: float = 4.0
    average: float = 0.999
    every_s: float = 90.0


@dataclass(slots=True)
class Pool:
    """Latents and prompts that wait to be trained on; a ring whose oldest make room for new ones."""

    patches: Tensor
    weights: Tensor
    tokens: Tensor
    lengths: Tensor
    sizes: Tensor
    filled: int = 0
    place: int = field(default=0)

    @classmethod
    def make(cls, count: int, device: torch.device) -> Pool:
        """An empty pool of `count`."""
        return cls(
            torch.zeros(count, IMAGE_TOKENS, 64, dtype=torch.bfloat16, device=device),
            torch.zeros(count, IMAGE_TOKENS, dtype=torch.bfloat16, device=device),
            torch.zeros(count, DROPPED_TOKENS + TEXT_TOKENS, dtype=torch.int16, device=device),
            torch.zeros(count, dtype=torch.int16, device=device),
            torch.zeros(count, dtype=torch.int16, device=device),
        )

    def add(
        self,
        chunk: Any,
        flat: FlatVae,
        atlas: Atlas,
        busy_weight: float,
        change: Callable[[Tensor], Tensor] = lambda pictures: pictures,
    ) -> None:
        """Draw a chunk, `change` its pictures from 0 to 1, encode them, and put them in place of the oldest."""
        size, numbers, tokens, lengths = chunk
        device = self.patches.device
        width, height = TRAINED_SIZES[size]
        numbers = numbers.to(device, non_blocking=True)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            pictures = change(draw(numbers, width, height, atlas)) * 2 - 1
            latents = flat.encode(pictures.contiguous(memory_format=torch.channels_last))
        cells = 1 + (busy_weight - 1) * busy_cells(numbers, width, height).flatten(1)
        count, tokens_of_picture = cells.shape
        start = min(self.place, len(self.sizes) - count)
        to = slice(start, start + count)
        self.patches[to] = passes.pack(latents).bfloat16()
        self.weights[to] = torch.nn.functional.pad(cells, (0, IMAGE_TOKENS - tokens_of_picture)).bfloat16()
        self.tokens[to] = tokens.to(device, torch.int16)
        self.lengths[to] = lengths.to(device, torch.int16)
        self.sizes[to] = size
        self.place = (start + count) % len(self.sizes)
        self.filled = max(self.filled, start + count)


def start(dit: Any, encoder: Any) -> None:
    """Initial weights: every block begins as the identity, and the text encoder's tokens as themselves."""
    for module in dit.transformer_blocks:
        for last in (module.img_mod[1], module.txt_mod[1]):
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.zeros_(last.bias)
    for last in (dit.norm_out.linear, dit.proj_out):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    language = encoder.model.language_model
    torch.nn.init.normal_(language.embed_tokens.weight, std=0.5)
    for name, value in language.layers.named_parameters():
        if value.dim() == 2:  # a matrix
            std = 1 / math.sqrt(value.shape[1])
            torch.nn.init.normal_(value, std=std * (0.3 if "o_proj" in name or "down_proj" in name else 1.0))


class Trainer:
    """DiT, text encoder, their averages, and what training them needs."""

    def __init__(self, dit: Any, encoder: Any, flat: FlatVae, atlas: Atlas, *, compiled: bool) -> None:
        self.dit, self.encoder, self.flat, self.atlas = dit, encoder, flat, atlas
        self.device = next(dit.parameters()).device
        self.rope = Rope.make(dit, self.device)
        self.used = {f"dit.{name}": value for name, value in dit.named_parameters()}
        self.used |= {f"text.{name}": value for name, value in encoder.named_parameters() if "language_model" in name}
        self.average = [value.detach().clone() for value in self.used.values()]
        self._block = torch.compile(passes.block, dynamic=False) if compiled else passes.block
        self._layer = torch.compile(passes.text_layer, dynamic=False) if compiled else passes.text_layer

    def train(
        self, feed: Iterator[Any], plan: DitTraining, log: Callable[..., None], save: Callable[[int], None]
    ) -> None:
        """Train by `plan`; `save` is called every `plan.every_s` seconds and at the end, with averaged weights in."""
        pool = Pool.make(plan.pool, self.device)
        began = saved = time.monotonic()
        chunk = next(feed)
        share_of_chunk = plan.batch / plan.uses / len(chunk[1])
        while pool.filled < min(plan.pool, 16 * plan.batch):
            pool.add(chunk, self.flat, self.atlas, plan.busy_weight)
            chunk = next(feed)
        values = list(self.used.values())
        matrices = [value for value in values if value.dim() > 1]
        others = [value for value in values if value.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98), fused=True)
        log(stage="dit", step=0, pool=pool.filled, seconds=time.monotonic() - began)
        step, due = 0, 0.0
        total = torch.zeros(2, device=self.device)
        while (share := max((time.monotonic() - began) / plan.seconds, step / plan.steps)) < 1:
            falling = (1 - share) / plan.decay if plan.decay else 1.0
            rate = plan.learning_rate * min(1.0, (step + 1) / plan.warm_up) * min(1.0, falling)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = self._loss(pool, plan.batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(values, 1.0, foreach=True)
            optimizer.step()
            decay = min(plan.average, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.average, [value.detach() for value in values], 1 - decay)
            total += torch.stack([loss.detach(), norm])
            step += 1
            due += share_of_chunk
            while due >= 1:
                pool.add(next(feed), self.flat, self.atlas, plan.busy_weight)
                due -= 1
            if step % 100 == 0:
                mean_loss, mean_norm = (total / 100).tolist()
                log(stage="dit", step=step, loss=mean_loss, norm=mean_norm, rate=rate, pool=pool.filled)
                total.zero_()
            if time.monotonic() - saved > plan.every_s:
                self._with_averages(save, step)
                saved = time.monotonic()
        self._with_averages(save, step)

    def _loss(self, pool: Pool, batch: int) -> Tensor:
        chosen = torch.randint(0, pool.filled, (batch,), device=self.device)
        latents, weights = pool.patches[chosen].float(), pool.weights[chosen].float()
        lengths, sizes = pool.lengths[chosen].long(), pool.sizes[chosen].long()
        even = (torch.arange(batch, device=self.device) + torch.rand(batch, device=self.device)) / batch
        sigma = torch.sigmoid(SHIFT + torch.logit(even, eps=1e-4))
        noise = torch.randn_like(latents)
        noisy = latents + sigma[:, None, None] * (noise - latents)
        with torch.autocast(self.device.type, torch.bfloat16):
            text = passes.encode_text(self.encoder, pool.tokens[chosen].long(), self._layer)
            velocity = passes.predict_velocity(self.dit, noisy, sigma, text, lengths, sizes, self.rope, self._block)
        errors = (velocity.float() - (noise - latents)).square().mean(-1)
        return (errors * weights).sum() / weights.sum()

    def _with_averages(self, act: Callable[[int], None], step: int) -> None:
        with torch.no_grad():
            kept = [value.detach().clone() for value in self.used.values()]
            for value, average in zip(self.used.values(), self.average, strict=True):
                value.copy_(average)
            act(step)
            for value, own in zip(self.used.values(), kept, strict=True):
                value.copy_(own)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def sample(
        self, tokens: Tensor, lengths: Tensor, empty: tuple[Tensor, Tensor], size: int, steps: int, cfg_scale: float
    ) -> Tensor:
        """Pictures from 0 to 1 of prompts in one size, by DiffSynth's schedule; `empty` is the empty prompt's."""
        width, height = TRAINED_SIZES[size]
        count = len(tokens)
        sigmas, _ = FlowMatchScheduler.set_timesteps_qwen_image(steps, dynamic_shift_len=(width // 16) * (height // 16))
        ends = [*sigmas.tolist()[1:], 0.0]
        both = torch.cat([tokens, empty[0].expand(count, -1)]).to(self.device)
        lengths = torch.cat([lengths, empty[1].expand(count)]).to(self.device)
        sizes = torch.full((2 * count,), size, device=self.device)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(count, 16, height // 8, width // 8, generator=generator)
        latents = passes.pack(noise).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            text = passes.encode_text(self.encoder, both)
            for sigma, end in zip(sigmas.tolist(), ends, strict=True):
                levels = torch.full((2 * count,), sigma, device=self.device)
                doubled = torch.cat([latents, latents])
                velocity = passes.predict_velocity(self.dit, doubled, levels, text, lengths, sizes, self.rope).float()
                wanted, unwanted = velocity.chunk(2)
                latents = latents + (unwanted + cfg_scale * (wanted - unwanted)) * (end - sigma)
            pictures = self.flat.decode(passes.unpack(latents, width, height))
        return (pictures / 2 + 0.5).clamp(0, 1)
