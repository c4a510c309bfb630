"""What a fetch leaves beside a model's files: where they came from, at which revision, and each one's size and SHA-256.

A file is in the record once it has been verified; what is to come is written down before, so that a fetch which dies in
between is known to have left files that nobody has looked at. Imports no torch, asks no network.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from renderer.system.files import write_whole

RECORD = ".renderer.json"
"""Its name, in a fetched folder."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A file that was what the hub said.

    `wanted` is the revision that was asked for: of a hub that knows other revisions, whatever it had then was taken for
    that. A folder may have files of several.
    """

    bytes: int
    sha256: str | None
    wanted: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a fetched folder; nothing of one that something else has filled.

    `source` and `revision`, the hub's own, are of the latest fetch. `coming` are files that were to be fetched, and
    have not been verified.
    """

    source: str | None = None
    revision: str | None = None
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
        return [name for name in names if not self._vouches_for(name, wanted, folder)]

    def below(self, folder: str) -> list[str]:
        """The names of all files below a folder that there were to be."""
        return sorted(name for name in {*self.files, *self.coming} if name.startswith(folder))

    def _vouches_for(self, name: str, wanted: str | None, folder: Path) -> bool:
        known = self.files.get(name)
        if known is None or name in self.coming or (known.wanted and wanted and known.wanted != wanted):
            return False
        try:
            return (folder / name).stat().st_size == known.bytes
        except OSError:
            return False


def read_record(folder: Path) -> Record:
    """The record of a folder, or an empty one."""
    try:
        document = json.loads((folder / RECORD).read_bytes())
        source, revision = str(document["source"]), str(document["revision"])
        # Earlier versions said it of all files together, or, of Hugging Face's, not at all.
        wanted = document.get("wanted", revision if source == "huggingface" else None)
        files = {
            name: Verified(int(facts["bytes"]), facts["sha256"], facts.get("wanted", wanted))
            for name, facts in document["files"].items()
        }
        return Record(source, revision, files, frozenset(document.get("coming", ())))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return Record()


def write_record(folder: Path, record: Record) -> None:
    """Write a folder's record. Raises `DiskError`."""
    document = {
        "source": record.source,
        "revision": record.revision,
        "files": {name: asdict(each) for name, each in record.files.items()},
        "coming": sorted(record.coming),
    }
    write_whole(folder / RECORD, json.dumps(document, indent=2).encode())
