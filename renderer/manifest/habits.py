"""What people who come from other tools write, and what they will find here: hints by meaning, not by spelling.

Data, and the two look-ups that read it. What a hint names exists: a test holds each against the manifest's own fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_COUNT = "write count: 4 for four pictures, of seeds that follow each other"
_GUIDANCE = "write cfg_scale"
_SAMPLER = "remove it: the model has one sampler"
_STEPS = "write steps"
_NEGATIVE = "write negative_prompt"
_RATIO = 'write size: "16:9"'
_PROMPT = "write prompt"
_CONTROLNETS = "write controlnets: [{id: DiffSynth-Studio/Qwen-Image-Blockwise-ControlNet-Canny, image: edges.png}]"
_LORA = "write loras: [{file: mine.safetensors, weight: 0.8}]"
_SCHEDULE = "write schedule: {shift: 3}"
_PICTURES = "remove it: no picture guides another here but as image, images and mask"
_IMAGE = "write image: photo.jpg"
_IMAGES = "write images: [photo.jpg], with a model that edits"
_NO_SUCH = "remove it: there is nothing like it here"
_NAMES = "write id for a picture's name, or output at the top for the pattern of all names"
_MODEL = "write model: an id, a folder, or files like {transformer: mine.safetensors}"
_SIZE = "write size: 1328x1328, or sizes for several"

HINTS_BY_KEY: Mapping[str, str] = {
    **dict.fromkeys(
        ("batch_size", "batch_count", "batch", "num_images", "num_images_per_prompt", "images_per_prompt", "n_iter",
         "n", "num_outputs", "num_samples", "samples", "repeat", "repeats", "数量"), _COUNT),
    **dict.fromkeys(
        ("guidance_scale", "guidance", "cfg", "cfgscale", "true_cfg_scale", "true_cfg", "scale", "distilled_cfg_scale"),
        _GUIDANCE),
    **dict.fromkeys(
        ("sampler", "sampler_name", "sampler_index", "scheduler", "schedule_type", "sigmas", "solver",
         "eta", "s_churn", "采样器"), _SAMPLER),
    **dict.fromkeys(("shift", "base_shift", "max_shift", "mu", "exponential_shift_mu"), _SCHEDULE),
    **dict.fromkeys(
        ("num_steps", "step", "sampling_steps", "n_steps", "inference_steps", "ddim_steps", "steps_count", "步数"),
        _STEPS),
    **dict.fromkeys(
        ("negative", "neg", "neg_prompt", "negativeprompt", "uncond", "uc", "反向提示词", "负面提示词", "负向提示词"),
        _NEGATIVE),
    **dict.fromkeys(("aspect_ratio", "aspect", "ar", "ratio", "比例"), _RATIO),
    **dict.fromkeys(("resolution", "image_size", "dimensions", "dimension", "resolutions", "尺寸"), _SIZE),
    **dict.fromkeys(("text", "caption", "description", "positive", "positive_prompt", "input", "提示词"), _PROMPT),
    **dict.fromkeys(("prompts",), "write a job for each prompt; in a matrix, {name} stands for its values"),
    **dict.fromkeys(("lora", "lora_scale", "lora_weights", "lora_name", "lora_paths", "lycoris", "adapters"), _LORA),
    **dict.fromkeys(
        ("init_image", "init_images", "input_image", "input_images", "source_image", "photo"), _IMAGE),
    **dict.fromkeys(("edit_image", "edit_images", "reference_image", "reference_images"), _IMAGES),
    **dict.fromkeys(
        ("layer_num", "num_layers", "layer_count", "layer", "layer_input_image"),
        "write images: [poster.png] and layers: 4, with Qwen/Qwen-Image-Layered"),
    **dict.fromkeys(("denoising_strength", "denoise", "image_strength"), "write strength"),
    **dict.fromkeys(("mask_image", "inpaint_mask", "inpainting_mask"), "write mask: mask.png"),
    **dict.fromkeys(
        ("controlnet", "control_net", "control_image", "controlnet_image", "controlnet_scale", "control_nets",
         "controlnet_conditioning_scale", "blockwise_controlnet_inputs"), _CONTROLNETS),
    **dict.fromkeys(
        ("region", "entities", "entity_prompts", "eligen_entity_prompts", "eligen_entity_masks", "regional_prompts"),
        "write regions: [{prompt: a red ball, mask: ball.png}]"),
    **dict.fromkeys(("context", "context_images"), "write context_image: edges.png"),
    **dict.fromkeys(("ip_adapter",), _PICTURES),
    **dict.fromkeys(
        ("clip_skip", "enable_hr", "hires_fix", "hr_scale", "upscale", "upscaler", "refiner", "restore_faces", "tiling",
         "styles", "style_preset", "safety_checker", "subseed", "subseed_strength", "hypernetwork", "embeddings"),
        _NO_SUCH),
    **dict.fromkeys(("filename", "file_name", "file", "output_name", "output_path", "save_as", "out"), _NAMES),
    **dict.fromkeys(
        ("output_dir", "outdir", "output_folder", "folder", "save_dir"),
        "write name at the top for the folder of this manifest, or give --outputs for all"),
    **dict.fromkeys(
        ("checkpoint", "ckpt", "ckpt_name", "sd_model_checkpoint", "model_id", "model_name", "base_model",
         "模型"), _MODEL),
    **dict.fromkeys(
        ("dtype", "torch_dtype", "variant", "quantization", "quantize"), "write precision: fp8, int8, int4 or bf16"),
    **dict.fromkeys(("random_seed", "noise_seed", "generator", "种子", "随机种子"), "write seed, seeds or count"),
    **dict.fromkeys(
        ("file_format", "output_format", "image_format", "extension", "ext"), "write format: png, webp or jpeg"),
    **dict.fromkeys(
        ("device", "vram", "offload", "low_vram", "lowvram", "cpu_offload"), "give --vram or --profile to the command"),
    **dict.fromkeys(("variables", "params", "wildcards", "grid"), "write matrix: {name: [one, other]}"),
}  # fmt: skip
"""Keys of other tools, in small letters with `_`, and what helps."""

TOP_KEYS: Mapping[str, str] = {
    **dict.fromkeys(("prompts", "images", "items", "tasks", "pictures", "list"), 'write jobs, a list: "- a prompt"'),
    **dict.fromkeys(("settings", "common", "global", "globals", "config", "options"), "write defaults"),
    **dict.fromkeys(("title", "project", "output_dir", "folder"), "write name"),
}  # fmt: skip
"""The same for the top of a manifest."""


_QUOTES = " \"'\u201c\u201d\u2018\u2019\u300c\u300d:\uff1a"


def of_key(key: str, *, known: frozenset[str], elsewhere: frozenset[str], top: bool) -> str:
    """What helps with a key that is none of `known`, or an empty string. `elsewhere` are keys of another mapping."""
    plain = re.sub(r"[\s-]+", "_", key.strip(_QUOTES).lower())
    if plain in known:
        return f"write {plain}"
    if plain in elsewhere:
        return "put it into a job, or into defaults for all" if top else "put it at the top, beside jobs"
    if top and plain in TOP_KEYS:
        return TOP_KEYS[plain]
    if plain in HINTS_BY_KEY:
        return HINTS_BY_KEY[plain]
    if re.search(r"\w\s+\S", key) or not key.isascii():
        return 'quote it if it is a prompt: ": " makes a key of what stands before it'
    return ""


# ---- values ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """A hint for a value of one of `fields` whose text is `pattern` as a whole. `{0}`… are the pattern's groups.

    `kind` is the value's own, where it matters: `4.0` and `"4.0"` are told apart.
    """

    fields: frozenset[str]
    pattern: str
    hint: str
    kind: type[object]


def _row(fields: str, pattern: str, hint: str, kind: type[object] = object) -> _Row:
    return _Row(frozenset(fields.split()), pattern, hint, kind)


_NUMBERS = "seed count steps num_inference_steps width height cfg_scale max_pictures version"

HINTS_BY_VALUE = (
    _row("seed", r"-1|(?i:random\w*|rand|auto|any|none)", "leave seed out: it is then made from prompt and size; "
         "or write count: 3 for three seeds"),
    _row("seeds seed", r"\s*([0-9]+)\s*(?:-|\.\.+|:|to|\u2013)\s*([0-9]+)\s*", "write a list like [1, 2, 3]; "
         "or seed: {0} and count for seeds that follow each other"),
    _row("size", r"\s*([0-9]{2,5})\s*(?:px)?\s*[xX\xd7*,;/by ]+\s*([0-9]{2,5})\s*(?:px)?\s*",
         'did you mean "{0}x{1}"?'),
    _row("size", r"\s*([1-9][0-9]?)\s*[:/x\xd7\uff1a]\s*([1-9][0-9]?)\s*", 'did you mean "{0}:{1}"?'),
    _row("size", r"\s*([0-9]{2,5})\s*(?:px)?\s*", 'did you mean "{0}x{0}"?'),
    _row("seeds sizes", r"[^,\[\]]+(?:,[^,\[\]]+)+", "put it in [ ]"),
    _row("width height", r"\s*([0-9]+)\s*px\s*", "write {0}"),
    _row("size", r"(?i:square\w*)", 'did you mean "1:1"?'),
    _row("size", r"(?i:landscape\w*|wide\w*|hd|1080p|720p|4k|uhd)", 'did you mean "16:9"?'),
    _row("size", r"(?i:portrait\w*|tall|vertical)", 'did you mean "9:16"?'),
    _row(_NUMBERS, r"\s*([+-]?[0-9]+)\.0*\s*", "write {0}", float),
    _row(_NUMBERS, r"\s*([+-]?[0-9]+),([0-9]+)\s*", "write a point for the comma: {0}.{1}"),
    _row(_NUMBERS, r"\s*[+-]?[0-9]+(?:\.[0-9]+)?\s*", "remove the quotes", str),
    _row("cfg_scale", r"0(?:\.0*)?|(?i:none|off|no|false)", "write 1 for no guidance"),
    _row("precision", r"(?i:bfloat16|bf-16|float32|fp32|full|fp16|float16|half)", "write bf16"),
    _row("precision", r"(?i:fp8_\w+|float8\w*|f8)", "write fp8"),
    _row("precision", r"(?i:i8|int-8|w8a8|q8\w*|8-?bit)", "write int8"),
    _row("precision", r"(?i:i4|int-4|w4a8|w4a16|q4\w*|4-?bit|nf4|fp4)", "write int4"),
    _row("format", r"(?i:\.?jpe?g)", "write jpeg"),
    _row("format", r"(?i:\.?(png|webp))", "write png or webp"),
    _row("embed", r"(?i:no|off|false)", "write none"),
    _row("embed", r"(?i:yes|on|true|all)", "write full"),
    _row("prompt", r"\[\]", "write a job for each prompt; or {name} in one prompt, and a matrix"),
)  # fmt: skip
"""Values of other tools, and slips of the pen, and what helps; the first row that fits."""


def of_value(field: str, value: Any) -> str:
    """What helps with a value that `field` does not take, or an empty string."""
    text = "[]" if isinstance(value, list) else str(value) if isinstance(value, str | int | float) else ""
    if not text or len(text) > _LONGEST:
        return ""
    for row in HINTS_BY_VALUE:
        fits = field in row.fields and isinstance(value, row.kind)
        if found := re.fullmatch(row.pattern, text) if fits else None:
            hint = row.hint
            for number, group in enumerate(found.groups()):
                hint = hint.replace(f"{{{number}}}", group)
            return hint
    return ""


_LONGEST = 40
