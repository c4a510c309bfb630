"""Whose pictures a folder holds: two manifests of one name, in two commands, would write over each other for ever.

A manifest in the working folder leaves its name in the folder that it renders into, as seen from there, so that a
project may be moved as a whole. Nothing is told of manifests elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from renderer.errors import UsageError
from renderer.job import Value
from renderer.manifest.manifest import Manifest
from renderer.outputs import taken_in
from renderer.outputs.folder import OutputFolder

_MAX_BYTES = 2**16


class Owner(Value):
    """A manifest's file, relative to the folder; `proof` says that it is its rehearsal's folder."""

    manifest: str
    proof: bool = False


def claim(folder: OutputFolder, manifest: Manifest) -> None:
    """Take a folder for a manifest; call it with the folder's lock held. Raises as `check` does, and `DiskError`.

    What the manifest's paths stand for is written down as well, for when what is there has gone.
    """
    check(folder, manifest)
    taken_in.write(folder, manifest.taken_in)
    path = manifest.path
    if path is not None and Path(os.path.abspath(path)).is_relative_to(Path.cwd()):  # noqa: PTH100 - without its ".."
        now = Owner(manifest=Path(os.path.relpath(path, folder.path)).as_posix(), proof=manifest.proof)
        if now != _read(folder):
            folder.write(folder.owner, now.model_dump_json().encode() + b"\n")


def check(folder: OutputFolder, manifest: Manifest) -> None:
    """Raise `UsageError` where a folder is another manifest's, whose file is still there.

    A file that has been moved or renamed takes its folder with it.
    """
    before = _read(folder)
    if before is not None and not _is_of(before, folder, manifest):
        other = Path(os.path.normpath(folder.path / before.manifest))
        if other.is_file():
            whose = os.path.relpath(other) + (" with --proof" if before.proof else "")
            message = f"{folder.path} holds the pictures of {whose}, and {manifest.file} would write over them"
            hint = f"give one of them another name:, or remove {folder.owner} if that one renders elsewhere now"
            raise UsageError(message, hint=hint)


def _is_of(owner: Owner, folder: OutputFolder, manifest: Manifest) -> bool:
    if manifest.path is None or owner.proof != manifest.proof:
        return False
    try:
        return manifest.path.samefile(folder.path / owner.manifest)
    except OSError:
        return False


def _read(folder: OutputFolder) -> Owner | None:
    try:
        if folder.owner.stat().st_size > _MAX_BYTES:
            return None
        return Owner.model_validate_json(folder.owner.read_bytes())
    except (OSError, ValidationError, ValueError):
        return None
