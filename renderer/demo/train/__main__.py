"""Train the demo model: `python -m renderer.demo.train --out FOLDER`, on a GPU for twenty minutes.

`--resume FOLDER` goes on from a model's weights.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import torch
from diffsynth.models.qwen_image_vae import QwenImageVAE

from renderer.demo.members import VAE_BASE_WIDTH, DemoDiT, DemoTextEncoder
from renderer.demo.train import dit_training as dit_stage
from renderer.demo.train import feed, keep, passes, phrases, scenes
from renderer.demo.train import vae_training as vae_stage
from renderer.demo.train.draw import Atlas, draw
from renderer.demo.train.passes import TRAINED_SIZES, FlatVae
from renderer.demo.train.placing import arrange, longest_word

SEED = 20261121


def main() -> None:
    """Train by the command line's plan."""
    options = _options()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = feed.chunks(options.vae_batch, options.seed, options.workers, first_size=1.0)
    prompted = feed.chunks(options.chunk, options.seed + 1, options.workers)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    log = _Log(options.out / "log.jsonl")
    versions = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    log(stage="start", **versions, **{key: str(value) for key, value in vars(options).items() if key != "out"})
    atlas = Atlas.make(device)
    vae: Any = QwenImageVAE(base_dim=VAE_BASE_WIDTH)
    encoder: Any = DemoTextEncoder()
    dit: Any = DemoDiT()
    dit_stage.start(dit, encoder)
    if options.resume:
        for module, role in ((vae, "vae"), (encoder, "text_encoder"), (dit, "transformer")):
            keep.load(module, options.resume, role)
    for module in (vae, encoder, dit):
        module.to(device)
    torch._dynamo.config.recompile_limit = 64  # noqa: SLF001  # as torch documents it
    compiled = device.type == "cuda"
    activation = torch.compile(passes.norm_silu, dynamic=True) if compiled else passes.norm_silu
    flat = FlatVae(vae, activation)
    if options.vae_seconds:
        vae_plan = vae_stage.VaeTraining(options.vae_seconds, options.vae_steps, options.vae_learning_rate)
        vae_stage.train(vae, pictures, atlas, vae_plan, flat, log)
        mean, deviation = vae_stage.scale(vae, pictures, atlas, flat)
        log(stage="vae", latent_mean=mean.tolist(), latent_deviation=deviation.tolist())
    keep.save(vae, options.out, "vae")
    _look_at_vae(flat, atlas, device, options.out, log)
    for value in vae.parameters():
        value.requires_grad_(requires_grad=False)
    del pictures
    trainer = dit_stage.Trainer(dit, encoder, flat, atlas, compiled=compiled)
    seconds = options.seconds - (time.monotonic() - log.began)
    plan = dit_stage.DitTraining(
        seconds, options.steps, batch=options.batch, learning_rate=options.learning_rate, decay=options.decay,
        pool=options.pool, every_s=options.every_s,
    )  # fmt: skip

    def save(step: int) -> None:
        keep.save(dit, options.out, "transformer")
        keep.save(encoder, options.out, "text_encoder")
        _sheet(trainer, options.out / "sheet-2.5.png", cfg_scale=2.5)
        _sheet(trainer, options.out / "sheet-4.0.png", cfg_scale=4.0)
        log(stage="saved", step=step)

    trainer.train(prompted, plan, log, save)


def held_out_scenes(count: int, seed: int, width: int) -> list[scenes.Scene]:
    """Scenes that training never shows, of all kinds."""
    rng = random.Random(seed)  # no secrets here
    found: list[scenes.Scene] = []
    while len(found) < count:
        scene = scenes.draw_scene(rng, longest_word(width))
        if scenes.is_held_out(scene):
            found.append(scene)
    return found


def _look_at_vae(flat: FlatVae, atlas: Atlas, device: torch.device, out: Path, log: _Log) -> None:
    rng = random.Random(7)
    numbers = [arrange(scene, 256, 256, rng) for scene in held_out_scenes(48, 7, 256)]
    pictures = draw(torch.tensor(numbers, device=device), 256, 256, atlas)
    psnr, back = vae_stage.measure(flat, pictures)
    log(stage="vae", held_out_psnr_db=psnr)
    keep.save_sheet([one for pair in zip(pictures[:16], back[:16], strict=True) for one in pair], out / "sheet-vae.png")


def _sheet(trainer: dit_stage.Trainer, path: Path, cfg_scale: float) -> None:
    rng = random.Random(11)
    tokens = feed.Tokens()
    empty = tokens.of([""])
    pictures = []
    for size, count in ((0, 32), (2, 4), (3, 4)):
        drawn = held_out_scenes(count, 5, TRAINED_SIZES[size][0])
        prompts = tokens.of([phrases.phrase(scene, rng) for scene in drawn])
        pictures += list(trainer.sample(*prompts, empty, size, 12, cfg_scale).float().cpu())
    keep.save_sheet(pictures, path)


class _Log:
    """One JSON object a line, to a file and to the terminal."""

    def __init__(self, path: Path) -> None:
        self.began = time.monotonic()
        self._file = path.open("w", encoding="utf-8")

    def __call__(self, **values: Any) -> None:
        rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in values.items()}
        line = json.dumps({"at_s": round(time.monotonic() - self.began, 1)} | rounded)
        self._file.write(line + "\n")
        self._file.flush()
        print(line, flush=True)  # noqa: T201  # a command's output


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--seconds", type=float, default=1200, help="of all stages together")
    parser.add_argument("--vae-seconds", type=float, default=170)
    parser.add_argument("--vae-learning-rate", type=float, default=2e-3)
    parser.add_argument("--vae-steps", type=int, default=10**9)
    parser.add_argument("--vae-batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--pool", type=int, default=65536)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--decay", type=float, default=0.6, help="share of the time in which the rate falls to zero")
    parser.add_argument("--every-s", type=float, default=120)
    parser.add_argument("--workers", type=int, default=6)
    return parser.parse_args()


if __name__ == "__main__":
    main()
