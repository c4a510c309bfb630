"""Stable Diffusion 1.5 in fp16 against what others have published.

512x512 with and without fused attention: `torch.cuda.max_memory_allocated` of diffusers' text-to-image pipeline in
16 bit on an A100 80GB, batch of one, guided, without the safety checker (huggingface.co/datasets/sayakpaul/
sample-datasets, collated_results_sdv15.csv). 800x534 and the others: peaks of its image-to-image pipeline with the
safety checker and torch 2's attention on a T4 (github.com/dheepakshakthi/vRam_estimation_for_diffusion_model).
"""

from __future__ import annotations

import pytest
import torch
from diffsynth.models.stable_diffusion_unet import UNet2DConditionModel
from diffsynth.models.stable_diffusion_vae import StableDiffusionVAE

from renderer.catalog import STABLE_DIFFUSION_15
from renderer.estimate import estimate_unet, f
from tests.estimate.tape import Tape, plain_attention

GIB = 2**30


class TestPublished:
    @pytest.mark.parametrize(
        ("height", "width", "fused", "checker", "published"),
        [
            (512, 512, False, False, 3.071),
            (512, 512, True, False, 2.616),
            (534, 800, True, True, 3.54),
            (380, 396, True, True, 2.92),
            (2048, 2048, True, True, 12.09),
        ],
    )
    def test_within_a_tenth(self, height: int, width: int, *, fused: bool, checker: bool, published: float) -> None:
        """Each published point is met within one per cent, where a tenth was asked for."""
        found = f(height, width, 77, 7.5, 1, fused=fused, safety_checker=checker) / GIB
        assert found == pytest.approx(published, rel=0.01)

    def test_fused_attention_is_not_quadratic(self) -> None:
        """Four times the tokens: fused about four times the work, plain sixteen times the scores."""
        weights = 2 * (STABLE_DIFFUSION_15.unet + STABLE_DIFFUSION_15.vae + STABLE_DIFFUSION_15.text_encoder)
        fused = [f(side, side, 77) - weights for side in (1024, 2048)]
        plain = [f(side, side, 77, fused=False) - weights for side in (1024, 2048)]
        assert fused[1] / fused[0] < 4.1
        assert plain[1] / plain[0] > 15

    def test_guidance_and_batches_count(self) -> None:
        """Without guidance there is one pass; two pictures are four passes."""
        alone = f(1024, 1024, 77, 1.0, 1, fused=False)
        assert alone < f(1024, 1024, 77, 7.5, 1, fused=False) < f(1024, 1024, 77, 7.5, 2, fused=False)


class TestCounting:
    def test_weights_are_those_of_the_networks(self) -> None:
        """860 and 84 million weights, counted in DiffSynth's own classes."""
        with torch.device("meta"):
            for network, count in ((UNet2DConditionModel(), STABLE_DIFFUSION_15.unet),
                                   (StableDiffusionVAE(), STABLE_DIFFUSION_15.vae)):  # fmt: skip
                assert sum(each.numel() for each in network.parameters()) == count

    def test_the_unet_holds_what_the_terms_say(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With plain attention, the tensors of the UNet at its peak are the terms', within three per cent."""
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", plain_attention)
        with torch.device("meta"):
            unet = UNet2DConditionModel().half().eval()
            with torch.no_grad(), Tape() as tape:
                unet(
                    torch.empty(2, 4, 64, 64, dtype=torch.half),
                    torch.empty(2, dtype=torch.long),
                    torch.empty(2, 77, 768, dtype=torch.half),
                )
        stage = estimate_unet(512, 512, fused=False).stage("denoise")
        kept = {"UNet", "VAE", "text encoder", "cuBLAS workspace"}
        held = sum(term.bytes for term in stage.terms if term.name not in kept)
        assert held == pytest.approx(tape.peak, rel=0.03)
