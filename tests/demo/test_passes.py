"""Training's batched forward passes against DiffSynth's own, on random weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffsynth.models.qwen_image_vae import QwenImageVAE
from diffsynth.pipelines.qwen_image import model_fn_qwen_image

from renderer.catalog import DROPPED_TOKENS
from renderer.demo.members import VAE_BASE_WIDTH, DemoDiT, DemoTextEncoder
from renderer.demo.tokenizer import VOCABULARY_SIZE
from renderer.demo.train import passes


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        yield


def test_text_encoder_is_qwens() -> None:
    """Padded prompts get, token for token, the hidden states that DiffSynth's text encoder gives each alone."""
    encoder: Any = DemoTextEncoder()
    lengths = (DROPPED_TOKENS + 9, DROPPED_TOKENS + 20)
    tokens = torch.randint(0, VOCABULARY_SIZE, (2, DROPPED_TOKENS + 24))
    found = passes.encode_text(encoder, tokens)
    for place, length in enumerate(lengths):
        own = tokens[place : place + 1, :length]
        expected = encoder(input_ids=own, attention_mask=torch.ones_like(own))[-1][0, DROPPED_TOKENS:]
        torch.testing.assert_close(found[place, : length - DROPPED_TOKENS], expected, rtol=1e-4, atol=1e-4)


def test_dit_is_diffsynths() -> None:
    """A batch of two sizes and lengths gets the velocities that DiffSynth's model function gives each alone."""
    dit: Any = DemoDiT()
    rope = passes.Rope.make(dit, "cpu")
    sizes, lengths = torch.tensor([0, 1]), torch.tensor([30, 17])
    sigma = torch.tensor([0.5, 0.25])
    text = torch.randn(2, passes.TEXT_TOKENS, 128)
    noisy = [
        torch.randn(1, 16, passes.TRAINED_SIZES[size][1] // 8, passes.TRAINED_SIZES[size][0] // 8) for size in sizes
    ]
    patches = torch.cat([passes.pack(latents) for latents in noisy])
    found = passes.predict_velocity(dit, patches, sigma, text, lengths, sizes, rope)
    for place, latents in enumerate(noisy):
        width, height = passes.TRAINED_SIZES[place]
        expected = model_fn_qwen_image(
            dit=dit,
            latents=latents,
            timestep=sigma[place : place + 1] * 1000,
            prompt_emb=text[place : place + 1, : lengths[place]],
            prompt_emb_mask=torch.ones(1, int(lengths[place]), dtype=torch.long),
            height=height,
            width=width,
        )
        own = passes.unpack(found[place : place + 1], width, height)
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-4)


def test_vae_is_diffsynths() -> None:
    """Pictures without a dimension of time give the latents and pictures of DiffSynth's VAE."""
    vae: Any = QwenImageVAE(base_dim=VAE_BASE_WIDTH)
    flat = passes.FlatVae(vae)
    pictures, latents = torch.rand(2, 3, 48, 64) * 2 - 1, torch.randn(2, 16, 6, 8)
    torch.testing.assert_close(flat.encode(pictures), vae.encode(pictures), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(flat.decode(latents), vae.decode(latents), rtol=1e-3, atol=1e-4)


def test_patches_come_back() -> None:
    """Latents cut into patches and put together are what they were."""
    latents = torch.randn(2, 16, 26, 40)
    assert torch.equal(passes.unpack(passes.pack(latents), 320, 208), latents)
