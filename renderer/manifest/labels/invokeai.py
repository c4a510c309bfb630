"""InvokeAI: a JSON object under `invokeai_metadata`; before its third version, one under `sd-metadata`, or a `Dream`.

The old ones wrote the negative prompt in brackets within the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from renderer.manifest.labels import told
from renderer.manifest.labels.told import Texts, Told, ToldLora

_READ = (
    "positive_prompt", "negative_prompt", "seed", "steps", "cfg_scale", "width", "height", "scheduler", "app_version",
    "generation_mode", "rand_device", "cfg_rescale_multiplier",
)  # fmt: skip
_LISTS = ("controlnets", "ipAdapters", "t2iAdapters", "ref_images", "regions", "control_layers")
_DREAM = re.compile(r'"(.{0,20000}?)"(?= -|$)(.{0,4000})', re.DOTALL)
_BRACKETS = re.compile(r"(?<!\s)\s*+\[([^\[\]]++)\]")
_FLAGS = {"s": "steps", "S": "seed", "W": "width", "H": "height", "C": "cfg_scale", "A": "sampler"}


def read(texts: Texts) -> Told | None:
    """What any of InvokeAI's labels tells."""
    if "positive_prompt" in (fields := texts.fields("invokeai_metadata")):
        return _told(fields, told.words(fields["positive_prompt"]), told.words(fields.get("negative_prompt")))
    if isinstance(image := texts.fields("sd-metadata").get("image"), dict):
        model = {"model": texts.fields("sd-metadata").get("model_weights")}
        return _told({**image, **model}, *_split(_old_prompt(image.get("prompt"))))
    if found := _DREAM.match(texts.get("Dream")):
        flags = dict(re.findall(r" -(\w)\s?(\S{1,40})", found[2]))
        return _told({name: flags.get(flag) for flag, name in _FLAGS.items()}, *_split(found[1]))
    return None


def _told(fields: Mapping[str, Any], prompt: str, negative: str) -> Told:
    loras, unclear = _loras(fields.get("loras"))
    left_out = [*unclear, *told.sampler(fields.get("scheduler", fields.get("sampler")))]
    left_out += [name for name in _LISTS if fields.get(name)]
    mode = fields.get("generation_mode")
    left_out += [f"mode {mode}"] if isinstance(mode, str) and mode.split("_")[-1] != "txt2img" else []
    return Told(
        by="InvokeAI",
        prompt=prompt,
        negative_prompt=negative,
        model=_name(fields.get("model")) or None,
        steps=told.whole(fields.get("steps")),
        cfg_scale=told.number(fields.get("cfg_scale")),
        width=told.whole(fields.get("width"), told.MAX_SIDE),
        height=told.whole(fields.get("height"), told.MAX_SIDE),
        seed=told.whole(fields.get("seed")),
        loras=tuple(loras),
        left_out=told.cut([*left_out, *told.others(fields, *_READ, "prompt", "model", "sampler", "type")]),
    )


def _name(model: object) -> str:
    """A model's name, from whichever of the ways in which it was written over the years."""
    if isinstance(model, dict):
        return told.words(model.get("name", model.get("model_name")))
    return told.words(model)


def _loras(listed: object) -> tuple[list[ToldLora], list[str]]:
    entries = listed[:99] if isinstance(listed, list) else []
    given = (entry for entry in entries if isinstance(entry, dict))
    return told.loras((_name(entry.get("model", entry.get("lora"))), entry.get("weight")) for entry in given)


def _old_prompt(prompt: object) -> str:
    """A prompt that is a text, or a list of texts with weights."""
    if isinstance(prompt, list):
        return " ".join(told.words(each.get("prompt")) for each in prompt[:99] if isinstance(each, dict))
    return told.words(prompt)


def _split(prompt: str) -> tuple[str, str]:
    """The prompt, and what stands in brackets in it."""
    negative = ", ".join(_BRACKETS.findall(prompt))
    return _BRACKETS.sub("", prompt).strip(" ,"), negative
