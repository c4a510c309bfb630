"""Fooocus, by its own scheme: a JSON object under `parameters` or in a comment. Its other scheme is AUTOMATIC1111's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from renderer.manifest.labels import told
from renderer.manifest.labels.told import COMMENT, Texts, Told, ToldLora

_READ = (
    "prompt", "negative_prompt", "base_model", "seed", "steps", "guidance_scale", "resolution", "sampler", "scheduler",
)  # fmt: skip
_NO_MATTER = ("base_model_hash", "metadata_scheme", "version", "created_by", "performance", "vae", "refiner_switch")


def read(texts: Texts) -> Told | None:
    """What Fooocus's own scheme tells."""
    fields = texts.fields("parameters", "Comment", COMMENT)
    if "prompt" not in fields or not {"metadata_scheme", "base_model"} & fields.keys():
        return None
    prompt, tagged, tags = told.with_loras(told.words(fields["prompt"]))
    width, height = told.size(fields.get("resolution"))
    loras, unclear = _loras(fields)
    left_out = [*tags, *unclear, *told.sampler(fields.get("sampler"), fields.get("scheduler"))]
    styles = fields.get("styles")
    left_out += [f"styles {', '.join(map(str, styles[:9]))}"] if isinstance(styles, list) and styles else []
    return Told(
        by="Fooocus",
        prompt=prompt,
        negative_prompt=told.words(fields.get("negative_prompt")),
        model=told.words(fields.get("base_model")) or None,
        steps=told.whole(fields.get("steps")),
        cfg_scale=told.number(fields.get("guidance_scale")),
        width=width,
        height=height,
        seed=told.whole(fields.get("seed")),
        loras=(*tagged, *loras),
        left_out=told.cut([*left_out, *told.others(fields, *_READ, *_NO_MATTER)]),
    )


def _loras(fields: Mapping[str, Any]) -> tuple[list[ToldLora], list[str]]:
    """The LoRAs of the list that there is: of names, weights and hashes."""
    listed = fields.get("loras")
    entries = listed[:99] if isinstance(listed, list) else []
    return told.loras((*entry[:2], None)[:2] for entry in entries if isinstance(entry, list) and entry)
