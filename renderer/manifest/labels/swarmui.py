"""SwarmUI: a JSON object with `sui_image_params`, under `parameters` or in a comment."""

from __future__ import annotations

from itertools import zip_longest

from renderer.manifest.labels import told
from renderer.manifest.labels.told import COMMENT, Texts, Told, ToldLora

_READ = ("prompt", "negativeprompt", "model", "seed", "steps", "cfgscale", "width", "height", "sampler", "scheduler")
_NO_MATTER = (
    "aspectratio", "swarm_version", "images", "date", "automaticvae", "sidelength", "original_prompt", "nopreviews",
    "wildcardseed", "imageformat", "generation_time",
)  # fmt: skip


def read(texts: Texts) -> Told | None:
    """What SwarmUI's parameters tell."""
    fields = texts.fields("parameters", COMMENT).get("sui_image_params")
    if not isinstance(fields, dict):
        return None
    prompt, tagged, tags = told.with_loras(told.words(fields.get("prompt")))
    negative, more = told.without_tags(told.words(fields.get("negativeprompt")))
    loras, unclear = _loras(fields.get("loras"), fields.get("loraweights"))
    left_out = [*tags, *more, *unclear]
    left_out += told.sampler(fields.get("sampler"), fields.get("scheduler"))
    return Told(
        by="SwarmUI",
        prompt=prompt,
        negative_prompt=negative,
        model=told.words(fields.get("model")) or None,
        steps=told.whole(fields.get("steps")),
        cfg_scale=told.number(fields.get("cfgscale")),
        width=told.whole(fields.get("width"), told.MAX_SIDE),
        height=told.whole(fields.get("height"), told.MAX_SIDE),
        seed=told.whole(fields.get("seed")),
        loras=(*tagged, *loras),
        left_out=told.cut([*left_out, *told.others(fields, *_READ, *_NO_MATTER, "loras", "loraweights")]),
    )


def _loras(names: object, weights: object) -> tuple[list[ToldLora], list[str]]:
    """The LoRAs that stand in two lists, or in two texts with commas."""
    lists = [value.split(",") if isinstance(value, str) else value for value in (names, weights)]
    given, strengths = (value if isinstance(value, list) else [] for value in lists)
    pairs = zip_longest(given[:99], strengths[: min(99, len(given))])
    return told.loras((name, weight) for name, weight in pairs if name)
