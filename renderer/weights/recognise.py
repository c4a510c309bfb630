"""What a sound safetensors file is, where it is no network of a family as the hub has it.

An adapter, another tool's quantisation, several networks in one, another part, another model: asked before anything is
called damaged. Reads names, types and shapes out of headers; imports no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator

from renderer.catalog import MODELS
from renderer.errors import ModelError, shorten
from renderer.families import Family, Network
from renderer.weights.readers import Contents

_LORA = re.compile(
    r"\.lora(?:_[AB]|_up|_down|\.up|\.down)\b|\.lora_(?:up|down)\.|\.(?:lokr_w[12]|hada_w[12]_[ab]|dora_scale|oft_blocks)"
)
_LORA_DOWN = re.compile(r"lora(?:_A|_down|\.down)(?:\.default)?(?:\.weight)?$")

_SCALES = re.compile(r"\.(?:scale_weight|weight_scale(?:_2|_inv)?|scale)$")
_BITSANDBYTES = re.compile(r"\.(?:absmax|quant_map|SCB)$|\.quant_state\.bitsandbytes__(\w+)$")
_NUNCHAKU = re.compile(r"\.(?:wscales|smooth_factor|proj_down)$")

_COMFY_PREFIX = "model.diffusion_model."
_PREFIXES = (_COMFY_PREFIX, "diffusion_model.", "transformer.", "model.language_model.", "model.")
_OTHERS_IN_ONE = ("first_stage_model.", "cond_stage_model.", "conditioner.", "text_encoders.", "vae.")

_STRANGERS: tuple[tuple[str, str], ...] = (
    ("txt_in.text_norm.", "Qwen-Image-2.1, which is not known yet"),
    ("time_text_embed.addition_t_embedding.", "Qwen-Image-Layered, which is not known yet"),
    ("__index_timestep_zero__", "an edit model (Qwen-Image-Edit-2511), and pictures cannot be edited yet"),
    ("controlnet_blocks.", "a ControlNet, which is not known yet"),
    ("decoder.middle.0.residual.", "the VAE under Wan's names, as ComfyUI has it, which are not read yet"),
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


def another(names: Collection[str], family: Family, network: Network) -> tuple[str, str] | None:
    """What a network's tensors are of, which are not that network's, and what to do; None where nobody knows."""
    bare = {_bare(name) for name in names}
    for other in family.networks:
        if other != network and any(_bare(name) in bare for name in other.own):
            return f"a {other.words}, and not a {network.words}", f"give it as {other.role}="
    for mark, what in _STRANGERS:
        if any(name.startswith(mark) for name in bare):
            return f"{what}, and not {family.title}'s {network.words}", _take(family, network)
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
    hint = "render without it: adapters are not read yet; a model is what it was made for"
    yield f"a LoRA{rank}, an addition to a model, and not a {network.words}", hint


def _all_in_one(names: Collection[str], family: Family, network: Network) -> Iterator[tuple[str, str]]:
    others = {mark for mark in _OTHERS_IN_ONE if any(name.startswith(mark) for name in names)}
    if others and any(name.startswith(_COMFY_PREFIX) for name in names):
        yield (
            f"a checkpoint with all parts of a model in one file, and not a {network.words} alone",
            _take(family, network),
        )


def _quantised(file: Contents, family: Family, network: Network) -> Iterator[tuple[str, str]]:
    names = file.tensors.keys()
    if forms := _comfy_forms(file):
        yield _scaled(f"quantised by ComfyUI ({', '.join(sorted(forms))})", family, network)
    for name in names:
        if found := _BITSANDBYTES.search(name):
            yield _scaled(f"quantised by bitsandbytes ({found[1] or '8 bits or 4'})", family, network)
        if _NUNCHAKU.search(name):
            yield _scaled("quantised by Nunchaku (SVDQuant)", family, network)
    if "scaled_fp8" in {name.rpartition(".")[2] for name in names}:
        yield _scaled("ComfyUI's scaled FP8", family, network)
    if any(name.endswith(".weight_scale_2") for name in names):
        yield _scaled("quantised to NVFP4", family, network)
    if any(entry.dtype == "F8_E8M0" for entry in file.tensors.values()):
        yield _scaled("quantised to MXFP8", family, network)
    if example := next((name for name in names if _SCALES.search(name) and _is_beside_a_weight(name, names)), ""):
        yield _scaled(f'quantised, with scales beside its weights ("{shorten(example)}")', family, network)


def _is_beside_a_weight(name: str, names: Collection[str]) -> bool:
    """Whether a scale is some weight's; norms of other families have one that is nobody's."""
    layer, _, last = name.rpartition(".")
    return last != "scale" or f"{layer}.weight" in names


def _comfy_forms(file: Contents) -> set[str]:
    """The formats that ComfyUI's own table of layers names; "unknown" where there are only its marks."""
    marked = any(name.endswith(".comfy_quant") for name in file.tensors)
    forms: set[str] = set()
    if table := file.metadata.get("_quantization_metadata"):
        try:
            layers = json.loads(table)["layers"]
            forms = {shorten(str(layer["format"]), 30) for layer in layers.values()}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            marked = True
    if not forms and marked:
        types = {entry.dtype for name, entry in file.tensors.items() if name.endswith(".weight_scale")}
        forms = {"mxfp8"} if "F8_E8M0" in types else {"comfy_quant"}
    return forms


def _scaled(what: str, family: Family, network: Network) -> tuple[str, str]:
    return f"{what}: a sound file, in a form that is not read yet", _take(family, network)


def _take(family: Family, network: Network) -> str:
    """What to take in the place of such a file: the first that the catalogue has of the family."""
    model = next((model for model in MODELS.values() if model.family == family.name and model.parts), None)
    if model is None:
        return "take the model's bf16 file"
    part = next(part for part in model.parts if part.role == network.role)
    is_alike = network.role != "vae"  # ComfyUI's own has other names for its tensors
    comfyui = f"; ComfyUI's name for it is {part.comfyui}" if part.comfyui and is_alike else ""
    return f"take the bf16 file: {part.files} of {model.id}, or of the model that it was made of{comfyui}"
