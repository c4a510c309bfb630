"""Which tensor goes where: order, forms, sizes, and that nothing is lost."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from renderer.catalog import Role
from renderer.errors import ModelError
from renderer.families import QWEN_IMAGE_FAMILY, Shapes
from renderer.families.qwen_image import shapes
from renderer.families.qwen_image.shapes import TransformerWidths
from renderer.job import Stored
from renderer.weights.layout import ALIGNMENT, PackedFile, plan_files
from tests.weights import tiny

REAL: dict[Role, Shapes] = {
    "transformer": shapes.transformer(TransformerWidths()),
    "text_encoder": shapes.text_encoder(shapes.TextEncoderWidths()),
    "vae": shapes.vae(shapes.VaeWidths()),
}


def named(name: str, precision: Stored = "fp8") -> PackedFile:
    return next(file for file in plan_files(QWEN_IMAGE_FAMILY, REAL, precision) if file.name == f"{name}.safetensors")


class TestPlan:
    def test_block_order(self) -> None:
        """A block's file has its weights first, those of one product side by side; then scales, biases, norms."""
        names = [tensor.name for tensor in named("transformer/block-007").tensors]
        assert names[:8] == [
            *("attn.to_q.weight", "attn.to_k.weight", "attn.to_v.weight"),
            *("attn.add_q_proj.weight", "attn.add_k_proj.weight", "attn.add_v_proj.weight"),
            *("attn.to_out.0.weight", "attn.to_add_out.weight"),
        ]
        assert names[12:15] == ["attn.to_q.scale", "attn.to_k.scale", "attn.to_v.scale"]
        assert names[24:27] == ["attn.to_q.bias", "attn.to_k.bias", "attn.to_v.bias"]
        assert names[36:] == [f"attn.norm_{each}.weight" for each in ("q", "k", "added_q", "added_k")]

    def test_a_text_layer_order(self) -> None:
        """So does a layer of the text encoder, where only queries, keys and values have biases."""
        tensors = named("text_encoder/block-003", "bf16").tensors
        assert [tensor.name for tensor in tensors] == [
            *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
            *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
            *(f"self_attn.{name}_proj.bias" for name in "qkv"),
            *("input_layernorm.weight", "post_attention_layernorm.weight"),
        ]

    @pytest.mark.parametrize("precision", ["bf16", "fp8"])
    def test_every_tensor_once(self, precision: Stored) -> None:
        """Each tensor of a checkpoint is in exactly one file, and each fp8 weight has its scales in the same one."""
        files = plan_files(QWEN_IMAGE_FAMILY, REAL, precision)
        found = Counter((file.network, each.source) for file in files for each in file.tensors if each.is_first)
        assert found == Counter((network, name) for network, names in REAL.items() for name in names)
        for file in files:
            weights = [tensor.source for tensor in file.tensors if tensor.is_first and not tensor.codec.is_plain]
            assert weights == [tensor.source for tensor in file.tensors if tensor.part.suffix == "scale"]
            assert len({tensor.name for tensor in file.tensors}) == len(file.tensors)

    def test_sizes(self) -> None:
        """At fp8: 13.6 GB a sweep, 6.8 modulation, 7.6 text encoder without its vision tower, 0.25 VAE."""
        total: Counter[str] = Counter()
        for file in plan_files(QWEN_IMAGE_FAMILY, REAL, "fp8"):
            total[f"{file.network} {file.kind}"] += sum(tensor.bytes for tensor in file.tensors)
        assert total["transformer block"] == pytest.approx(13.6e9, rel=0.01)
        assert total["transformer modulation"] == pytest.approx(6.8e9, rel=0.01)
        assert total["text_encoder block"] + total["text_encoder outside"] == pytest.approx(7.6e9, rel=0.01)
        assert total["vae whole"] == pytest.approx(0.25e9, rel=0.02)

    @pytest.mark.parametrize("precision", ["bf16", "fp8"])
    def test_alignment(self, precision: Stored) -> None:
        """In a streamed file every tensor begins at a multiple of 16; elsewhere those that would break it come last."""
        for file in plan_files(QWEN_IMAGE_FAMILY, REAL, precision):
            uneven = [tensor.bytes % ALIGNMENT > 0 for tensor in file.tensors]
            assert not any(uneven) or file.number is None
            assert all(before <= after for before, after in pairwise(uneven))

    def test_a_width_that_cannot_be_streamed(self) -> None:
        """A tensor that would leave the next one unaligned is refused by its name."""
        widths = TransformerWidths(layers=1, width=16, head=8, mlp=36, text=16, latent=64, timestep=16)
        with pytest.raises(ModelError, match=r'"transformer_blocks.0.img_mlp.net.0.proj.bias" would take 72 bytes'):
            plan_files(QWEN_IMAGE_FAMILY, {**tiny.SHAPES, "transformer": shapes.transformer(widths)}, "bf16")

    def test_what_stays(self) -> None:
        """An fp8 store keeps as bf16 exactly what the table names, and each line of the table is needed."""
        for file in plan_files(QWEN_IMAGE_FAMILY, REAL, "fp8"):
            for tensor in file.tensors:
                assert (
                    bool(QWEN_IMAGE_FAMILY.network(file.network).reason_to_stay(tensor.source)) == tensor.codec.is_plain
                )
        used = {
            QWEN_IMAGE_FAMILY.network(role).reason_to_stay(name) for role, names in REAL.items() for name in names
        } - {""}
        assert used == {row.reason for network in QWEN_IMAGE_FAMILY.networks for row in network.stays}
