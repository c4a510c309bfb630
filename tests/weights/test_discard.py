"""Originals that a store stands for, deleted in the order in which people ask for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from renderer import catalog
from renderer.cli import command
from renderer.errors import ModelError
from renderer.weights import needs, places, prepare
from renderer.weights.needs import Need

QWEN = catalog.QWEN_IMAGE


@pytest.fixture
def packed(demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Qwen/Qwen-Image, which is the demo model here: fetched, and packed as `render` packs it. Its originals."""
    monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
    originals = tmp_path / "models" / QWEN.id
    shutil.copytree(demo_folder, originals)
    prepare.prepare(QWEN, store="fp8", offline=True)
    return originals


def weights(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_after_render_has_packed(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A store that is here already is verified, and then the originals go; once they have, nothing is left to do."""
    assert weights(packed)
    assert not needs.is_met(Need(model=QWEN.id, store="fp8", discard_source=True))
    assert command.main(["models", "pack", QWEN.id, "--discard-source", "--offline"]) == 0
    assert "of originals discarded" in capsys.readouterr().out
    assert weights(packed) == []
    assert places.has_store(QWEN, "fp8")
    assert command.main(["models", "pack", QWEN.id, "--discard-source", "--offline"]) == 0
    assert "packed in fp8 here already" in capsys.readouterr().out


def test_a_store_that_is_not_whole(packed: Path) -> None:
    """Originals stay where the store is not what its index says, in its data too."""
    path = next((places.packed_folder(QWEN, "fp8") / "transformer").glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    before = weights(packed)
    with pytest.raises(ModelError, match=f"{path.name}: damaged"):
        prepare.prepare(QWEN, store="fp8", offline=True, discard_source=True)
    assert weights(packed) == before


def test_originals_that_are_not_all_here(packed: Path) -> None:
    """What is left of them goes too, and nothing is fetched to be deleted."""
    shutil.rmtree(packed / "vae")
    assert command.main(["models", "pack", QWEN.id, "--discard-source", "--offline"]) == 0
    assert weights(packed) == []


def test_another_tool_s_originals_stay(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in a folder of another tool is no original of ours, and asks for nothing."""
    monkeypatch.setenv("DIFFSYNTH_MODEL_BASE_PATH", str(tmp_path / "theirs"))
    packed.rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", tmp_path / "theirs" / QWEN.id)
    assert needs.is_met(Need(model=QWEN.id, store="fp8", discard_source=True))
