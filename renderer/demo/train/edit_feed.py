"""Edits and their tokens, made by worker processes, so that the GPU never waits for them."""

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

from renderer.catalog import EDIT_DROPPED_TOKENS
from renderer.demo import tokenizer
from renderer.demo.train import edit_passes, edits
from renderer.demo.train.edit_passes import GRIDS, PROMPT_TOKENS
from renderer.demo.train.edits import EDIT_SIZES
from renderer.demo.train.feed import UNPROMPTED

_BEFORE = f"{tokenizer.EDIT_TEMPLATE_PREFIX}<|vision_start|>"
_BETWEEN = "<|vision_end|>"
_TAIL = "<|im_end|>\n<|im_start|>assistant\n"


class EditTokens:
    """Instructions as DiffSynth's template and our tokenizer cut them, with a picture's tokens, padded at the end."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.write(Path(folder), tokenizer.EDIT_TEMPLATE_PREFIX)
            self._tokenizer: Any = Qwen2Tokenizer.from_pretrained(folder)
        self._before: list[int] = self._tokenizer(_BEFORE).input_ids
        assert len(self._before) == edit_passes.FIRST_SEEN

    def of(self, prompts: list[str], size: int) -> tuple[Tensor, Tensor]:
        """Tokens, prompts x `PROMPT_TOKENS`, and how many of them are not the template's; too long ones are cut off."""
        rows, columns = GRIDS[size]
        start = [*self._before, *[tokenizer.IMAGE_TOKEN] * (rows * columns // 4)]
        ids = self._tokenizer([f"{_BETWEEN}{prompt}{_TAIL}" for prompt in prompts]).input_ids
        found = [(start + one)[:PROMPT_TOKENS] for one in ids]
        lengths = torch.tensor([len(row) - EDIT_DROPPED_TOKENS for row in found])
        return torch.tensor([row + [0] * (PROMPT_TOKENS - len(row)) for row in found]), lengths


class EditChunks(IterableDataset[Any]):  # type: ignore[misc]  # torch is not looked into
    """Without end: a size's place in `EDIT_SIZES`, numbers of `count` pictures before and after, tokens and lengths."""

    def __init__(self, count: int, seed: int, first_size: float = 0.5) -> None:
        self._count, self._seed, self._first_size = count, seed, first_size

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
        worker = get_worker_info()
        rng = random.Random(f"{self._seed}/{worker.id if worker else 0}")  # no secrets here
        tokens = EditTokens()
        while True:
            size = 0 if rng.random() < self._first_size else rng.randrange(1, len(EDIT_SIZES))
            drawn = [edits.draw_training_edit(rng, *EDIT_SIZES[size]) for _ in range(self._count)]
            before, after = (torch.tensor([getattr(each, name) for each in drawn]) for name in ("numbers", "wanted"))
            prompts = ["" if rng.random() < UNPROMPTED else each.prompt for each in drawn]
            yield size, before, after, *tokens.of(prompts, size)


def chunks(count: int, seed: int, workers: int) -> Iterator[Any]:
    """Chunks from `workers` processes, or from this one if 0."""
    loader: Any = DataLoader(
        EditChunks(count, seed), batch_size=None, num_workers=workers, prefetch_factor=8 if workers else None
    )
    return iter(loader)
