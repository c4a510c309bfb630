"""Where the demo model lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer.demo import cache
from renderer.demo.tensors import FILES
from renderer.errors import MachineError
from renderer.system import folders


def test_model_comes_with_the_package() -> None:
    """The folder is in the package and has Qwen-Image's layout, a card and a log."""
    folder = cache.folder()
    assert folder.is_relative_to(Path(cache.__file__).parent)
    for file in (*FILES.values(), "tokenizer/vocab.json", "tokenizer/merges.txt", "MODEL_CARD.md", "training.jsonl"):
        assert (folder / file).is_file()


def test_package_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package came without the model, the error names the place."""
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    with pytest.raises(MachineError, match="is missing from"):
        cache.folder()


def test_own_variable_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is RENDERER_CACHE, else a folder in XDG_CACHE_HOME, else one in ~/.cache; empty counts as unset."""
    monkeypatch.setenv("RENDERER_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    monkeypatch.setenv("HOME", "/home/someone")
    assert folders.cache_folder() == Path("/own")
    monkeypatch.setenv("RENDERER_CACHE", "")
    assert folders.cache_folder() == Path("/shared/renderer")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert folders.cache_folder() == Path("/home/someone/.cache/renderer")
