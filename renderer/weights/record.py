"""What a fetch leaves beside a model's files: where they came from, at which revision, and each one's size and SHA-256.

A file is in the record once it has been verified; what is to come is written down before, so that a fetch which dies in
between is known to have left files that nobody has looked at. Imports no torch, asks no network.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from renderer.system.files import write_whole

RECORD = ".renderer.json"
"""Its name, in a fetched folder."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A file that was what the hub said."""

    bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a fetched folder; nothing of one that something else has filled.

    `revision` is the hub's own, `wanted` the one that was asked for: of a hub that knows other revisions, whatever it
    had then was taken for that. `coming` are files that were to be fetched, and have not been verified.
    """

    source: str | None = None
    revision: str | None = None
    wanted: str | None = None
    files: Mapping[str, Verified] = field(default_factory=dict)
    coming: frozenset[str] = frozenset()

    @property
    def is_known(self) -> bool:
        """Whether a fetch of ours has written it."""
        return self.source is not None

    def doubts(self, names: Iterable[str], wanted: str | None, folder: Path) -> list[str]:
        """Those of some files in the folder that are of another revision than is wanted, or were never verified."""
        if not self.is_known:
            return []
        is_other = self.wanted is not None and wanted is not None and self.wanted != wanted
        return [name for name in names if is_other or not self._vouches_for(name, folder)]

    def below(self, folder: str) -> list[str]:
        """The names of all files below a folder that there were to be."""
        return sorted(name for name in {*self.files, *self.coming} if name.startswith(folder))

    def _vouches_for(self, name: str, folder: Path) -> bool:
        known = self.files.get(name)
        try:
            return known is not None and name not in self.coming and (folder / name).stat().st_size == known.bytes
        except OSError:
            return False


def read_record(folder: Path) -> Record:
    """The record of a folder, or an empty one."""
    try:
        document = json.loads((folder / RECORD).read_bytes())
        source, revision = str(document["source"]), str(document["revision"])
        files = {name: Verified(int(facts["bytes"]), facts["sha256"]) for name, facts in document["files"].items()}
        wanted = document.get("wanted", revision if source == "huggingface" else None)
        return Record(source, revision, wanted, files, frozenset(document.get("coming", ())))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return Record()


def write_record(folder: Path, record: Record) -> None:
    """Write a folder's record. Raises `DiskError`."""
    document = {
        "source": record.source,
        "revision": record.revision,
        "wanted": record.wanted,
        "files": {name: {"bytes": each.bytes, "sha256": each.sha256} for name, each in record.files.items()},
        "coming": sorted(record.coming),
    }
    write_whole(folder / RECORD, json.dumps(document, indent=2).encode())
