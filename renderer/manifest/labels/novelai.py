"""NovelAI: `Software` says so, and `Comment` is a JSON object; in a WebP both stand in one that is the comment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from renderer.manifest.labels import told
from renderer.manifest.labels.told import COMMENT, Texts, Told

_READ = ("prompt", "uc", "steps", "scale", "seed", "width", "height", "sampler", "noise_schedule")
_NO_MATTER = (
    "n_samples", "signed_hash", "request_type", "legacy", "legacy_v3_extend", "add_original_image", "version",
    "params_version", "deliberate_euler_ancestral_bug", "prefer_brownian", "explike_fine_detail", "lora_unet_weights",
    "lora_clip_weights", "controlnet_strength", "uncond_scale", "extra_noise_seed", "skip_cfg_below_sigma",
)  # fmt: skip


def read(texts: Texts) -> Told | None:
    """What NovelAI's comment tells."""
    about, fields = texts.get("Software"), texts.fields("Comment")
    if not about and (around := texts.fields(COMMENT)):
        about = told.words(around.get("Software"))
        inner = around.get("Comment")
        fields = told.read_object(inner) if isinstance(inner, str) else {}
    if not about.startswith("NovelAI") or not fields:
        return None
    prompt = _caption(fields, "v4_prompt") or told.words(fields.get("prompt")) or told.words(texts.get("Description"))
    return Told(
        by="NovelAI",
        prompt=prompt,
        negative_prompt=_caption(fields, "v4_negative_prompt") or told.words(fields.get("uc")),
        model=told.words(texts.get("Source")) or None,
        steps=told.whole(fields.get("steps")),
        cfg_scale=told.number(fields.get("scale")),
        width=told.whole(fields.get("width"), told.MAX_SIDE),
        height=told.whole(fields.get("height"), told.MAX_SIDE),
        seed=told.whole(fields.get("seed")),
        left_out=told.cut([*_sampler(fields), *told.others(fields, *_READ, *_NO_MATTER)]),
    )


def _caption(fields: Mapping[str, Any], name: str) -> str:
    """A prompt of the fourth version: a caption, and one for each character."""
    prompt = fields.get(name)
    caption = prompt.get("caption") if isinstance(prompt, dict) else None
    if not isinstance(caption, dict):
        return ""
    listed = caption.get("char_captions")
    characters = [each for each in listed[:20] if isinstance(each, dict)] if isinstance(listed, list) else []
    parts = [caption.get("base_caption"), *(each.get("char_caption") for each in characters)]
    return ", ".join(text for part in parts if (text := told.words(part)))


def _sampler(fields: Mapping[str, Any]) -> list[str]:
    schedule = fields.get("noise_schedule")
    return told.sampler(fields.get("sampler"), "" if schedule == "native" else schedule)
