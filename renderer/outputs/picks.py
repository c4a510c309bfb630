"""What somebody thinks of pictures: stars from 1 to 5, or rejected. `picks.json`, by fingerprints.

A picture takes its mark along when it is moved or kept another way, and one that is rendered anew has none. Written
whole or not at all; several windows and several servers may mark at once, and each change is made on what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from renderer.errors import DiskError, LockedError
from renderer.job import Value
from renderer.outputs.folder import OutputFolder
from renderer.system import lock

Pick = Annotated[int, Field(ge=1, le=5)] | Literal["x"]
"""Stars, or `x` for a picture that is rejected."""

PickMap = Mapping[str, Pick]
"""By fingerprint."""

_PATIENCE_S = 10.0
"""Marking takes milliseconds; a marker of a machine that died stays for ever."""

_MOST_BYTES = 32 * 2**20
"""A larger file is none."""


class _PicksFile(Value):
    """The file."""

    picks_version: Literal[1] = 1
    marks: dict[str, Pick] = Field(default_factory=dict)


def read(folder: OutputFolder) -> PickMap:
    """All marks of a folder; none where there is no file. Raises `DiskError` for one that cannot be read."""
    try:
        if folder.picks.stat().st_size > _MOST_BYTES:
            raise DiskError(f"{folder.picks} is too large to be what it is called")
        return _PicksFile.model_validate_json(folder.picks.read_bytes()).marks
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError, ValueError) as error:
        hint = "mend it, or move it away: pictures are then as if nobody had marked them"
        raise DiskError(f"cannot read {folder.picks}", hint=hint) from error


def mark(folder: OutputFolder, changes: Mapping[str, Pick | None]) -> PickMap:
    """Mark pictures by their fingerprints, or unmark them with None, and leave all others as they are: all marks.

    Raises `DiskError`, also where somebody else marks without an end; what was there stays then.
    """
    try:
        with lock.waited(folder.picks_lock, _PATIENCE_S):
            marks = dict(read(folder))
            for fingerprint, wanted in changes.items():
                marks.pop(fingerprint, None)
                if wanted is not None:
                    marks[fingerprint] = wanted
            folder.write(folder.picks, _PicksFile(marks=marks).model_dump_json(indent=1).encode() + b"\n")
    except LockedError as error:
        hint = f"try again; if nobody marks, on no machine, remove {folder.picks_lock}.held"
        raise DiskError(f"somebody else has been marking in {folder.path} all the time", hint=hint) from error
    return marks
