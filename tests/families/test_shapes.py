"""Our arithmetic of names and shapes, held against DiffSynth's own classes at full size."""

from __future__ import annotations

import torch
from diffsynth.core.vram.initialization import skip_model_initialization
from diffsynth.models.qwen_image_dit import QwenImageDiT
from diffsynth.models.qwen_image_text_encoder import QwenImageTextEncoder
from diffsynth.models.qwen_image_vae import QwenImageVAE

from renderer.families import Shapes
from renderer.families.qwen_image import shapes


def of(network: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


class TestShapes:
    def test_transformer(self) -> None:
        """Qwen-Image's DiT has exactly these tensors, and its widths are found from them."""
        with skip_model_initialization():
            found = of(QwenImageDiT())
        assert shapes.transformer(shapes.TransformerWidths()) == found
        assert shapes.transformer_widths(found) == shapes.TransformerWidths()

    def test_text_encoder(self) -> None:
        """Qwen2.5-VL has exactly these tensors besides its output layer, and its widths are found from them."""
        with skip_model_initialization():
            found = of(QwenImageTextEncoder())
        found = {
            name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): shape
            for name, shape in found.items()
            if name != "lm_head.weight"
        }
        assert shapes.text_encoder(shapes.TextEncoderWidths()) == found
        assert shapes.text_encoder_widths(found) == shapes.TextEncoderWidths()

    def test_vae(self) -> None:
        """The VAE has exactly these tensors, for its own widths and others."""
        for widths in (shapes.VaeWidths(), shapes.VaeWidths(base=12, colours=4)):
            with skip_model_initialization():
                found = of(QwenImageVAE(base_dim=widths.base, image_channels=widths.colours))
            assert shapes.vae(widths) == found
            assert shapes.vae_widths(found) == widths
