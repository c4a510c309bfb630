"""The demo model learns to edit: `python -m renderer.demo.train.edit_training --out FOLDER`, on a GPU for six minutes.

It begins as the demo model, and all of DiT, text encoder and vision tower is trained by flow matching, as the demo was:
what is drawn is the picture after an edit, beside the picture before it and the words that ask for it. The VAE stays as
it is. At the end 200 held-out edits are drawn and judged at some strengths of guidance; each line is one of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from diffsynth.diffusion.flow_match import FlowMatchScheduler
from diffsynth.models.qwen_image_vae import QwenImageVAE
from torch import Tensor
from torch.nn import functional

from renderer.demo import cache, tokenizer
from renderer.demo.edit_judge import EditVerdict, judge_edit
from renderer.demo.members import VAE_BASE_WIDTH, DemoDiT, DemoTextEncoder
from renderer.demo.train import edit_feed, edit_passes, edits, keep, passes
from renderer.demo.train.dit_training import SHIFT
from renderer.demo.train.draw import Atlas, busy_cells, draw
from renderer.demo.train.edit_passes import IMAGE, PATCHES, PROMPT_TOKENS, SIDE, EditRopes
from renderer.demo.train.edits import EDIT_SIZES, DrawnEdit
from renderer.demo.train.passes import FlatVae

_SEED = 20261126
BUSY_WEIGHT, CHANGED_WEIGHT = 2.0, 4.0
"""How much more than others patches weigh in the loss that something stands in, and that an edit changes."""

_CHANGED = 0.04

TrainingLog = Callable[..., None]


@dataclass(frozen=True, slots=True)
class EditPlan:
    """How it is trained: until `seconds` are over or `steps` done; the rate falls in the last `decay` of it."""

    seconds: float
    steps: int = 10**9
    batch: int = 384
    learning_rate: float = 1e-3
    warm_up: int = 100
    decay: float = 0.7
    pool: int = 16384
    uses: int = 6
    average: float = 0.998
    every_s: float = 100.0


class EditPool:
    """Latents before and after, words, and what the tower is shown: a ring whose oldest make room for new ones."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.after = torch.zeros(count, IMAGE, 64, dtype=torch.bfloat16, device=device)
        self.before = torch.zeros_like(self.after)
        self.weights = torch.zeros(count, IMAGE, dtype=torch.bfloat16, device=device)
        self.tokens = torch.zeros(count, PROMPT_TOKENS, dtype=torch.int16, device=device)
        self.lengths = torch.zeros(count, dtype=torch.int16, device=device)
        self.sizes = torch.zeros(count, dtype=torch.int16, device=device)
        self.shown = torch.zeros(count, PATCHES, 3 * SIDE * SIDE, dtype=torch.uint8, device=device)
        self.filled = self._place = 0

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def add(self, chunk: Any, flat: FlatVae, atlas: Atlas) -> None:
        """Draw a chunk of edits, encode them, and put them in place of the oldest."""
        size, before, after, tokens, lengths = chunk
        device, count = self.after.device, len(before)
        width, height = EDIT_SIZES[size]
        numbers = torch.cat([before, after]).to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16):
            pictures = draw(numbers, width, height, atlas)
            latents = flat.encode((pictures * 2 - 1).contiguous(memory_format=torch.channels_last))
        old, new = pictures.chunk(2)
        changed = functional.max_pool2d((old - new).abs().amax(1, keepdim=True), 16).flatten(1) > _CHANGED
        cells = 1 + BUSY_WEIGHT * busy_cells(numbers[count:], width, height).flatten(1) + CHANGED_WEIGHT * changed
        start = min(self._place, len(self.sizes) - count)
        to = slice(start, start + count)
        self.before[to], self.after[to] = (each.bfloat16() for each in passes.pack(latents, IMAGE).chunk(2))
        self.weights[to] = functional.pad(cells, (0, IMAGE - cells.shape[1])).bfloat16()
        self.tokens[to] = tokens.to(device, torch.int16)
        self.lengths[to] = lengths.to(device, torch.int16)
        self.sizes[to] = size
        self.shown[to] = edit_passes.shown(old, size)
        self._place = (start + count) % len(self.sizes)
        self.filled = max(self.filled, start + count)


class EditTrainer:
    """The demo model as it learns to edit, its averages, and what training it needs."""

    def __init__(self, device: torch.device, folder: Path, *, compiled: bool, resume: Path | None = None) -> None:
        vae: Any = QwenImageVAE(base_dim=VAE_BASE_WIDTH)
        self.encoder: Any = DemoTextEncoder()
        self.dit: Any = DemoDiT()
        keep.load(vae, folder, "vae")
        for module, role in ((self.encoder, "text_encoder"), (self.dit, "transformer")):
            keep.load(module, resume or folder, role)
        if resume is None:
            start(self.encoder)
        for module in (vae.requires_grad_(requires_grad=False), self.encoder, self.dit):
            module.to(device)
        self.device, self.flat, self.atlas = device, FlatVae(vae), Atlas.make(device)
        self.ropes = EditRopes.make(self.dit, device)
        self.values = [*self.dit.parameters(), *self.encoder.model.parameters()]
        self.average = [value.detach().clone() for value in self.values]
        self._block = torch.compile(passes.block, dynamic=False) if compiled else passes.block
        self._layer = torch.compile(passes.text_layer, dynamic=False) if compiled else passes.text_layer

    def train(self, feed: Iterator[Any], plan: EditPlan, log: TrainingLog, out: Path) -> None:
        """Train until the plan is fulfilled; every `every_s` seconds and at the end, averages are written to `out`."""
        began = saved = time.monotonic()
        pool = EditPool(plan.pool, self.device)
        chunk = next(feed)
        while pool.filled < min(plan.pool, 16 * plan.batch):
            pool.add(chunk, self.flat, self.atlas)
            chunk = next(feed)
        share_of_chunk = plan.batch / plan.uses / len(chunk[1])
        groups = [
            {"params": [value for value in self.values if (value.dim() > 1) is large], "weight_decay": decay}
            for large, decay in ((True, 0.01), (False, 0.0))
        ]
        optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98), fused=True)
        log(step=0, pool=pool.filled)
        step, due, total = 0, 0.0, torch.zeros((), device=self.device)
        while (share := max((time.monotonic() - began) / plan.seconds, step / plan.steps)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * min(1.0, (step + 1) / plan.warm_up, (1 - share) / plan.decay)
            loss = self.loss(pool, plan.batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.values, 1.0, foreach=True)
            optimizer.step()
            decay = min(plan.average, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.average, [value.detach() for value in self.values], 1 - decay)
            total += loss.detach()
            step += 1
            due += share_of_chunk
            while due >= 1:
                pool.add(next(feed), self.flat, self.atlas)
                due -= 1
            if step % 100 == 0:
                log(step=step, loss=total.item() / 100, rate=optimizer.param_groups[0]["lr"])
                total.zero_()
            if time.monotonic() - saved > plan.every_s:
                self._swap()
                self.save(out)
                self._swap()
                saved = time.monotonic()
        self._swap()
        self.save(out)
        log(step=step, pictures=step * plan.batch)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _swap(self) -> None:
        """Put the averages in the weights' place, and the weights in theirs."""
        for value, average in zip(self.values, self.average, strict=True):
            kept = value.clone()
            value.copy_(average)
            average.copy_(kept)

    def loss(self, pool: EditPool, batch: int) -> Tensor:
        """How far the predicted velocities of some edits are from what they should be."""
        chosen = torch.randint(0, pool.filled, (batch,), device=self.device)
        latents, before, weights = (each[chosen].float() for each in (pool.after, pool.before, pool.weights))
        tokens, lengths, sizes = (each[chosen].long() for each in (pool.tokens, pool.lengths, pool.sizes))
        even = (torch.arange(batch, device=self.device) + torch.rand(batch, device=self.device)) / batch
        sigma = torch.sigmoid(SHIFT + torch.logit(even, eps=1e-4))
        noise = torch.randn_like(latents)
        noisy = latents + sigma[:, None, None] * (noise - latents)
        with torch.autocast(self.device.type, torch.bfloat16):
            text = edit_passes.encode(self.encoder, tokens, pool.shown[chosen], sizes, self.ropes, self._layer)
            velocity = edit_passes.predict_velocity(
                self.dit, noisy, before, sigma, text, lengths, sizes, self.ropes, self._block
            )
        errors = (velocity.float() - (noise - latents)).square().mean(-1)
        return (errors * weights).sum() / weights.sum()

    def save(self, folder: Path) -> None:
        """Write DiT and text encoder."""
        keep.save(self.dit, folder, "transformer")
        keep.save(self.encoder, folder, "text_encoder")

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def sample(self, drawn: list[DrawnEdit], size: int, steps: int, cfg_scale: float) -> Tensor:
        """Pictures from 0 to 1 of edits in one size, by DiffSynth's schedule."""
        width, height = EDIT_SIZES[size]
        numbers = torch.tensor([each.numbers for each in drawn], device=self.device)
        before = (draw(numbers, width, height, self.atlas) * 255).round() / 255
        reading = edit_feed.EditTokens()
        both = [reading.of(prompts, size) for prompts in ([each.prompt for each in drawn], [""] * len(drawn))]
        sizes = torch.full((len(drawn),), size, device=self.device)
        noise = torch.randn(len(drawn), 16, height // 8, width // 8, generator=torch.Generator().manual_seed(0))
        patches = passes.pack(noise, IMAGE).to(self.device)
        sigmas, _ = FlowMatchScheduler.set_timesteps_qwen_image(steps, dynamic_shift_len=width * height // 256)
        with torch.autocast(self.device.type, torch.bfloat16):
            edited = passes.pack(self.flat.encode(before * 2 - 1), IMAGE)
            shown = edit_passes.shown(before, size)
            texts = [
                (
                    edit_passes.encode(self.encoder, tokens.to(self.device), shown, sizes, self.ropes),
                    lengths.to(self.device),
                )
                for tokens, lengths in both[: 1 + (cfg_scale != 1)]
            ]
            for sigma, end in zip(sigmas.tolist(), [*sigmas.tolist()[1:], 0.0], strict=True):
                levels = torch.full((len(drawn),), sigma, device=self.device)
                wanted, *unwanted = (
                    edit_passes.predict_velocity(
                        self.dit, patches, edited, levels, text, lengths, sizes, self.ropes
                    ).float()
                    for text, lengths in texts
                )
                velocity = wanted if not unwanted else unwanted[0] + cfg_scale * (wanted - unwanted[0])
                patches = patches + velocity * (end - sigma)
            pictures = self.flat.decode(passes.unpack(patches, width, height))
        return ((pictures / 2 + 0.5).clamp(0, 1) * 255).round() / 255


def start(encoder: Any) -> None:
    """Give the demo's text encoder the tokens of edits, as it knows them where it does, and a tower that shows."""
    table = encoder.model.language_model.embed_tokens.weight
    known = tokenizer.vocabulary() | _special(tokenizer.vocabulary())
    dice = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        old, mean = table.clone(), table.std()
        for token, number in tokenizer.vocabulary(tokenizer.EDIT_TEMPLATE_PREFIX).items():
            fresh = torch.randn(table.shape[1], generator=dice) * mean
            table[number] = old[known[token]] if token in known else fresh
        for value in encoder.model.visual.parameters():
            if value.dim() > 1:
                value.copy_(torch.randn(value.shape, generator=dice) / math.sqrt(value[0].numel()))


def _special(tokens: dict[str, int]) -> dict[str, int]:
    return {token: len(tokens) + place for place, token in enumerate(tokenizer.SPECIAL_TOKENS)}


def held_out(count: int) -> list[tuple[int, DrawnEdit]]:
    """So many edits that training never shows, with the places of their sizes: half of them the first."""
    rng = random.Random(_SEED)  # no secrets here
    sizes = [0 if number % 2 else number // 2 % len(EDIT_SIZES) for number in range(count)]
    return [(size, edits.draw_held_out_edit(rng, *EDIT_SIZES[size])) for size in sizes]


def _judge_one(pixels: Any, edit: DrawnEdit) -> EditVerdict:
    torch.set_num_threads(1)
    return judge_edit(torch.from_numpy(pixels).float() / 255, edit, Atlas.make())


def examine(trainer: EditTrainer, options: argparse.Namespace, log: TrainingLog) -> None:
    """Draw and judge held-out edits, and say how many are right; sheets have a picture before and after, in pairs."""
    cases = held_out(options.judged)
    with ProcessPoolExecutor(options.workers or 1, mp_context=get_context("spawn")) as pool:
        for cfg_scale in options.cfg_scale:
            pictures: dict[int, Tensor] = {}
            for size in range(len(EDIT_SIZES)):
                chosen = [place for place, (its, _) in enumerate(cases) if its == size]
                if chosen:
                    drawn = trainer.sample([cases[place][1] for place in chosen], size, options.draw_steps, cfg_scale)
                    pictures |= dict(zip(chosen, drawn.float().cpu(), strict=True))
            pixels = [(pictures[place] * 255).round().byte().numpy() for place in range(len(cases))]
            found = list(pool.map(_judge_one, pixels, [edit for _, edit in cases]))
            asked, right = Counter[str](), Counter[str]()
            for (_, edit), verdict in zip(cases, found, strict=True):
                asked[edit.kind] += 1
                right[edit.kind] += verdict.right
            rests = sorted(each.rest_db for each in found if each.rest_db is not None)
            log(
                stage="judged", cfg_scale=cfg_scale, steps=options.draw_steps, right=right.total(), of=asked.total(),
                kinds={kind: f"{right[kind]} of {asked[kind]}" for kind in asked},
                rest_kept=sum(each >= 25 for each in rests), rests=len(rests),  # decibels
                rest_db=rests[len(rests) // 2], rest_least_db=rests[0],
                wrong=[edit.prompt for (_, edit), verdict in zip(cases, found, strict=True) if not verdict.right][:25],
            )  # fmt: skip
            pairs = []
            for place, (size, edit) in list(enumerate(cases))[:40]:
                before = draw(torch.tensor([edit.numbers]), *EDIT_SIZES[size], Atlas.make())[0]
                pairs += [before, pictures[place]]
            keep.save_sheet(pairs, options.out / f"edits-{cfg_scale}.png")


def main() -> None:
    """Train and judge by the command line's plan."""
    options = _options()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(_SEED + options.seed)
    torch.set_float32_matmul_precision("high")
    began = time.monotonic()
    with (options.out / "training.jsonl").open("w", encoding="utf-8") as file:

        def log(**values: Any) -> None:
            rounded = {key: float(f"{each:.4g}") if isinstance(each, float) else each for key, each in values.items()}
            line = json.dumps({"at_s": round(time.monotonic() - began, 1)} | rounded)
            file.write(line + "\n")
            file.flush()
            print(line, flush=True)  # noqa: T201  # a command's output

        feed = edit_feed.chunks(options.chunk, _SEED + options.seed, options.workers)
        card = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        plan = EditPlan(
            options.seconds,
            options.steps,
            batch=options.batch,
            learning_rate=options.learning_rate,
            warm_up=options.warm_up,
            decay=options.decay,
            pool=options.pool,
            uses=options.uses,
        )
        log(stage="start", torch=torch.__version__, device=card, batch=plan.batch, rate=plan.learning_rate)
        compiled = device.type == "cuda" and not options.eager
        trainer = EditTrainer(device, cache.folder(), compiled=compiled, resume=options.resume)
        trainer.train(feed, plan, log, options.out)
        del feed
        examine(trainer, options, log)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path, help="a folder with DiT and text encoder to go on from")
    parser.add_argument("--seconds", type=float, default=330, help="of training; judging takes about a minute more")
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=384)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--pool", type=int, default=16384)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--warm-up", type=int, default=100, help="steps in which the rate rises")
    parser.add_argument("--decay", type=float, default=0.7, help="share of the time in which the rate falls to zero")
    parser.add_argument("--uses", type=int, default=6, help="how often a drawn edit is trained on, with new noise")
    parser.add_argument("--seed", type=int, default=0, help="of noise and data")
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--eager", action="store_true", help="without torch's compiler")
    parser.add_argument("--judged", type=int, default=200)
    parser.add_argument("--draw-steps", type=int, default=8)
    parser.add_argument("--cfg-scale", type=float, nargs="+", default=[1.0, 2.5, 4.0])
    return parser.parse_args()


if __name__ == "__main__":
    main()
