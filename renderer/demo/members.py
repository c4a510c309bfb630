"""The demo model's networks: Qwen-Image's own classes in small widths, and how DiffSynth's tables come to know them.

Widths are chosen so that all weights together fit into 16 MB of bf16, and so that the model can be trained to draw
shapes and short words at 256x256. The vision tower is there because Qwen2.5-VL has one; text to picture never uses it.
Knows nothing of weights' values or of folders.
"""

from __future__ import annotations

import torch
from diffsynth.configs import MODEL_CONFIGS, VERSION_CHECKER_MAPS, VRAM_MANAGEMENT_MODULE_MAPS
from diffsynth.models.general_modules import AdaLayerNorm, RMSNorm, TimestepEmbeddings
from diffsynth.models.qwen_image_dit import (
    QwenEmbedLayer3DRope,
    QwenEmbedRope,
    QwenImageDiT,
    QwenImageTransformerBlock,
)
from diffsynth.models.qwen_image_text_encoder import QwenImageTextEncoder
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

from renderer.demo.tokenizer import IMAGE_TOKEN, VOCABULARY_SIZE

DIT_LAYERS, DIT_WIDTH, DIT_HEAD_WIDTH = 5, 160, 32
DIT_AXES = (8, 12, 12)  # of a head's width, for frame, row and column; Qwen-Image has 16, 56 and 56 of 128
TIMESTEP_WIDTH = 256
LATENT_PATCH = 64  # 16 channels in patches of 2 by 2
TEXT_LAYERS, TEXT_WIDTH, TEXT_HEADS, TEXT_KEY_HEADS, TEXT_MLP_WIDTH = 4, 128, 4, 2, 320
TEXT_AXES = (4, 6, 6)  # of half a head's width; Qwen2.5-VL has 16, 24 and 24 of 64
VISION_WIDTH = 32
VAE_BASE_WIDTH = 12

DIT_HASH = "fc06f8a8f051b769bc0c8e9775b9f8cc"
TEXT_ENCODER_HASH = "db7f21de9e36d5b2adfa07bc92a468b3"
VAE_HASH = "16f8d0dc6e43939dc2c16b4d1a773609"
"""DiffSynth knows a file by the MD5 over its tensors' names and shapes. A change of widths changes these."""


class DemoDiT(QwenImageDiT):  # type: ignore[misc]  # DiffSynth has no types
    """`QwenImageDiT` with its widths as above, where DiffSynth has them written into `__init__`."""

    def __init__(self, *, use_layer3d_rope: bool = False, use_additional_t_cond: bool = False) -> None:
        torch.nn.Module.__init__(self)  # past QwenImageDiT's, which would build 20 billion parameters
        placing = QwenEmbedLayer3DRope if use_layer3d_rope else QwenEmbedRope
        self.pos_embed = placing(theta=10000, axes_dim=list(DIT_AXES), scale_rope=True)
        self.time_text_embed = TimestepEmbeddings(
            TIMESTEP_WIDTH,
            DIT_WIDTH,
            diffusers_compatible_format=True,
            scale=1000,
            align_dtype_to_timestep=False,
            use_additional_t_cond=use_additional_t_cond,
        )
        self.txt_norm = RMSNorm(TEXT_WIDTH, eps=1e-6)
        self.img_in = torch.nn.Linear(LATENT_PATCH, DIT_WIDTH)
        self.txt_in = torch.nn.Linear(TEXT_WIDTH, DIT_WIDTH)
        self.transformer_blocks = torch.nn.ModuleList(
            QwenImageTransformerBlock(
                dim=DIT_WIDTH,
                num_attention_heads=DIT_WIDTH // DIT_HEAD_WIDTH,
                attention_head_dim=DIT_HEAD_WIDTH,
            )
            for _ in range(DIT_LAYERS)
        )
        self.norm_out = AdaLayerNorm(DIT_WIDTH, single=True)
        self.proj_out = torch.nn.Linear(DIT_WIDTH, LATENT_PATCH)


class DemoTextEncoder(QwenImageTextEncoder):  # type: ignore[misc]  # DiffSynth has no types
    """`QwenImageTextEncoder` (Qwen2.5-VL) with its widths as above; `forward` is inherited."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)  # past QwenImageTextEncoder's, which would build 8 billion parameters
        self.config = _text_encoder_config()
        self.model = Qwen2_5_VLModel(self.config)
        self.lm_head = torch.nn.Linear(TEXT_WIDTH, VOCABULARY_SIZE, bias=False)


def _text_encoder_config() -> Qwen2_5_VLConfig:
    text = {
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": TEXT_MLP_WIDTH,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": TEXT_HEADS,
        "num_key_value_heads": TEXT_KEY_HEADS,
        "vocab_size": VOCABULARY_SIZE,
        "layer_types": ["full_attention"] * TEXT_LAYERS,
        "max_position_embeddings": 8192,
        "rope_scaling": {"mrope_section": list(TEXT_AXES), "rope_type": "default", "type": "default"},
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "use_sliding_window": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    vision = {
        "depth": 1,
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 2 * VISION_WIDTH,
        "num_heads": 1,
        "out_hidden_size": TEXT_WIDTH,
        "fullatt_block_indexes": [0],
    }
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=False, image_token_id=IMAGE_TOKEN
    )


def register() -> None:
    """Make DiffSynth know the demo model's files and how to keep its parts off the GPU. Safe to call again."""
    if any(entry["model_hash"] == DIT_HASH for entry in MODEL_CONFIGS):
        return
    real_dit = "diffsynth.models.qwen_image_dit.QwenImageDiT"
    real_text_encoder = "diffsynth.models.qwen_image_text_encoder.QwenImageTextEncoder"
    demo_dit, demo_text_encoder = f"{__name__}.DemoDiT", f"{__name__}.DemoTextEncoder"
    VRAM_MANAGEMENT_MODULE_MAPS[demo_dit] = VRAM_MANAGEMENT_MODULE_MAPS[real_dit]
    VRAM_MANAGEMENT_MODULE_MAPS[demo_text_encoder] = VRAM_MANAGEMENT_MODULE_MAPS[real_text_encoder]
    VERSION_CHECKER_MAPS[demo_text_encoder] = VERSION_CHECKER_MAPS[real_text_encoder]
    converters = "diffsynth.utils.state_dict_converters"
    MODEL_CONFIGS.extend(
        [
            {"model_hash": DIT_HASH, "model_name": "qwen_image_dit", "model_class": demo_dit},
            {
                "model_hash": TEXT_ENCODER_HASH,
                "model_name": "qwen_image_text_encoder",
                "model_class": demo_text_encoder,
                "state_dict_converter": (
                    f"{converters}.qwen_image_text_encoder.QwenImageTextEncoderStateDictConverter"
                ),
            },
            {
                "model_hash": VAE_HASH,
                "model_name": "qwen_image_vae",
                "model_class": "diffsynth.models.qwen_image_vae.QwenImageVAE",
                "extra_kwargs": {"base_dim": VAE_BASE_WIDTH},
            },
        ]
    )
