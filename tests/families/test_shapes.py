"""Our arithmetic of names and shapes, held against DiffSynth's own classes at full size."""

from __future__ import annotations

import re

import pytest
import torch
from diffsynth.core.vram.initialization import skip_model_initialization
from diffsynth.models.qwen_image_controlnet import QwenImageBlockWiseControlNet
from diffsynth.models.qwen_image_dit import QwenImageDiT, QwenImageTransformerBlock
from diffsynth.models.qwen_image_text_encoder import QwenImageTextEncoder
from diffsynth.models.qwen_image_vae import QwenImageVAE
from diffsynth.models.wan_video_vae import VideoVAE_
from gguf import MODEL_ARCH, get_tensor_name_map

from renderer.families import QWEN_IMAGE_FAMILY, Shapes
from renderer.families.qwen_image import shapes
from renderer.families.qwen_image.transformer import BLOCK


def of(network: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


class TestShapes:
    def test_transformer(self) -> None:
        """Qwen-Image's DiT has exactly these tensors, and its widths are found from them."""
        with skip_model_initialization():
            found = of(QwenImageDiT())
        assert shapes.transformer(shapes.TransformerWidths()) == found
        assert shapes.transformer_widths(found) == shapes.TransformerWidths()

    def test_what_is_no_block_counts_for_none(self) -> None:
        """A tensor that is called like a block's, and has no number, is one too many, and no block more."""
        found = shapes.transformer(shapes.TransformerWidths(layers=2))
        assert shapes.transformer_widths(found | {"transformer_blocks.extra.weight": (1,)}).layers == 2

    def test_whose_tokens_pass_a_layer(self) -> None:
        """Of a block's layers, in DiffSynth's own, a prompt's tokens pass those that are said to be of text."""
        block, passed = QwenImageTransformerBlock(16, 2, 8), dict[str, int]()
        for name, layer in block.named_modules():
            if isinstance(layer, torch.nn.Linear):
                layer.register_forward_hook(lambda _, given, __, name=name: passed.update({name: given[0].shape[-2]}))
        turned = torch.polar(torch.ones(5, 4), torch.zeros(5, 4)), torch.polar(torch.ones(3, 4), torch.zeros(3, 4))
        block(torch.zeros(1, 5, 16), torch.zeros(1, 3, 16), torch.zeros(1, 16), turned)
        assert {name for name, rows in passed.items() if rows == 3} == {*BLOCK.of_text}
        assert {name for name, rows in passed.items() if rows == 5} == {*BLOCK.layers} - {*BLOCK.of_text}

    @pytest.mark.parametrize("masked", [False, True])
    def test_controlnet(self, masked: bool) -> None:  # noqa: FBT001  # pytest's
        """DiffSynth's blockwise ControlNet has exactly these tensors, with a mask and without."""
        with skip_model_initialization():
            found = of(QwenImageBlockWiseControlNet(additional_in_dim=4 if masked else 0))
        assert shapes.controlnet(60, 3072, masked) == found

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

    def test_the_vae_under_wan_s_names(self) -> None:
        """Each tensor of Wan's own VAE, which ComfyUI's file has the names of, is one of the hub's: none is left."""
        network = QWEN_IMAGE_FAMILY.network("vae")
        with skip_model_initialization():
            found = of(VideoVAE_(dim=96, z_dim=16))
        assert {network.hub_name(name): shape for name, shape in found.items()} == shapes.vae(shapes.VaeWidths())
        assert not found.keys() & shapes.vae(shapes.VaeWidths()).keys()
        by_kind: dict[str, list[str]] = {}
        for name in map(network.hub_name, found):  # of alike ones, which is which tells their order alone
            by_kind.setdefault(re.sub(r"\d+", "N", name), []).append(name)
        for alike in by_kind.values():
            assert alike == sorted(alike, key=lambda name: list(map(int, re.findall(r"\d+", name))))

    def test_names_that_are_the_hub_s_stay(self) -> None:
        """No table of another tool's names takes one of the hub's for its own."""
        for role, names in (
            ("transformer", shapes.transformer(shapes.TransformerWidths(layers=2))),
            ("text_encoder", shapes.text_encoder(shapes.TextEncoderWidths(layers=2))),
            ("vae", shapes.vae(shapes.VaeWidths())),
        ):
            network = next(each for each in QWEN_IMAGE_FAMILY.networks if each.role == role)
            assert [network.hub_name(name) for name in names] == list(names)

    def test_the_text_encoder_under_llama_cpp_s_names(self) -> None:
        """By the table of the library that wrote them, there and back."""
        network, blind = QWEN_IMAGE_FAMILY.network("text_encoder"), shapes.TextEncoderWidths(layers=3, vision_layers=0)
        table = get_tensor_name_map(MODEL_ARCH.QWEN2VL, 3)
        for name in (*shapes.text_encoder(blind), "lm_head.weight"):
            written = table.get_name(name, try_suffixes=(".weight", ".bias"))
            assert written is not None
            assert written != name
            assert network.hub_name(written) == name
