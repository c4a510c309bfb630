"""LoRAs for the demo model, trained from nothing but code: `python -m renderer.demo.train.lora_training --help`.

Two kinds. `4steps` takes the model's own path in four strides: from wherever it is on the way, it is to arrive in one
step where the model with guidance arrives in several. `blueprint` draws everything as white outlines on blue, and is
trained as the model was, by flow matching, on pictures that are made so. The model itself stays as it is.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffsynth.diffusion.flow_match import FlowMatchScheduler
from diffsynth.models.qwen_image_vae import QwenImageVAE
from safetensors.torch import save_file
from torch import Tensor

from renderer.demo import cache
from renderer.demo.members import VAE_BASE_WIDTH, DemoDiT, DemoTextEncoder
from renderer.demo.train import feed, keep, passes
from renderer.demo.train.dit_training import SHIFT, Pool
from renderer.demo.train.draw import Atlas, blueprint
from renderer.demo.train.passes import FlatVae, Rope

_SEED = 20261126

GUIDANCE = 4.0
"""With which the model that is learned from draws."""

STRIDE = 3
"""Steps of the model that one step of `4steps` takes at once."""

FEW = 4

BlockFactors = Mapping[str, tuple[Tensor, Tensor]]
"""A, rank x columns, and B, rows x rank, by the layer of a block that they are added to."""


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """How one is trained: until `seconds` are over or `steps` done."""

    seconds: float
    steps: int
    batch: int
    learning_rate: float
    warm_up: int = 30
    average: float = 0.99


class LoraTrainer:
    """The demo model, frozen, and factors for the linear layers of its blocks."""

    def __init__(self, device: torch.device, rank: int, layers: Callable[[str], bool], folder: Path) -> None:
        vae: Any = QwenImageVAE(base_dim=VAE_BASE_WIDTH)
        self.encoder: Any = DemoTextEncoder()
        self.dit: Any = DemoDiT()
        for module, role in ((vae, "vae"), (self.encoder, "text_encoder"), (self.dit, "transformer")):
            keep.load(module, folder, role)
            module.to(device).requires_grad_(requires_grad=False)
        self.device, self.flat, self.rope = device, FlatVae(vae), Rope.make(self.dit, device)
        self.blocks: list[dict[str, tuple[Tensor, Tensor]]] = [
            {
                name.removesuffix(".weight"): (
                    (torch.randn(rank, value.shape[1], device=device) / rank).requires_grad_(),
                    torch.zeros(value.shape[0], rank, device=device, requires_grad=True),
                )
                for name, value in block.named_parameters()
                if value.dim() == 2 and layers(name)  # a matrix
            }
            for block in self.dit.transformer_blocks
        ]
        self.factors = [factor for block in self.blocks for pair in block.values() for factor in pair]
        self.average = [factor.detach().clone() for factor in self.factors]

    def velocity(
        self, patches: Tensor, sigma: Tensor, text: tuple[Tensor, Tensor], sizes: Tensor, *, adapted: bool
    ) -> Tensor:
        """What the DiT predicts, with the factors added to its layers or without; batch x patches x 64."""
        dit = self._adapted() if adapted else self.dit
        with torch.autocast(self.device.type, torch.bfloat16):
            found = passes.predict_velocity(dit, patches, sigma, text[0], text[1], sizes, self.rope)
        return found.float()

    def text(self, tokens: Tensor) -> Tensor:
        """What the text encoder makes of prompts."""
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
            return passes.encode_text(self.encoder, tokens)

    def train(self, plan: LoraPlan, loss_of: Callable[[], Tensor], log: Callable[..., None]) -> None:
        """Train until the plan is fulfilled; the factors are then their own averages."""
        optimizer = torch.optim.AdamW(self.factors, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
        began, step = time.monotonic(), 0
        while (share := max((time.monotonic() - began) / plan.seconds, step / plan.steps)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * min(1.0, (step + 1) / plan.warm_up, 2 * (1 - share))
            loss = loss_of()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.factors, 1.0, foreach=True)
            optimizer.step()
            decay = min(plan.average, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.average, [factor.detach() for factor in self.factors], 1 - decay)
            step += 1
            if step % 50 == 0:
                log(step=step, loss=loss.item(), at_s=time.monotonic() - began)
        with torch.no_grad():
            for factor, average in zip(self.factors, self.average, strict=True):
                factor.copy_(average)
        log(step=step, at_s=time.monotonic() - began)

    def save(self, path: Path, about: Mapping[str, str]) -> None:
        """Write the factors in bf16, under the names that diffusers gives them."""
        tensors = {}
        for number, block in enumerate(self.blocks):
            for name, (down, up) in block.items():
                key = f"transformer.transformer_blocks.{number}.{name}"
                for kind, factor in (("lora_A", down), ("lora_B", up)):
                    tensors[f"{key}.{kind}.weight"] = factor.detach().to("cpu", torch.bfloat16).contiguous()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata=dict(about))

    def _adapted(self) -> Any:
        """The DiT as the family's passes know it, with the factors in its blocks' weights."""
        names = ("img_in", "time_text_embed", "txt_in", "txt_norm", "norm_out", "proj_out")
        blocks = [_Adapted(*each) for each in zip(self.dit.transformer_blocks, self.blocks, strict=True)]
        return SimpleNamespace(transformer_blocks=blocks, **{name: getattr(self.dit, name) for name in names})


class _Adapted:
    """A block whose parameters have the factors in them."""

    def __init__(self, block: Any, factors: BlockFactors) -> None:
        self._block, self._factors = block, factors

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in self._block.named_parameters():
            pair = self._factors.get(name.removesuffix(".weight"))
            yield name, value if pair is None else value + pair[1] @ pair[0]


class Prompted:
    """Pictures and prompts without end: a pool of latents that is drawn anew as it is used."""

    def __init__(self, trainer: LoraTrainer, workers: int, count: int, change: Callable[[Tensor], Tensor]) -> None:
        self._trainer, self._atlas = trainer, Atlas.make(trainer.device)
        self._chunks = feed.chunks(64, _SEED, workers)
        self._change = change
        self.pool = Pool.make(count, trainer.device)
        while self.pool.filled < count:
            self.more()
        empty, length = feed.Tokens().of([""])
        self._empty = empty.to(trainer.device), length.to(trainer.device)

    def more(self) -> None:
        """Draw a chunk more, in place of the oldest."""
        self.pool.add(next(self._chunks), self._trainer.flat, self._atlas, 4.0, self._change)

    def batch(self, size: int) -> tuple[Tensor, ...]:
        """Patches, weights, tokens, lengths and sizes of so many."""
        pool = self.pool
        chosen = torch.randint(0, pool.filled, (size,), device=self._trainer.device)
        return (
            pool.patches[chosen].float(),
            pool.weights[chosen].float(),
            pool.tokens[chosen].long(),
            pool.lengths[chosen].long(),
            pool.sizes[chosen].long(),
        )

    def empty(self, size: int) -> tuple[Tensor, Tensor]:
        """As many empty prompts: tokens and lengths."""
        return self._empty[0].expand(size, -1), self._empty[1].expand(size)


def strides(trainer: LoraTrainer, prompted: Prompted, batch: int) -> Tensor:
    """The loss of `4steps`: of its own four steps, how far each ends from where the model comes, with guidance.

    The way is its own, as it will be when it draws; noise levels are those of its schedule.
    """
    patches, weights, tokens, lengths, sizes = prompted.batch(batch)
    unwanted, short = prompted.empty(batch)
    text, other = trainer.text(tokens), trainer.text(unwanted)
    both = torch.cat([text, other]), torch.cat([lengths, short])
    scheduler = FlowMatchScheduler("Qwen-Image-Lightning")
    scheduler.set_timesteps(FEW)
    levels = [*scheduler.sigmas.tolist(), 0.0]
    there, total = torch.randn_like(patches), torch.zeros((), device=trainer.device)
    for level, end in itertools.pairwise(levels):
        with torch.no_grad():
            aim = there
            for part in range(STRIDE):
                now, then = (level + (end - level) * (part + more) / STRIDE for more in (0, 1))
                sigma = torch.full((2 * batch,), now, device=trainer.device)
                found = trainer.velocity(torch.cat([aim, aim]), sigma, both, torch.cat([sizes, sizes]), adapted=False)
                wanted, away = found.chunk(2)
                aim = aim + (away + GUIDANCE * (wanted - away)) * (then - now)
        sigma = torch.full((batch,), level, device=trainer.device)
        found = trainer.velocity(there, sigma, (text, lengths), sizes, adapted=True)
        errors = (found - (aim - there) / (end - level)).square().mean(-1)
        total = total + (errors * weights).sum() / weights.sum()
        there = (there + found * (end - level)).detach()
    return total / FEW


def flow(trainer: LoraTrainer, prompted: Prompted, batch: int) -> Tensor:
    """The loss of a style: flow matching on its pictures, as the model was trained on its own."""
    patches, weights, tokens, lengths, sizes = prompted.batch(batch)
    even = (torch.arange(batch, device=trainer.device) + torch.rand(batch, device=trainer.device)) / batch
    sigma = torch.sigmoid(SHIFT + torch.logit(even, eps=1e-4))
    noise = torch.randn_like(patches)
    noisy = patches + sigma[:, None, None] * (noise - patches)
    found = trainer.velocity(noisy, sigma, (trainer.text(tokens), lengths), sizes, adapted=True)
    errors = (found - (noise - patches)).square().mean(-1)
    return (errors * weights).sum() / weights.sum()


def unchanged(pictures: Tensor) -> Tensor:
    """The pictures."""
    return pictures


def main() -> None:
    """Train one by the command line's plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("4steps", "blueprint"))
    parser.add_argument("--out", type=Path, required=True, help="the file")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--pool", type=int, default=8192)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(_SEED)
    torch.set_float32_matmul_precision("high")
    few = options.kind == "4steps"
    trainer = LoraTrainer(device, options.rank, lambda name: few or "mod" not in name, cache.folder())
    prompted = Prompted(trainer, options.workers, options.pool, unchanged if few else blueprint)
    plan = LoraPlan(options.seconds, options.steps, options.batch, options.learning_rate)
    done = 0

    def loss_of() -> Tensor:
        nonlocal done
        done += 1
        if done % 4 == 0:
            prompted.more()
        return (strides if few else flow)(trainer, prompted, plan.batch)

    trainer.train(plan, loss_of, lambda **values: print(values, flush=True))  # noqa: T201  # a command's output
    trainer.save(options.out, {"modelspec.license": "Apache-2.0", "modelspec.title": f"demo {options.kind}"})


if __name__ == "__main__":
    main()
