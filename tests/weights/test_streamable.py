"""Which models can be streamed, and that those which cannot are not packed either."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer import catalog
from renderer.errors import ModelError
from renderer.weights import streamable
from tests.engine.making import DIT, TEXT_ENCODER, copy_model, without_vision
from tests.weights.tiny import Source


@pytest.fixture
def blind(demo_folder: Path, tmp_path: Path) -> Path:
    """A model whose text encoder has no vision tower: pictures from text do not need it."""
    return without_vision(copy_model(demo_folder, tmp_path / "blind"))


class TestObstacle:
    def test_a_text_encoder_without_its_vision_tower(self, blind: Path) -> None:
        """In a folder and as a single file; another file of the same folder alone is no obstacle."""
        assert "no vision tower" in streamable.obstacle(catalog.find(str(blind)), "fp8")
        assert "no vision tower" in streamable.obstacle(catalog.find(f"text_encoder={blind / TEXT_ENCODER}"), "bf16")
        assert streamable.obstacle(catalog.find(f"transformer={blind / DIT}"), "bf16") == ""

    @pytest.mark.parametrize("name", ["demo", "Qwen/Qwen-Image"])
    def test_the_catalogue_s_models_have_none(self, name: str) -> None:
        """Nothing is read for them."""
        assert streamable.obstacle(catalog.find(name), "fp8") == ""

    def test_a_whole_model_has_none(self, demo_folder: Path) -> None:
        """In a folder of one's own."""
        assert streamable.obstacle(catalog.find(str(demo_folder)), "fp8") == ""

    def test_a_damaged_file_is_none(self, blind: Path) -> None:
        """The native engine could not read it either: it is left to be named by whoever opens it."""
        path = blind / TEXT_ENCODER
        path.write_bytes(path.read_bytes()[:-1])
        assert streamable.obstacle(catalog.find(str(blind)), "fp8") == ""


def test_what_cannot_be_streamed_is_not_packed(blind: Path, tmp_path: Path) -> None:
    """`renderer models pack` names the file, why, and that it renders without a store; nothing is written."""
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be packed: .* no vision tower") as caught:
        Source(blind).pack(tmp_path / "packed")
    assert "render without a store" in caught.value.hint
    assert not list(tmp_path.glob("packed*"))
