"""From a picture back to a manifest's entry: what it tells of its making, as a job that can be rendered again.

A picture is a stranger's: its model is taken only when the catalogue has it, its values only where a manifest may have
them, and the whole goes through the manifest's own checks. What was left out is said. Knows nothing of running.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from PIL import Image

from renderer import artifacts, catalog, metadata, names
from renderer.errors import ManifestError, UsageError, shorten
from renderer.job import Precision, Size, Software
from renderer.layout import SIDECAR_SUFFIX
from renderer.manifest import Manifest, load
from renderer.metadata import Told

NAME = "replay"
_STEPS = range(2, 201)
_CFG_SCALES = (1.0, 30.0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture as a manifest's entry. `notes` say what was left out; `picture` is where its pixels are."""

    id: str
    text: str
    notes: tuple[str, ...]
    picture: Path
    software: Software | None


def write_entries(pictures: Sequence[Path]) -> list[Entry]:
    """An entry for each picture or sidecar, under ids of their own. Raises `UsageError` for one that tells nothing."""
    entries: list[Entry] = []
    for path in pictures:
        told, taken = metadata.read(path), {entry.id for entry in entries}
        stem = names.slug(path.stem)
        picture_id = next(name for name in (stem, *(f"{stem}-{n}" for n in range(2, 10**6))) if name not in taken)
        entries.append(_entry(picture_id, path, told))
    return entries


def as_manifest(entries: Sequence[Entry]) -> Manifest:
    """The entries as a manifest. Raises `UsageError` when what they tell makes no job."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{NAME}.yaml"
        path.write_text("jobs:\n" + "".join(entry.text for entry in entries), encoding="utf-8")
        try:
            return load(path)
        except ManifestError as error:
            first = error.problems[0]
            raise UsageError(f"what the picture tells makes no job: {first.path}: {first.message}") from error


def compare(entry: Entry, rendered: Path) -> str:
    """How a picture that was rendered again differs from what it was replayed from; empty when every bit is the same.

    Raises `UsageError` when there is nothing to compare with.
    """
    with Image.open(rendered) as image:
        again = image.convert("RGB").tobytes()
        size = image.size
    try:
        with Image.open(entry.picture, formats=("PNG", "WEBP", "JPEG")) as image:
            if image.format == "JPEG":
                return "its bits are not known: JPEG does not keep them"
            if image.size != size:
                return f"{image.size[0]}x{image.size[1]} before, {size[0]}x{size[1]} now"
            before = image.convert("RGB").tobytes()
    except (OSError, ValueError, SyntaxError) as error:
        raise UsageError(f"{entry.picture} cannot be compared with: {shorten(str(error))}") from error
    if before == again:
        return ""
    apart = [abs(one - other) for one, other in zip(before, again, strict=True) if one != other]
    return f"{len(apart) / len(before):.1%} of the values differ, by {max(apart)} of 255 at most"


def _entry(picture_id: str, path: Path, told: Told) -> Entry:
    notes: list[str] = []
    model = told.model if told.model in catalog.MODELS else None
    if told.model is not None and model is None:
        notes.append(f'the model "{shorten(told.model)}" is not in the catalogue; {catalog.QWEN_IMAGE.id} stands in')
    fields: dict[str, str | int | float | None] = {
        "id": picture_id,
        "prompt": told.prompt,
        "negative_prompt": told.negative_prompt or None,
        "model": model,
        "precision": told.precision if told.precision in get_args(Precision) else None,
        "size": _size(told, catalog.MODELS[model or catalog.QWEN_IMAGE.id], notes),
        "steps": told.steps if told.steps is None or told.steps in _STEPS else None,
        "cfg_scale": told.cfg_scale,
        "seed": told.seed,
    }
    if fields["steps"] != told.steps:
        notes.append(f"{told.steps} steps are out of range")
    if told.cfg_scale is not None and not _CFG_SCALES[0] <= told.cfg_scale <= _CFG_SCALES[1]:
        notes.append(f"a CFG scale of {told.cfg_scale} is out of range")
        fields["cfg_scale"] = None
    lines = [f"{name}: {_write(value)}" for name, value in fields.items() if value is not None]
    return Entry(picture_id, "- " + "\n  ".join(lines) + "\n", tuple(notes), _picture_of(path), told.software)


def _write(value: str | float) -> str:
    """A value in YAML: JSON's texts and numbers, with what YAML does not print escaped in its own way."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in text)


def _size(told: Told, model: catalog.Model, notes: list[str]) -> str | None:
    if told.width is None or told.height is None:
        return None
    size = Size(width=told.width, height=told.height)
    if not model.refusal(size):
        return str(size)
    nearest = model.nearest(size, 1)[0]
    notes.append(f"{size} is no size of {model.id}; {nearest} is the nearest")
    return str(nearest)


def _picture_of(path: Path) -> Path:
    """The picture itself, or the one beside a sidecar; a name in a sidecar is only ever a name."""
    sidecar = artifacts.read_sidecar(path) if path.suffix == SIDECAR_SUFFIX else None
    return path if sidecar is None else path.parent / Path(sidecar.file.name).name
