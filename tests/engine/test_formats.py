"""One picture from the files that people have: a GGUF transformer, ComfyUI's text encoder in FP8, its VAE."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffsynth.core.vram.initialization import skip_model_initialization
from diffsynth.models.wan_video_vae import VideoVAE_
from safetensors.torch import load_file, save_file

from renderer import catalog
from renderer.engine.streaming import StreamingEngine
from renderer.families import QWEN_IMAGE_FAMILY
from renderer.job import Stored
from renderer.protocol import Setup
from renderer.weights import prepare
from renderer.weights.index import read_index
from tests.engine.making import DIT, TEXT_ENCODER, VAE, make_job
from tests.engine.test_streaming import render
from tests.weights import foreign

FORMATS: dict[tuple[str, Stored], dict[str, str]] = {
    ("plain", "bf16"): {},
    ("plain", "fp8"): {},
    ("theirs", "bf16"): {"transformer": "gguf: Q8_0", "text_encoder": "scaled: F8_E4M3"},
    ("theirs", "fp8"): {"transformer": "gguf: Q8_0", "text_encoder": "scaled: I8"},
}
"""What a store says of the files that it was made of."""


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_picture(demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Stored) -> None:
    """It has the bits of the picture from the bf16 files that these stand for, at any precision."""
    monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
    blocks, transformer = foreign.city96(load_file(demo_folder / DIT))
    form = foreign.comfyui_2025 if precision == "bf16" else foreign.convrot  # FP8 is kept, and not rounded again
    scaled = form(load_file(demo_folder / TEXT_ENCODER))
    vae = load_file(demo_folder / VAE)
    with skip_model_initialization():
        base = vae["encoder.conv_in.weight"].shape[0]
        hub_name = QWEN_IMAGE_FAMILY.network("vae").hub_name
        wans = {hub_name(name): name for name in VideoVAE_(dim=base, z_dim=16).state_dict()}
    foreign.write_gguf(tmp_path / "qwen-image-Q8_0.gguf", blocks)
    save_file(scaled.tensors, tmp_path / "qwen_2.5_vl_7b_fp8_scaled.safetensors", metadata=scaled.metadata)
    save_file({wans[name]: tensor for name, tensor in vae.items()}, tmp_path / "qwen_image_vae.safetensors")
    save_file(transformer, tmp_path / "transformer.safetensors")
    save_file(scaled.plain, tmp_path / "text_encoder.safetensors")
    save_file(vae, tmp_path / "vae.safetensors")
    given = {
        "theirs": ("qwen-image-Q8_0.gguf", "qwen_2.5_vl_7b_fp8_scaled.safetensors", "qwen_image_vae.safetensors"),
        "plain": ("transformer.safetensors", "text_encoder.safetensors", "vae.safetensors"),
    }
    pictures = {}
    for name, files in given.items():
        parts = zip(("transformer", "text_encoder", "vae"), files, strict=True)
        model = ",".join([*(f"{role}={tmp_path / file}" for role, file in parts), f"tokenizer={demo_folder}/tokenizer"])
        store = prepare.prepare(catalog.find(model), store=precision).store
        setup = Setup(model=model, precision=precision, profile="stream", store=str(store))
        engine = StreamingEngine.open(setup, lambda _: None)
        assert read_index(Path(str(store))).formats == engine.formats == FORMATS[name, precision]
        job = make_job(model=model, precision=precision, width=64)
        pictures[name] = render(engine, [job]).pictures["0"].rgb
    assert pictures["theirs"] == pictures["plain"]
    assert torch.frombuffer(bytearray(pictures["plain"]), dtype=torch.uint8).float().std() > 1
