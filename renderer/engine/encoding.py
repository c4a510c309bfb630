"""All prompts in one sweep over the text encoder, equal ones once, and their embeddings remembered on the disk.

Each prompt goes through DiffSynth's own prompt unit, alone: prompts of different lengths do not touch each other. The
encoder's layers are read from the packed store as they come past; the embedding table stays in the file, and only the
rows a prompt needs are read. Knows nothing of pictures.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from renderer.engine.riders import Rider
from renderer.errors import DiskError
from renderer.job import Edit, canonical
from renderer.system.files import PART_PREFIX, write_whole

LOG = logging.getLogger(__name__)

MAX_CACHE_BYTES = 2**30
"""Embeddings kept on the disk; the oldest go first. About a thousand long prompts."""

_ABANDONED_S = 3600.0
"""A file that is being written is there for a blink; after this long, who wrote it has died."""


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """What is encoded: a text, and the pictures that it is about, where some are edited."""

    text: str
    edit: Edit | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as the DiT takes it: 1 x tokens x width, in host memory, and its mask, 1 x tokens of ones."""

    embedding: torch.Tensor
    mask: torch.Tensor


class HostEmbedding(torch.nn.Module):
    """An embedding table that stays in its file: looks up on the host, hands the rows to the device."""

    def __init__(self, table: torch.Tensor, device: str, dtype: torch.dtype) -> None:
        """`table` is a view of the mapped file: only the rows that are read are loaded, and handed on as `dtype`."""
        super().__init__()
        self._table = table
        self._device = device
        self._dtype = dtype

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(tokens.cpu(), self._table).to(self._device, self._dtype)


def encode(
    prompts: Iterable[AskedPrompt], call: Callable[[AskedPrompt], Encoded], sweep: Callable[[Sequence[Rider]], None]
) -> dict[AskedPrompt, Encoded]:
    """Encode prompts in one sweep.

    `call` encodes one, and waits wherever a block would run; `sweep` brings every block past the riders it is given,
    once. Raises what the first failing prompt raised.
    """
    found: dict[AskedPrompt, Encoded] = {}
    failures: list[Exception] = []

    def rider(prompt: AskedPrompt) -> Rider:
        def ended(result: Any, error: Exception | None) -> None:
            if error is not None:
                failures.append(error)
            else:
                found[prompt] = result

        return Rider(lambda: call(prompt), ended)

    riders = [rider(prompt) for prompt in dict.fromkeys(prompts)]
    try:
        for one in riders:
            one.start()
        sweep(riders)
    finally:
        for one in riders:  # a sweep that breaks off leaves them waiting, with all that they hold
            one.leave()
    if failures:
        raise failures[0]
    return found


class EmbeddingCache:
    """Embeddings on the disk, by everything that could change their bits. Safe to delete at any time."""

    def __init__(self, folder: Path, circumstances: Sequence[str], looking: str = "") -> None:
        """`circumstances` are what besides the prompt decides the bits: model, precision, versions, the card.

        `looking` is what else does where it is about pictures.
        """
        self._folder = folder
        self._circumstances = tuple(circumstances)
        self._looking = looking

    def find(self, prompt: AskedPrompt) -> Encoded | None:
        """What is remembered of a prompt; None when nothing is, or when it cannot be read."""
        path = self._path(prompt)
        try:
            with safe_open(path, framework="pt") as file:
                encoded = Encoded(file.get_tensor("embedding"), file.get_tensor("mask"))
        except (OSError, SafetensorError):
            return None
        with contextlib.suppress(OSError):  # one that another user keeps is as good
            path.touch()
        return encoded

    def keep(self, prompt: AskedPrompt, encoded: Encoded) -> None:
        """Remember a prompt. Where it cannot be written, it is encoded again the next time."""
        try:
            data = save({"embedding": encoded.embedding.contiguous(), "mask": encoded.mask.contiguous()})
            write_whole(self._path(prompt), data)
        except DiskError as error:
            LOG.warning("an embedding is not remembered: %s", error.message)

    def trim(self, most_bytes: int = MAX_CACHE_BYTES) -> None:
        """Delete what was not used for longest, until the rest fits; and what writers left that died.

        Other processes use the same folder meanwhile: what is gone already is as good as deleted.
        """
        for path, stat in self._files(f"{PART_PREFIX}*"):
            if stat.st_mtime < time.time() - _ABANDONED_S:
                _delete(path)
        files = self._files("*.safetensors")
        total = sum(stat.st_size for _, stat in files)
        for path, stat in sorted(files, key=lambda entry: entry[1].st_mtime):
            if total <= most_bytes:
                return
            _delete(path)
            total -= stat.st_size

    def _files(self, pattern: str) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self._folder.glob(pattern):
            with contextlib.suppress(OSError):
                found.append((path, path.stat()))
        return found

    def _path(self, prompt: AskedPrompt) -> Path:
        pictures = [] if prompt.edit is None else [self._looking, canonical(prompt.edit)]
        text = json.dumps([*self._circumstances, prompt.text, *pictures], ensure_ascii=False)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


def _delete(path: Path) -> None:
    """Delete a file, if this user may."""
    with contextlib.suppress(OSError):
        path.unlink()
