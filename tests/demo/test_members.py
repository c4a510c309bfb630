"""The demo model's networks and weights, against DiffSynth's tables."""

from __future__ import annotations

from pathlib import Path

from diffsynth.configs import MODEL_CONFIGS
from diffsynth.core.loader.file import hash_model_file
from safetensors import safe_open

from renderer.demo import members, tensors


def test_hashes_are_those_of_the_files(demo_folder: Path) -> None:
    """The hashes by which DiffSynth will know the files are those it computes from them."""
    expected = [members.DIT_HASH, members.TEXT_ENCODER_HASH, members.VAE_HASH]
    assert [hash_model_file(str(demo_folder / file)) for file in tensors.layout()] == expected


def test_all_weights_fit_into_16_mb(demo_folder: Path) -> None:
    """The trained model is shipped in the package, in at most 16 MB and 8 million parameters."""
    files = [demo_folder / file for file in tensors.layout()]
    assert sum(file.stat().st_size for file in files) <= 16_000_000
    assert sum(shape.numel() for shapes in tensors.layout().values() for shape in shapes.values()) <= 8_000_000


def test_text_encoder_file_has_qwens_names(demo_folder: Path) -> None:
    """Its tensors are named as in Qwen2.5-VL's checkpoints, so that DiffSynth's converter applies."""
    with safe_open(demo_folder / "text_encoder/model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert {name.partition(".")[0] for name in names} == {"visual", "model", "lm_head"}
    assert "model.embed_tokens.weight" in names


def test_registering_again_adds_nothing() -> None:
    """DiffSynth's table holds each of the three entries once, however often the model is registered."""
    members.register()
    before = len(MODEL_CONFIGS)
    members.register()
    assert len(MODEL_CONFIGS) == before
    assert [entry["model_hash"] for entry in MODEL_CONFIGS].count(members.DIT_HASH) == 1
