"""Scenes, prompts and tokens, made by worker processes, so that the GPU never waits for them."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import Qwen2Tokenizer

from renderer.catalog import DROPPED_TOKENS
from renderer.demo import tokenizer
from renderer.demo.train import phrases, placing, scenes
from renderer.demo.train.passes import TEXT_TOKENS, TRAINED_SIZES
from renderer.demo.train.scenes import Scene

UNPROMPTED = 0.1
"""How many of the prompts are left empty, as DiffSynth's negative prompt is by default: what guidance steers from."""

_TAIL = tokenizer.TEMPLATE.partition("{}")[2]


class Tokens:
    """DiffSynth's template around prompts, in tokens of the demo model's tokenizer, padded at the end."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.write(Path(folder))
            self._tokenizer: Any = Qwen2Tokenizer.from_pretrained(folder)
        self._before: list[int] = self._tokenizer(tokenizer.TEMPLATE_PREFIX).input_ids

    def of(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Tokens, prompts x (34 + 48), and how many of the 48 each prompt takes; too long ones are cut off."""
        ids = self._tokenizer([prompt + _TAIL for prompt in prompts]).input_ids
        rows = [(self._before + one)[: DROPPED_TOKENS + TEXT_TOKENS] for one in ids]
        lengths = torch.tensor([len(row) - DROPPED_TOKENS for row in rows])
        padded = [row + [0] * (DROPPED_TOKENS + TEXT_TOKENS - len(row)) for row in rows]
        return torch.tensor(padded), lengths


class Chunks(IterableDataset[Any]):  # type: ignore[misc]  # torch is not looked into
    """Without end: a size's place in `SIZES`, numbers of `count` scenes, their tokens and lengths."""

    def __init__(self, count: int, seed: int, first_size: float = 0.55) -> None:
        self._count, self._seed, self._first_size = count, seed, first_size

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        worker = get_worker_info()
        rng = random.Random(f"{self._seed}/{worker.id if worker else 0}")  # no secrets here
        tokens = Tokens()
        while True:
            size = 0 if rng.random() < self._first_size else rng.randrange(1, len(TRAINED_SIZES))
            width, height = TRAINED_SIZES[size]
            longest = placing.longest_word(width)
            drawn = [scenes.draw_training_scene(rng, longest) for _ in range(self._count)]
            numbers = [placing.arrange(scene, width, height, rng) for scene in drawn]
            prompts = [self._prompt(scene, rng) for scene in drawn]
            yield size, torch.tensor(numbers), *tokens.of(prompts)

    @staticmethod
    def _prompt(scene: Scene, rng: random.Random) -> str:
        return "" if rng.random() < UNPROMPTED else phrases.phrase(scene, rng)


def chunks(count: int, seed: int, workers: int, first_size: float = 0.55) -> Iterator[Any]:
    """Chunks from `workers` processes, or from this one if 0."""
    loader: Any = DataLoader(
        Chunks(count, seed, first_size),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=8 if workers else None,
    )
    return iter(loader)
