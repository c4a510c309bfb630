"""What a picture's file, or a sidecar, tells of its making: ours and other tools'.

containers       the texts in a PNG, JPEG or WebP, found by walking its chunks; no pixel is looked at
exif             the few texts of EXIF, in every way in which they can be meant
told             what readers are given and what they give; values that strangers wrote, bounded
own              our label, which keeps every character
a1111, comfyui, comfyui_workflow, drawthings, fooocus, invokeai, mflux, novelai, swarmui
                 a reader a tool: what it wrote, or None

A new tool is a new file and a line in `LABEL_READERS`. What is read comes from strangers: sizes are bounded, values are
checked, and nothing of it is a path or a template. Whatever a file holds, reading takes less than a second and 100 MB.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from renderer.errors import UsageError, shorten
from renderer.job import Sidecar
from renderer.manifest.labels import (
    a1111,
    comfyui,
    containers,
    drawthings,
    fooocus,
    invokeai,
    mflux,
    novelai,
    own,
    swarmui,
)
from renderer.manifest.labels.own import read_sidecar
from renderer.manifest.labels.told import LabelReader, Told
from renderer.outputs.folder import SIDECAR_SUFFIX

__all__ = ["LABEL_READERS", "Told", "read", "read_sidecar"]

LABEL_READERS: tuple[LabelReader, ...] = (
    swarmui.read,
    fooocus.read,
    a1111.read,
    invokeai.read,
    novelai.read,
    comfyui.read,
    mflux.read,
    drawthings.read,
)
"""Asked in this order; the first that knows the form answers."""


def read(path: Path) -> Told:
    """What a picture or a sidecar tells of its making; a picture that says nothing is told of by its sidecar.

    Raises `UsageError` when neither tells anything that can be used.
    """
    if path.suffix == SIDECAR_SUFFIX:
        sidecar = read_sidecar(path)
        if sidecar is None:
            raise UsageError(f"{path} is no sidecar of this version")
        return own.told_by_sidecar(sidecar)
    found = containers.look(path)
    if (ours := own.read(found.texts.get(own.ORIGIN_KEY, ""), found.xmp)) is not None:
        return ours
    for place in found.places():
        for reader in LABEL_READERS:
            if (told := reader(place)) is not None:
                return _with_size(told, found)
    if (sidecar := _sidecar_of(path)) is not None:
        return own.told_by_sidecar(sidecar)
    about = "".join(f"; {shorten(trouble, 100)}" for trouble in found.troubles)
    raise UsageError(f"{path} does not say how it was made{about}")


def _sidecar_of(path: Path) -> Sidecar | None:
    """The sidecar beside a picture, where it is this picture's: of its name, and of as many bytes."""
    sidecar = read_sidecar(path.with_suffix(SIDECAR_SUFFIX))
    its = sidecar is not None and (sidecar.file.name, sidecar.file.bytes) == (path.name, path.stat().st_size)
    return sidecar if its else None


def _with_size(told: Told, found: containers.Carried) -> Told:
    """What was told, with the file's own size where none was."""
    if told.width is not None and told.height is not None:
        return told
    return replace(told, width=found.width, height=found.height)
