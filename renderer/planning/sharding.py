"""A manifest cut for several machines that share a folder: each renders a part into a folder of its own.

Which part a picture is in depends on its job alone: a manifest that grows moves nothing, and every machine finds the
same part without asking the others. What is merged already is in nobody's part any more. Writes nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from renderer import catalog
from renderer.errors import UsageError
from renderer.job import Job, Picture, Weights, canonical
from renderer.manifest.manifest import Manifest
from renderer.outputs import done
from renderer.outputs.folder import OutputFolder
from renderer.planning import auto, owner, part_folders, takes
from renderer.weights.identity import identify

MOST_SHARDS = 10_000

_SHARED = re.compile(r"(.+)-share-[0-9]{1,5}-of-([0-9]{1,5})-[0-9a-f]{8}")
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

        Where a model, a LoRA or a ControlNet lies is not in it, and what is known only of files that are there.
        """
        return _place(job) % self.count == self.number - 1

    def name(self, manifest: str) -> str:
        """The name of a manifest's part, which its folder has."""
        return part_folders.part_name(manifest, self.number, self.count)


def _place(job: Job) -> int:
    told = job.model_dump(mode="json", exclude_defaults=True)
    told |= {"model": Path(job.model).name, "loras": [[lora.identity, lora.weight] for lora in job.riding]}
    told.pop("controlnets", None)
    if job.controlling:
        told["controlnets"] = [net.model_dump(mode="json", exclude={"source"}) for net in job.controlling]
    return int.from_bytes(hashlib.sha256(canonical(told).encode()).digest()[:8])


def cut(manifest: Manifest, shard: Shard, outputs: Path) -> Manifest:
    """A manifest's part, without what lies finished in the whole's folder.

    Raises `ModelError` for a model that is not there.
    """
    mine = [picture for picture in manifest.pictures if shard.has(picture.job)]
    left = _unfinished(manifest, mine, outputs)
    return replace(manifest, name=shard.name(manifest.name), pictures=left, is_part=True)


def share(manifest: Manifest, count: int, outputs: Path) -> tuple[Manifest, ...]:
    """Parts of a manifest of which no machine is told which are its: of each model and precision so many.

    Without what lies finished in the whole's folder; one part without pictures where all does. Raises `ModelError` for
    a model that is not there.
    """
    found: dict[str, list[Picture]] = {}
    for picture in _unfinished(manifest, manifest.pictures, outputs):
        weights = Weights.of(picture.job)
        told = f"{Path(weights.model).name} {weights.precision}"
        number = _place(picture.job) % count + 1
        name = f"{manifest.name}-share-{number}-of-{count}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
        found.setdefault(name, []).append(picture)
    return tuple(
        replace(manifest, name=name, pictures=tuple(pictures), is_part=True, is_shared=True)
        for name, pictures in (found or {f"{manifest.name}-share-1-of-{count}-{'0' * 8}": []}).items()
    )


def left_of(part: Manifest, outputs: Path) -> Manifest:
    """A part without what has been merged since it was cut. Raises `ModelError` for a model that is not there."""
    whole = replace(part, name=part_folders.whole_name(part.name))
    return replace(part, pictures=_unfinished(whole, part.pictures, outputs))


def cut_of(name: str) -> tuple[str, int]:
    """Of which manifest a shared part's folder is, and into how many parts that was cut."""
    found = _SHARED.fullmatch(name)
    assert found is not None, name
    return found[1], int(found[2])


def is_shared(folder: OutputFolder) -> bool:
    """Whether a part's folder is one that is leased."""
    return _SHARED.fullmatch(folder.path.name) is not None


def _unfinished(manifest: Manifest, mine: Sequence[Picture], outputs: Path) -> tuple[Picture, ...]:
    folder = OutputFolder(outputs / manifest.name)
    if folder.path.is_dir():
        marks = {name: identify(catalog.find(name)) for name in {picture.job.model for picture in mine}}
        known = auto.resolved(replace(manifest, pictures=tuple(mine)), outputs, marks).pictures

        def lies_there(picture: Picture) -> bool:
            found = done.find(folder, picture.output)
            if found is None or takes.take_of(picture, marks[picture.job.model], found.fingerprint) is None:
                return False
            return found.is_whole(folder, thorough=False)

        mine = [picture for picture, as_it_is in zip(mine, known, strict=True) if not lies_there(as_it_is)]
    return tuple(mine)


def folders(manifest: Manifest, outputs: Path) -> Iterator[OutputFolder]:
    """The folders of a manifest's parts, however many it was cut into; not those that are another manifest's own."""
    for part in part_folders.folders(manifest.name, outputs):
        try:
            owner.check(part, manifest)
        except UsageError:  # a manifest that is named like a part of this one
            continue
        yield part
