"""A small edit model of random looks: the demo's networks, with a tokenizer and a processor that know pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from renderer.demo import tokenizer
from tests.engine.making import TEXT_ENCODER, copy_model

PROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "min_pixels": 56 * 56,
    "max_pixels": 12_845_056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
"""What Qwen-Image-Edit's says."""


def make_edit_model(demo: Path, folder: Path, *, zero_cond_t: bool = False, numbered: bool = True) -> Path:
    """An edit model in the hub's layout, which tells by its own files how it takes pictures; the same folder."""
    copy_model(demo, folder)
    shutil.rmtree(folder / "tokenizer")
    for part in ("tokenizer", "processor"):
        tokenizer.write(folder / part, tokenizer.EDIT_TEMPLATE_PREFIX)
    (folder / "processor" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    kind = "QwenImageEditPlusPipeline" if numbered else "QwenImageEditPipeline"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    (folder / "transformer" / "config.json").write_text(json.dumps({"zero_cond_t": zero_cond_t}))
    dice = torch.Generator().manual_seed(5)
    tensors = load_file(folder / TEXT_ENCODER)
    looks = {name: each for name, each in tensors.items() if name.startswith("visual.") and each.dim() > 1}
    for name, each in looks.items():  # large enough that what is seen is not lost in bf16
        tensors[name] = (torch.randn(each.shape, generator=dice) * each.shape[-1] ** -0.5).to(each.dtype)
    save_file(tensors, folder / TEXT_ENCODER)
    return folder
