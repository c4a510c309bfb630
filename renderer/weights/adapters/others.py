"""Whose layers these are: models that a LoRA may be for in place of ours, by names that only they have."""

from __future__ import annotations

import re
from collections.abc import Iterable

_OTHERS: tuple[tuple[str, str], ...] = (
    (r"_mlp_(gate_up|gate_layer|up_layer)$|^txt_in_(in_layer|out_layer)$|^modulation_1$", "Qwen-Image-2.1"),
    (r"^time_text_embed_addition_t_embedding", "Qwen-Image-Layered"),
    (r"^(double_blocks|single_blocks|single_transformer_blocks)_", "FLUX or HunyuanVideo"),
    (r"^(input|output|down|up)_blocks_\d+_.*transformer_blocks_[1-9]|^te2_|^text_model_2_", "SDXL"),
    (r"^(input|output|down|up)_blocks_\d|^(mid|middle)_block_", "Stable Diffusion"),
    (r"^joint_blocks_|^transformer_blocks_\d+_(ff_context|norm1_context)_", "Stable Diffusion 3"),
    (r"^(double|single)_stream_blocks_", "HiDream"),
    (r"^blocks_\d+_(self_attn|cross_attn|ffn)_", "Wan"),
    (r"^(noise_refiner|context_refiner)_|^layers_\d+_(attention|feed_forward|adaLN)", "Z-Image or Lumina"),
    (r"^(te\d?|lora_te\d?|text_encoder\w*?|text_model)_", "a text encoder"),
    (r"^(model_)?(language_model_)?layers_\d+_self_attn_", "a language model"),
)
"""Patterns over flattened names without prefixes, the nearest relatives first."""


def whose(modules: Iterable[str]) -> str:
    """The model whose layers are called so, as its people call it; an empty text where nobody knows."""
    flat = {re.sub(r"^(lora_(?=te\d?_)|unet_)", "", module.replace(".", "_")) for module in modules}
    for pattern, title in _OTHERS:
        if any(re.search(pattern, name) for name in flat):
            return title
    return ""
