"""What a sound safetensors file is, where it is no network of a family as the hub has it.

An adapter, another tool's quantisation, several networks in one, another part, another model: asked before anything is
called damaged. Reads names, types and shapes out of headers; imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from renderer.catalog import MODELS
from renderer.errors import ModelError, shorten
from renderer.families import Family, Network
from renderer.weights.readers import SCHEMES, Contents

_LORA = re.compile(
    r"\.lora(?:_[AB]|_up|_down|\.up|\.down)\b|\.lora_(?:up|down)\.|\.(?:lokr_w[12]|hada_w[12]_[ab]|dora_scale|oft_blocks)"
)
_LORA_DOWN = re.compile(r"lora(?:_A|_down|\.down)(?:\.default)?(?:\.weight)?$")

_UNREAD: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\.(?:wscales|smooth_factor|proj_down)$"), "by Nunchaku (SVDQuant)"),
    (re.compile(r"\.weight\._(?:data|scale|shift)$"), "by Quanto"),
    (re.compile(r"\.(?:zero_point|svd_up|svd_down)$"), "by SDNQ"),
    (re.compile(r"\.weight_scale_inv$"), "to FP8 in blocks"),
    (re.compile(r"\.(?:qzeros|g_idx)$"), "by GPTQ or AWQ"),
    (re.compile(r":_?weight_\w+$|\._weight_(?:qdata|scale|zero_point)$"), "by torchao"),
)
"""Names that only these tools' tensors have."""

_UNREAD_METADATA: Mapping[str, str] = MappingProxyType({"tensor_names": "by torchao"})
"""Keys that only these tools write into a file's metadata."""

_COMFY_PREFIX = "model.diffusion_model."
_PREFIXES = (_COMFY_PREFIX, "diffusion_model.", "transformer.", "model.language_model.", "model.")
_OTHERS_IN_ONE = ("first_stage_model.", "cond_stage_model.", "conditioner.", "text_encoders.", "vae.")

_STRANGERS: tuple[tuple[str, str], ...] = (
    ("txt_in.text_norm.", "Qwen-Image-2.1, which is not known yet"),
    ("controlnet_blocks.", "a ControlNet, which is not known yet"),
    ("v.blk.0.", "the vision tower alone (mmproj), which only edits look with"),
    ("double_blocks.", "a model of FLUX or HunyuanVideo"),
    ("single_transformer_blocks.", "a model of FLUX"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("noise_refiner.", "a model of Z-Image or Lumina"),
    ("input_blocks.", "a UNet of Stable Diffusion"),
    ("down_blocks.0.attentions.", "a UNet of Stable Diffusion"),
    ("patch_embedding.", "a model of Wan"),
    ("decoder.up.0.block.", "a VAE of Stable Diffusion or FLUX"),
    ("encoder.block.0.layer.", "a T5 text encoder"),
    ("text_model.encoder.layers.", "a CLIP text encoder"),
    ("layers.0.self_attn.q_norm.", "a Qwen3 language model"),
)
"""Names that only these have, the nearest relatives first."""


def refuse(file: Contents, family: Family, network: Network) -> None:
    """Raise `ModelError` for a file that is of a kind which is known and not read, whatever else it holds."""
    names = file.tensors.keys()
    for what, hint in (
        *_adapter(file, network),
        *_all_in_one(names, family, network),
        *_quantised(file, family, network),
    ):
        raise ModelError(f"{file.path}: {what}", hint=hint)


def refuse_method(folder: Path, config: Mapping[str, Any], family: Family, network: Network) -> None:
    """Raise `ModelError` where the `config.json` of a folder says that a tool quantised it whose form is not read."""
    match config.get("quantization_config"):
        case {"quant_method": str(method)} if method not in SCHEMES:
            message = f"{folder}: its config.json says that it is quantised by {shorten(method, 30)}, which is not read"
            raise ModelError(message, hint=to_take(family, network))


def another(names: Collection[str], family: Family, network: Network) -> tuple[str, str] | None:
    """What a network's tensors are of, which are not that network's, and what to do; None where nobody knows."""
    bare = {_bare(name) for name in names}
    for other in family.networks:
        if other != network and any(_bare(name) in bare for name in other.own):
            return f"a {other.words}, and not a {network.words}", f"give it as {other.role}="
    for mark, what in _STRANGERS:
        if any(name.startswith(mark) for name in bare):
            return f"{what}, and not {family.title}'s {network.words}", to_take(family, network)
    return None


def _bare(name: str) -> str:
    """A tensor's name without what tools write before it."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _adapter(file: Contents, network: Network) -> Iterator[tuple[str, str]]:
    found = [name for name in file.tensors if _LORA.search(name)]
    if not found:
        return
    ranks = {file.tensors[name].shape[0] for name in found if _LORA_DOWN.search(name) and file.tensors[name].shape}
    rank = f" of rank {min(ranks)}" if len(ranks) == 1 else ""
    hint = "name it under loras, or make a model with it once: renderer models pack ID --lora FILE"
    yield f"a LoRA{rank}, an addition to a model, and not a {network.words}", hint


def _all_in_one(names: Collection[str], family: Family, network: Network) -> Iterator[tuple[str, str]]:
    others = {mark for mark in _OTHERS_IN_ONE if any(name.startswith(mark) for name in names)}
    if others and any(name.startswith(_COMFY_PREFIX) for name in names):
        yield (
            f"a checkpoint with all parts of a model in one file, and not a {network.words} alone",
            to_take(family, network),
        )


def _quantised(file: Contents, family: Family, network: Network) -> Iterator[tuple[str, str]]:
    """Forms that no reader and no scheme reads, by names that only they have."""
    names = file.tensors.keys()
    for name in names:
        for pattern, what in _UNREAD:
            if pattern.search(name):
                yield _scaled(f"quantised {what}", family, network)
    for key, what in _UNREAD_METADATA.items():
        if key in file.metadata:
            yield _scaled(f"quantised {what}", family, network)


def _scaled(what: str, family: Family, network: Network) -> tuple[str, str]:
    return f"{what}: a sound file, in a form that is not read", to_take(family, network)


def to_take(family: Family, network: Network) -> str:
    """What to take in the place of such a file: the first that the catalogue has of the family."""
    model = next((model for model in MODELS.values() if model.family == family.name and model.parts), None)
    if model is None:
        return "take the model's bf16 file"
    part = next(part for part in model.parts if part.role == network.role)
    comfyui = f"; ComfyUI's name for it is {part.comfyui}" if part.comfyui else ""
    return f"take the bf16 file: {part.files} of {model.id}, or of the model that it was made of{comfyui}"
