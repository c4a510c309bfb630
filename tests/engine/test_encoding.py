"""Embeddings on the disk, which several processes and users share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from renderer.engine import prompts
from renderer.engine.encoding import AskedPrompt, EmbeddingCache, Encoded
from renderer.job import Gpu
from renderer.system.files import PART_PREFIX
from tests.engine.test_streaming import open_engine

ONE = Encoded(torch.ones(1, 10, 100), torch.ones(1, 10))


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    """With three prompts in it."""
    found = EmbeddingCache(tmp_path, ["model"])
    for prompt in "abc":
        found.keep(AskedPrompt(prompt), ONE)
    return found


def test_another_process_trims_meanwhile(
    cache: EmbeddingCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is gone between the listing and the look at it is as good as deleted."""
    glob = Path.glob

    def racing(folder: Path, pattern: str, **options: Any) -> Iterator[Path]:
        found = list(glob(folder, pattern, **options))
        for path in found[:1]:
            path.unlink()
        return iter(found)

    monkeypatch.setattr(Path, "glob", racing)
    cache.trim(most_bytes=0)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_another_user_s_cache(cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be read and not written is used all the same."""

    def refuse(_path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "touch", refuse)
    found = cache.find(AskedPrompt("a"))
    assert found is not None
    assert torch.equal(found.embedding, ONE.embedding)


def test_it_may_not_be_deleted(cache: EmbeddingCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a folder in which this user deletes nothing stop a picture."""

    def refuse(_path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    cache.trim(most_bytes=0)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 3


def test_what_dead_writers_left(cache: EmbeddingCache, tmp_path: Path) -> None:
    """A part that is an hour old goes; one that is being written stays."""
    old, new = (tmp_path / f"{PART_PREFIX}{name}" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago - 60, hour_ago - 60))
    os.utime(new, (hour_ago + 60, hour_ago + 60))  # its writer may have been frozen since
    cache.trim()
    assert (old.exists(), new.exists()) == (False, True)


def test_what_an_embedding_is_remembered_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The weights, the libraries, the card and what it computes in: with any other the bits may be others."""
    engine = open_engine()
    skeleton = replace(engine._skeleton, text_sections=(), looking_sections=())
    monkeypatch.setattr(prompts, "cache_folder", lambda: tmp_path)

    def place(card: str = "a card", arithmetic: str = "bf16", text: str = "t", looks: str = "l") -> Path:
        monkeypatch.setattr("renderer.engine.facts.gpu", lambda _: Gpu(name=card, total_bytes=1))
        monkeypatch.setattr(prompts, "arithmetic_of", lambda _: arithmetic)
        store: Any = SimpleNamespace(index=SimpleNamespace(text_sha256=text, looks_sha256=looks))
        made = prompts.Prompts(skeleton, store, engine._family, "cpu")
        return made._cache._path(AskedPrompt("a harbour"))

    usual = place()
    assert usual == place(looks="other")  # of a prompt about no picture
    others = [place(card="another"), place(arithmetic="float32"), place(text="other")]
    assert len({usual, *others}) == 4
