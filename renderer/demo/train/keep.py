"""Weights in and out of the model's folder, and sheets of pictures to look at."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from renderer.demo.tensors import FILES, name_in_file


def save(module: Any, folder: Path, role: str, values: dict[str, Tensor] | None = None) -> None:
    """Write a network's weights in bf16 where DiffSynth looks for them; `values` instead of its own where given."""
    path = folder / FILES[role]
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name_in_file(name): (values or {}).get(name, tensor).detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in sorted(module.state_dict().items())
    }
    beside = path.with_suffix(".new")
    save_file(tensors, beside)
    beside.replace(path)


def load(module: Any, folder: Path, role: str) -> None:
    """Read a network's weights, in whatever precision the module has."""
    tensors = load_file(folder / FILES[role])
    module.load_state_dict({name: tensors[name_in_file(name)] for name in module.state_dict()})


def save_sheet(pictures: list[Tensor], path: Path, columns: int = 8) -> None:
    """Pictures from 0 to 1, 3 x height x width of any size, in rows on one PNG."""
    height = max(picture.shape[1] for picture in pictures)
    width = max(picture.shape[2] for picture in pictures)
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (width + 4), rows * (height + 4)), "white")
    for place, picture in enumerate(pictures):
        data = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().cpu()
        image = Image.frombytes("RGB", (data.shape[1], data.shape[0]), bytes(data.flatten().tolist()))
        sheet.paste(image, ((place % columns) * (width + 4), (place // columns) * (height + 4)))
    sheet.save(path)
