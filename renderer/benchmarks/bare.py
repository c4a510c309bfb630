"""A streaming engine between two cases: it remembers nothing, and is seen to hold no more than before the first.

The only place in the benchmarks that reaches into the engine's rooms. Knows nothing of what is measured.
"""
# ruff: noqa: SLF001

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from renderer.engine import budget
from renderer.engine.adapters import OpenAdapter
from renderer.engine.encoding import AskedPrompt
from renderer.engine.recorded import RecordedBlocks
from renderer.engine.slots import Slots
from renderer.engine.streaming import StreamingEngine
from renderer.estimate import decide
from renderer.estimate.companies import MOST_ROWS_TOGETHER
from renderer.estimate.work import Work
from renderer.job import Job, Lora
from renderer.protocol import Setup


class _Forgetful:
    """Stands where the disk's cache of embeddings would: text encoding is part of every case."""

    def find(self, _prompt: str) -> None:
        return None

    def keep(self, _prompt: str, _encoded: Any) -> None:
        pass

    def trim(self) -> None:
        pass


def forgetful(engine: StreamingEngine) -> StreamingEngine:
    """The engine, without the disk's memory of prompts."""
    room: Any = engine._prompts
    room._cache = _Forgetful()
    return engine


def empty(engine: StreamingEngine) -> int:
    """Take from the engine all that cases bring with them; bytes of tensors that are left on the device."""
    for crowd in (engine._waiting, engine._flying, engine._decoded):
        crowd.clear()
    engine._prompts.forget(())
    kept: Any = engine._beforehand  # of Qwen-Image
    kept._tables.clear()
    engine._skeleton.parts["dit"].pos_embed.rope_cache.clear()
    engine._passage.forget()
    engine._shelf.close()
    engine._shelf._open.clear()
    engine._shelf._controls.clear()
    reset()
    return allocated()


def lend(engine: StreamingEngine, adapters: Mapping[Lora, Any]) -> None:
    """Give an engine LoRAs that are in no file: each says what a packed one does."""
    shelf = engine._shelf
    for lora, packed in adapters.items():
        shelf._open[lora] = OpenAdapter(packed, shelf._order, shelf._device, shelf._dtype)


@contextmanager
def slow_bus(copies: int) -> Iterator[None]:
    """Every block comes to its slot so many times, as over a bus that is so much slower."""
    copy = Slots._copy

    def again(slots: Slots, number: int, block: torch.Tensor, slot: torch.Tensor) -> Any:
        for _ in range(copies - 1):
            slot[: len(block)].copy_(block, non_blocking=True)
        return copy(slots, number, block, slot)

    with mock.patch.object(Slots, "_copy", again):
        yield


def unequip(engine: StreamingEngine) -> int:
    """Take its slots as well; bytes of tensors that are left on the device."""
    engine._slots.close()
    return empty(engine)


def equip(engine: StreamingEngine, setup: Setup) -> int:
    """Give an engine without slots those of another setup of the same model; how many it has.

    Raises what torch raises where there is no room for them.
    """
    engine.setup = setup
    passage = engine._passage
    engine._budget = budget.here(
        engine._source, engine._shape, setup, engine.device, passage.arithmetic, shares=passage.shares
    )
    engine._shelf._budget = engine._budget
    engine._slots = Slots(engine._source, engine._budget.slots, engine.device)
    return engine._slots.count


@contextmanager
def unrecorded(engine: StreamingEngine) -> Iterator[None]:
    """No launches are recorded inside, and none are played: each is made by the host, as DiffSynth's own are."""
    (section,) = engine._passage._sections
    blocks = section.blocks
    if not isinstance(blocks, RecordedBlocks):  # on a CPU nothing is ever recorded
        yield
        return
    before, blocks._wanted = blocks._wanted, lambda: False
    try:
        yield
    finally:
        blocks._wanted = before


def together(engine: StreamingEngine) -> int:
    """How many rows go through its blocks together, where there is room."""
    return MOST_ROWS_TOGETHER if engine._passage.shares else 0


def blocks(engine: StreamingEngine) -> int:
    """How many blocks a sweep has."""
    return engine._source.count


def forecast(engine: StreamingEngine, job: Job) -> int:
    """Bytes of tensors that a picture alone is reckoned with, besides LoRAs and ControlNets."""
    return engine._budget._here.estimate([Work.of(job)]).allocated


def reckoned(engine: StreamingEngine, works: Sequence[Work]) -> int:
    """Bytes that pictures in flight are admitted with, besides LoRAs and ControlNets."""
    return decide.needed(engine._budget._here, works)


def vae(engine: StreamingEngine) -> Any:
    return engine._skeleton.parts["vae"]


def tokens(engine: StreamingEngine, prompt: str) -> int:
    """How many tokens a prompt really is."""
    return len(engine._skeleton.tokenizer(prompt).input_ids)


def largest_group(engine: StreamingEngine, jobs: list[Job]) -> list[int]:
    """Tokens of the prompts that are encoded together where they are most."""
    texts = [text for job in jobs for text in (job.prompt, *((job.negative_prompt,) if job.cfg_scale != 1.0 else ()))]
    groups = engine._prompts._together(list(map(AskedPrompt, dict.fromkeys(texts))), engine._budget.tokens_together([]))
    return max(([tokens(engine, prompt.text) for prompt in group] for group in groups), key=sum)


def show_pictures_as(engine: StreamingEngine, token: int) -> None:
    """Have its text encoder take this token for a picture's: a small tokenizer has no other."""
    encoder = engine._skeleton.parts["text_encoder"]
    encoder.config.image_token_id = encoder.model.config.image_token_id = token


def reset() -> None:
    """Give back what nobody holds, and count peaks from here."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def allocated() -> int:
    """Bytes of tensors on the device; 0 without one."""
    return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else 0
