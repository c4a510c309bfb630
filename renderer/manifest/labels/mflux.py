"""mflux: a JSON object with `mflux_version` in EXIF's UserComment."""

from __future__ import annotations

from itertools import zip_longest

from renderer.manifest.labels import told
from renderer.manifest.labels.told import COMMENT, Texts, Told

_READ = ("prompt", "negative_prompt", "model", "base_model", "seed", "steps", "guidance", "width", "height")
_NO_MATTER = ("mflux_version", "generation_time_seconds", "created_at", "precision", "exif_version")


def read(texts: Texts) -> Told | None:
    """What mflux's comment tells."""
    fields = texts.fields(COMMENT)
    if "mflux_version" not in fields:
        return None
    lists = [fields.get(name) for name in ("lora_paths", "lora_scales")]
    paths, scales = (value[:99] if isinstance(value, list) else [] for value in lists)
    loras, unclear = told.loras((path, scale) for path, scale in zip_longest(paths, scales) if path)
    return Told(
        by="mflux",
        prompt=told.words(fields.get("prompt")),
        negative_prompt=told.words(fields.get("negative_prompt")),
        model=told.words(fields.get("model")) or None,
        steps=told.whole(fields.get("steps")),
        cfg_scale=told.number(fields.get("guidance")),
        width=told.whole(fields.get("width"), told.MAX_SIDE),
        height=told.whole(fields.get("height"), told.MAX_SIDE),
        seed=told.whole(fields.get("seed")),
        loras=tuple(loras),
        left_out=told.cut([*unclear, *told.others(fields, *_READ, *_NO_MATTER)]),
    )
