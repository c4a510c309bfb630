"""A small edit model of random looks: the demo's networks, with a tokenizer and a processor that know pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from renderer.demo import looks, tokenizer
from tests.engine.making import TEXT_ENCODER, copy_model


def make_edit_model(demo: Path, folder: Path, *, zero_cond_t: bool = False, numbered: bool = True) -> Path:
    """An edit model in the hub's layout, which tells by its own files how it takes pictures; the same folder."""
    copy_model(demo, folder)
    shutil.rmtree(folder / "tokenizer")
    tokenizer.write(folder / "tokenizer", tokenizer.EDIT_TEMPLATE_PREFIX)
    looks.write(folder / "processor")
    kind = "QwenImageEditPlusPipeline" if numbered else "QwenImageEditPipeline"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    (folder / "transformer" / "config.json").write_text(json.dumps({"zero_cond_t": zero_cond_t}))
    dice = torch.Generator().manual_seed(5)
    tensors = load_file(folder / TEXT_ENCODER)
    seeing = {name: each for name, each in tensors.items() if name.startswith("visual.") and each.dim() > 1}
    for name, each in seeing.items():  # large enough that what is seen is not lost in bf16
        tensors[name] = (torch.randn(each.shape, generator=dice) * each.shape[-1] ** -0.5).to(each.dtype)
    save_file(tensors, folder / TEXT_ENCODER)
    return folder
