"""Pictures in an output folder that its manifest names no more: found, and removed.

Only what this program wrote goes: a sidecar of its own, and beside it the very file that it tells of. What the manifest
asks for under another name is not among them, for the next run moves it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from renderer.job import Format
from renderer.outputs import done, picture_files
from renderer.outputs.folder import OutputFolder
from renderer.planning.plan import Plan
from renderer.system.files import sha256_of

_OURS = re.compile(r"[0-9a-f]{64}")
"""What an input is kept under: the SHA-256 over its pixels."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A picture that nobody names: its output name, and the bytes of it and its sidecar."""

    output: str
    file_format: Format
    bytes: int


@dataclass(frozen=True, slots=True)
class Orphans:
    """What may go from a folder, and the output names of pictures that somebody has changed since, which stay.

    `inputs` are files that went into pictures of which none is left, and their bytes.
    """

    folder: OutputFolder
    found: tuple[Orphan, ...]
    changed: tuple[str, ...]
    inputs: Mapping[Path, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(orphan.bytes for orphan in self.found) + sum(self.inputs.values())


def look(plan: Plan) -> Orphans:
    """What lies in a plan's folder, and neither is in a picture's place nor will be moved to one. Removes nothing."""
    places = {item.picture.output for item in plan.items}
    moving = {item.source.output for item in plan.items if item.source is not None}
    found: list[Orphan] = []
    changed: list[str] = []
    for each in done.find_all(plan.folder, places):
        sidecar = picture_files.read_sidecar(plan.folder.sidecar(each.output))
        if sidecar is None or each.output in moving:
            continue
        picture = plan.folder.picture(each.output, each.keep.format)
        size = plan.folder.sidecar(each.output).stat().st_size
        try:
            layers = [plan.folder.layer(each.output, 1 + number) for number in range(len(sidecar.layers))]
            told = [(picture, sidecar.file), *zip(layers, sidecar.layers, strict=True)]
            there = [(path, file) for path, file in told if os.path.lexists(path)]  # some may have gone without it
            if any(path.is_symlink() or sha256_of(path) != file.sha256 for path, file in there):
                changed.append(each.output)
                continue
            size += sum(path.stat().st_size for path, _ in there)
        except OSError:
            changed.append(each.output)
            continue
        found.append(Orphan(each.output, each.keep.format, size))
    return Orphans(plan.folder, tuple(found), tuple(changed), _unused(plan, changed))


def _unused(plan: Plan, staying: Iterable[str]) -> dict[Path, int]:
    """What was kept of pictures that went in, and neither the manifest nor a picture that stays was made of."""
    others = (picture_files.read_sidecar(plan.folder.sidecar(output)) for output in staying)
    jobs = [*(item.picture.job for item in plan.items), *(each.job for each in others if each is not None)]
    wanted = {each.sha256 for job in jobs for each in job.inputs}
    kept = plan.folder.inputs.iterdir() if plan.folder.inputs.is_dir() else ()
    unused = (path for path in kept if _OURS.fullmatch(path.stem) and path.stem not in wanted)
    return {path: path.stat().st_size for path in sorted(unused) if path.is_file() and not path.is_symlink()}


def remove(orphans: Orphans) -> None:
    """Remove what may go. Call it with the folder's lock held, after a look under it. Raises `DiskError`."""
    for orphan in orphans.found:
        picture_files.remove(orphans.folder, orphan.output, orphan.file_format)
    for path in orphans.inputs:
        orphans.folder.remove(path)
