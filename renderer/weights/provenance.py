"""Where the weights of a picture come from, a line a part, as its sidecar tells it. Looks at no file, imports no torch.

Parts of a model of the catalogue come from several repositories, each at a commit of its own; so do ControlNets and
LoRAs, and not always from the repository that they are called after. Files of one's own are known by what they hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from renderer.catalog import MODELS, Model, PartRole
from renderer.job import ExtraNetwork, Job, ModelIdentity, Provenance


def provenance(model: Model, identity: ModelIdentity, job: Job) -> tuple[Provenance, ...]:
    """All that a job is rendered with: its model's parts, and the LoRAs and ControlNets that count."""
    return (
        *_of_model(model, identity),
        *(told for each in job.riding for told in _of_extra(each, "lora")),
        *(told for each in job.controlling for told in _of_extra(each, "controlnet")),
    )


def _of_model(model: Model, identity: ModelIdentity) -> Iterator[Provenance]:
    """The hub's parts; beside them, or in their place, what is known by what it holds or comes with the package."""
    yield from _parts(model, identity.id)
    if identity.content_sha256 is not None:
        yield Provenance(name=identity.id, content_sha256=identity.content_sha256)
    elif not model.parts:
        yield Provenance(name=identity.id, revision=identity.revision)


def _of_extra(extra: ExtraNetwork, part: PartRole) -> Iterator[Provenance]:
    row = MODELS.get(extra.source)
    if row is None:
        yield Provenance(name=Path(extra.source).name, part=part, content_sha256=extra.identity)
    elif row.parts:
        yield from _parts(row, row.id)
    else:
        yield Provenance(name=row.id, part=part, revision=row.revision)


def _parts(row: Model, name: str) -> Iterator[Provenance]:
    """What of it is a hub's; a folder of one's own is told by no path."""
    for part in row.parts:
        repository = part.repository or (row.id if row.id in MODELS else None)
        if repository is not None:
            revision = part.revision or row.revision
            yield Provenance(name=name, part=part.role, repository=repository, revision=revision, files=part.files)
