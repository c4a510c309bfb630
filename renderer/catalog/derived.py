"""Models with LoRAs fused into their weights: named by the model they are made of, and each LoRA with its weight.

    Qwen/Qwen-Image+lora=loras/ink.safetensors:0.8

A path is as seen from where the command is called. Reads nothing but names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from renderer.catalog.embedded import located
from renderer.catalog.model import Fused, Model
from renderer.errors import ModelError, shorten
from renderer.system.folders import expanded
from renderer.text import decimal

FUSED = "+lora="
"""Before each LoRA of a reference."""

MOST_WEIGHT = 4.0
"""Of a LoRA, and less its sign too."""

_WEIGHED = re.compile(r"(.+):(-?[0-9]*\.?[0-9]+)", re.DOTALL)


def name_derived(reference: str, fused: Sequence[Fused]) -> str:
    """The reference of a model with these LoRAs in it."""
    return reference + "".join(f"{FUSED}{each.source}:{decimal(each.weight)}" for each in fused)


def derive(reference: str, origin: Model, additions: str, rows: Mapping[str, Model]) -> Model:
    """The model that `reference` names: `origin`, and the LoRAs of `additions`, of which `rows` are the catalogue's.

    Those of the catalogue bring their steps, guidance and schedule. Raises `ModelError` for what is no LoRA.
    """
    if origin.pinned:
        message = f"LoRAs are fused into the catalogue's revision of {origin.id} alone"
        raise ModelError(message, hint=f"write {origin.id}{FUSED}…")
    fused = tuple(_fused(text, rows) for text in additions.split(FUSED))
    known = [rows[each.source] for each in fused if each.source in rows]
    guide = next((row for row in known if row.is_distilled), origin)
    here = located(origin)
    parts = tuple(
        part if part.repository or origin.folder else replace(part, repository=origin.id, revision=origin.revision)
        for part in origin.parts
    )
    return replace(
        origin,
        id=reference,
        about=f"{origin.id} with LoRAs in it",
        folder=here.folder,
        files=here.files,
        parts=(*parts, *(part for row in known for part in row.parts)),
        revision=None,
        pinned=False,
        steps=guide.steps,
        cfg_scale=guide.cfg_scale,
        schedule=guide.schedule,
        fused=fused,
        origin=origin,
    )


def _fused(text: str, rows: Mapping[str, Model]) -> Fused:
    found = None if text in rows else _WEIGHED.fullmatch(text)
    source, weight = (found[1], float(found[2])) if found else (text, 1.0)
    if not 0 < abs(weight) <= MOST_WEIGHT:
        hint = f"from -{MOST_WEIGHT:g} to {MOST_WEIGHT:g}, and not 0"
        raise ModelError(f'the weight {shorten(decimal(weight))} of "{shorten(source)}" cannot be fused', hint=hint)
    row = rows.get(source)
    if row is not None and row.ability != "lora":
        raise ModelError(f"{row.id} is a model, and not a LoRA")
    if row is None and not _is_file(source):
        raise ModelError(f'the LoRA "{shorten(source)}" is not there', hint="give an id or a file")
    return Fused(source, weight)


def _is_file(source: str) -> bool:
    try:
        return expanded(source).is_file()
    except (OSError, ValueError):  # a name that no file system takes
        return False
