"""A manifest cut for several machines that share a folder: each renders a part into a folder of its own.

Which part a picture is in depends on its job alone: a manifest that grows moves nothing, and every machine finds the
same part without asking the others. What is merged already is in nobody's part any more. Writes nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from renderer import catalog
from renderer.errors import UsageError
from renderer.job import Job, Picture, canonical
from renderer.manifest.manifest import Manifest
from renderer.outputs import done
from renderer.outputs.folder import OutputFolder
from renderer.planning import takes
from renderer.weights.identity import identify

MOST_SHARDS = 10_000

_TOLD = re.compile(r"([0-9]{1,5})/([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Shard:
    """The `number`-th of `count` parts, from 1."""

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """A part like 3/16. Raises `UsageError`."""
        found = _TOLD.fullmatch(text)
        shard = cls(int(found[1]), int(found[2])) if found else None
        if shard is None or not 1 <= shard.number <= shard.count <= MOST_SHARDS:
            raise UsageError(f'--shard "{text}" is not a part like 3/16, from 1/16 to 16/16')
        return shard

    def has(self, job: Job) -> bool:
        """Whether a job is in this part: by what makes its picture, and nothing that differs between machines.

        Where a model or a LoRA lies is not in it, and what is known only of files that are there.
        """
        told = job.model_dump(mode="json", exclude_defaults=True)
        told |= {"model": Path(job.model).name, "loras": [[lora.identity, lora.weight] for lora in job.riding]}
        mark = hashlib.sha256(canonical(told).encode()).digest()
        return int.from_bytes(mark[:8]) % self.count == self.number - 1

    def name(self, manifest: str) -> str:
        """The name of a manifest's part, which its folder has."""
        return f"{manifest}-shard-{self.number}-of-{self.count}"


def cut(manifest: Manifest, shard: Shard, outputs: Path) -> Manifest:
    """A manifest's part, without what lies finished in the whole's folder.

    Raises `ModelError` for a model that is not there.
    """
    folder = OutputFolder(outputs / manifest.name)
    mine = [picture for picture in manifest.pictures if shard.has(picture.job)]
    if folder.path.is_dir():
        marks = {name: identify(catalog.find(name)) for name in {picture.job.model for picture in mine}}

        def lies_there(picture: Picture) -> bool:
            found = done.find(folder, picture.output)
            if found is None or takes.take_of(picture, marks[picture.job.model], found.fingerprint) is None:
                return False
            return found.is_whole(folder, thorough=False)

        mine = [picture for picture in mine if not lies_there(picture)]
    return replace(manifest, name=shard.name(manifest.name), pictures=tuple(mine), is_part=True)


def folders(name: str, outputs: Path) -> Iterator[OutputFolder]:
    """The folders of a manifest's parts, however many it was cut into."""
    own = re.compile(re.escape(name) + r"-shard-[0-9]{1,5}-of-[0-9]{1,5}")
    if outputs.is_dir():
        yield from (OutputFolder(path) for path in sorted(outputs.iterdir()) if own.fullmatch(path.name))
