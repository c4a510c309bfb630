"""Where LoRAs and ControlNets of a picture are on this machine: in the catalogue, or as files of one name and content.

A name comes from a stranger, and is looked for in the folders where such lie and nowhere else. Knows nothing of YAML.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from renderer import catalog
from renderer.errors import ModelError, shorten
from renderer.job import ControlNet
from renderer.manifest.additions import refuse_weight
from renderer.manifest.labels.told import ToldLora
from renderer.weights.adapters.whereabouts import CONTROLNET, file_hash_of, identity_of, named
from renderer.weights.control_files import identity_of_file

_CALLED = re.compile(r"([^:+]{1,200}):(-?[0-9]{1,3}(?:\.[0-9]{1,400})?)")

LoraEntry = dict[str, str | float]
"""A LoRA as a job's list has it."""


def refind(lora: ToldLora) -> tuple[LoraEntry | None, str]:
    """A LoRA as a job's list has it; or None, and why it is left out, in words."""
    if refusal := refuse_weight(lora.weight):
        return None, f"{lora.words} ({refusal[0]})"
    if row := _row(lora.name):
        return {"id": row, "weight": lora.weight}, ""
    path = named(lora.name)
    if path is None:
        return None, lora.words
    try:
        is_it = _is_it(lora, path)
    except ModelError as error:
        return None, f"{lora.words} ({error.message})"
    return ({"file": str(path), "weight": lora.weight}, "") if is_it else (None, f"{lora.words} (another file here)")


def refind_derived(name: str) -> str:
    """The reference of a model with LoRAs in it, by what it is called (`demo+ink:0.8`); empty where one is not here."""
    origin, *named_loras = name.split("+")
    pairs = [_CALLED.fullmatch(each) for each in named_loras]
    if origin not in catalog.MODELS or catalog.MODELS[origin].unfit or not pairs or None in pairs:
        return ""
    fused = []
    for found in filter(None, pairs):
        entry, _ = refind(ToldLora(found[1], float(found[2])))
        if entry is None:
            return ""
        fused.append(catalog.Fused(str(entry.get("id", entry.get("file"))), float(entry["weight"])))
    return catalog.name_derived(origin, fused)


def refind_controlnet(net: ControlNet) -> tuple[dict[str, Any] | None, str]:
    """A ControlNet as a job's list has it, without its pictures; or None, and why it is left out, in words."""
    words = f"ControlNet {shorten(net.name)} at {net.scale:g}"
    counts = {"scale": net.scale, "start": net.start, "end": net.end}
    row = catalog.MODELS.get(net.source)
    if row is not None and row.ability == CONTROLNET.ability:
        return {"id": row.id, **counts}, ""
    path = named(net.name, CONTROLNET)
    if path is None:
        return None, words
    try:
        is_it = identity_of_file(path) == net.identity
    except ModelError as error:
        return None, f"{words} ({error.message})"
    return ({"file": str(path), **counts}, "") if is_it else (None, f"{words} (another file here)")


def _is_it(lora: ToldLora, path: Path) -> bool:
    """Whether a file holds what was rendered with, as far as that is told."""
    if lora.identity:
        return identity_of(path) == lora.identity
    return file_hash_of(path).startswith(lora.file_hash[:12].casefold())


def _row(name: str) -> str | None:
    """The catalogue's id of a LoRA, by the id or by its file's name."""
    for model in catalog.MODELS.values():
        if model.ability == "lora" and name in (model.id, Path(model.file_name).stem):
            return model.id
    return None
