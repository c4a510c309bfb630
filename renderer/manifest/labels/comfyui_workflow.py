"""ComfyUI's other graph, the editor's own, in the form of the one that is rendered.

It keeps a node's values in a list, without names: for the common kinds they are known. It is what some pictures have
alone: saved by the browser, or with the rendered graph stripped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SAMPLER = ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise")
_SIZE = ("width", "height", "batch_size")

WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": _SAMPLER,
    "KSamplerAdvanced": ("add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"),
    "SamplerCustom": ("add_noise", "noise_seed", "", "cfg"),
    "RandomNoise": ("noise_seed",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "CFGGuider": ("cfg",),
    "KSamplerSelect": ("sampler_name",),
    "CLIPTextEncode": ("text",),
    "TextEncodeQwenImageEdit": ("prompt",),
    "EmptyLatentImage": _SIZE,
    "EmptySD3LatentImage": _SIZE,
    "UNETLoader": ("unet_name",),
    "UnetLoaderGGUF": ("unet_name",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "LoraLoader": ("lora_name", "strength_model"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "PrimitiveNode": ("value",),
    "PrimitiveInt": ("value",),
    "PrimitiveFloat": ("value",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
}
"""The names of a kind's values, in the editor's order; an empty one is what the editor keeps for itself."""

_MUTED = frozenset({2, 4})
_LINK_LENGTH = 6


def as_prompt(workflow: Mapping[str, Any]) -> Mapping[str, Any]:
    """The workflow as the graph that would be rendered; nothing where it is none."""
    nodes, links = workflow.get("nodes"), workflow.get("links")
    if not isinstance(nodes, list) or not isinstance(links, list):
        return {}
    sources = {
        link[0]: [str(link[1]), 0]
        for link in links
        if isinstance(link, list) and len(link) >= _LINK_LENGTH and isinstance(link[0], int)
    }
    given = (node for node in nodes if isinstance(node, dict) and node.get("mode") not in _MUTED)
    return {
        str(node.get("id")): {"class_type": node.get("type"), "inputs": {**_widgets(node), **_linked(node, sources)}}
        for node in given
        if isinstance(node.get("type"), str)
    }


def _widgets(node: Mapping[str, Any]) -> Mapping[str, Any]:
    values = node.get("widgets_values")
    if isinstance(values, dict):
        return values
    names = WIDGETS.get(node["type"], ())
    given = values if isinstance(values, list) else []
    return {name: value for name, value in zip(names, given, strict=False) if name}


def _linked(node: Mapping[str, Any], sources: Mapping[int, list[Any]]) -> Mapping[str, Any]:
    inputs = node.get("inputs")
    listed = [each for each in inputs if isinstance(each, dict)] if isinstance(inputs, list) else []
    named = ((each.get("name"), each.get("link")) for each in listed)
    return {name: sources[link] for name, link in named if isinstance(name, str) and isinstance(link, int)
            and link in sources}  # fmt: skip
