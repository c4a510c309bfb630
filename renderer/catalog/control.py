"""What holds a model's pictures to other pictures, as data: ControlNets, and a LoRA that looks at one beside its own.

DiffSynth-Studio made them, and tells no commit; of ComfyUI's repository of the same files one is told, and that is what
is fetched. Sizes are those that its pages show.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from renderer.catalog.data import QWEN_IMAGE
from renderer.catalog.model import Part

_REPOSITORY = "Comfy-Org/Qwen-Image-DiffSynth-ControlNets"
_REVISION = "31779219d133f334559c36249c1ac266cac2fd7c"
_BYTES, _LORA_BYTES = 2_270_000_000, 943_906_720
_KINDS = (
    ("Canny", "edges, white on black"),
    ("Depth", "depth, near is white"),
    ("Inpaint", "what is around a mask"),
)

CONTROLNETS = tuple(
    replace(
        QWEN_IMAGE,
        id=f"DiffSynth-Studio/Qwen-Image-Blockwise-ControlNet-{kind}",
        about=f"ControlNet for {QWEN_IMAGE.id}: {looks_at}",
        ability="controlnet",
        parts=(
            Part(
                "controlnet",
                f"split_files/model_patches/qwen_image_{kind.lower()}_diffsynth_controlnet.safetensors",
                1,
                _BYTES,
                repository=_REPOSITORY,
                revision=_REVISION,
            ),
        ),
        revision=_REVISION,
        shape=None,
        base=QWEN_IMAGE.id,
        masked=kind == "Inpaint",
        gpu_bytes=MappingProxyType({"bf16": _BYTES}),
    )
    for kind, looks_at in _KINDS
)
"""Blockwise ones: a small block beside each of the model's, whose results are added to the picture's tokens."""

IN_CONTEXT = replace(
    QWEN_IMAGE,
    id="DiffSynth-Studio/Qwen-Image-In-Context-Control-Union",
    about=f"LoRA for {QWEN_IMAGE.id}: looks at edges, depth, lines, poses in context_image",
    ability="lora",
    parts=(
        Part(
            "lora",
            "split_files/loras/qwen_image_union_diffsynth_lora.safetensors",
            1,
            _LORA_BYTES,
            repository=_REPOSITORY,
            revision=_REVISION,
        ),
    ),
    revision=_REVISION,
    shape=None,
    base=QWEN_IMAGE.id,
    gpu_bytes=MappingProxyType({"bf16": _LORA_BYTES}),
)
"""It needs as many steps as its model, and as much guidance."""
