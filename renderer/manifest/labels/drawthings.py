"""Draw Things: a JSON object of short names in XMP's or EXIF's UserComment."""

from __future__ import annotations

from renderer.manifest.labels import told
from renderer.manifest.labels.told import COMMENT, Texts, Told

_READ = ("c", "uc", "model", "seed", "steps", "scale", "size", "sampler", "lora", "strength", "v2", "seed_mode")
_WHOLE = 1.0


def read(texts: Texts) -> Told | None:
    """What Draw Things' comment tells."""
    fields = texts.fields(COMMENT)
    if "c" not in fields or not {"uc", "v2", "sampler"} & fields.keys():
        return None
    width, height = told.size(fields.get("size"))
    listed = fields.get("lora")
    entries = [each for each in listed[:99] if isinstance(each, dict)] if isinstance(listed, list) else []
    loras, left_out = told.loras((each.get("model", each.get("file")), each.get("weight")) for each in entries)
    strength = told.number(fields.get("strength"))
    left_out += [] if strength in {None, _WHOLE} else [f"strength {strength:g} (it began from a picture)"]
    return Told(
        by="Draw Things",
        prompt=told.words(fields["c"]),
        negative_prompt=told.words(fields.get("uc")),
        model=told.words(fields.get("model")) or None,
        steps=told.whole(fields.get("steps")),
        cfg_scale=told.number(fields.get("scale")),
        width=width,
        height=height,
        seed=told.whole(fields.get("seed")),
        loras=tuple(loras),
        left_out=told.cut([*left_out, *told.sampler(fields.get("sampler")), *told.others(fields, *_READ)]),
    )
