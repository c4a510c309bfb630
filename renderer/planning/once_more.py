"""Chosen pictures once more, in another way: more steps, another size, another precision, more seeds.

They are pictures of their own, with names that say what is different, in a folder beside the manifest's: the first ones
stay as they are. Values to values; writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from renderer import catalog
from renderer.errors import UsageError, shorten
from renderer.job import MAX_SEED, Job, Picture, Precision, Size
from renderer.manifest import naming
from renderer.manifest.manifest import Manifest

_SUFFIX = "-again"
_MOST_DIGITS = 20
"""Of a size; Python makes no number of thousands."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be different; None stays. `size` is as a manifest has it, `seeds` how many further ones."""

    steps: int | None = None
    size: str | None = None
    cfg_scale: float | None = None
    precision: Precision | None = None
    seeds: int = 0

    def __bool__(self) -> bool:
        return any((self.steps, self.size, self.cfg_scale, self.precision, self.seeds))


def once_more(manifest: Manifest, chosen: Iterable[Picture], changes: Changes) -> Manifest:
    """A manifest of these pictures with what is different, in the folder beside.

    Raises `UsageError` for a size that a model has not, and where nothing is to be different.
    """
    if not changes:
        raise UsageError("nothing is to be different", hint="give --steps, --size, --cfg-scale, --precision or --seeds")
    pictures = [made for picture in chosen for made in _made(picture, changes)]
    placed = [
        picture.model_copy(update={"place": picture.place.model_copy(update={"index": index})})
        for index, picture in enumerate(pictures)
    ]
    return replace(manifest, name=manifest.name + _SUFFIX, pictures=tuple(placed), warnings=())


def _made(picture: Picture, changes: Changes) -> Iterator[Picture]:
    """The picture with all that is different but its seed, where that is anything, and then with further seeds."""
    job = picture.job.model_copy(update=_updates(picture.job, changes))
    parts = [
        f"{changes.steps}steps" if changes.steps else "",
        f"{job.width}x{job.height}" if changes.size else "",
        f"cfg{changes.cfg_scale:g}" if changes.cfg_scale else "",
        changes.precision or "",
    ]
    told = "-".join(filter(None, parts))
    if told:
        yield _named(picture, job, told, retakes=not changes.seeds)
    for number in range(1, changes.seeds + 1):
        seed = (job.seed + number) % (MAX_SEED + 1)
        yield _named(
            picture, job.model_copy(update={"seed": seed}), "-".join(filter(None, (told, f"s{seed}"))), retakes=False
        )


def _updates(job: Job, changes: Changes) -> dict[str, Any]:
    given = {
        "num_inference_steps": changes.steps,
        "cfg_scale": changes.cfg_scale,
        "precision": changes.precision,
    }
    if changes.size is not None:
        size = _size(job, changes.size)
        given |= {"width": size.width, "height": size.height}
    return {name: value for name, value in given.items() if value is not None}


def _size(job: Job, text: str) -> Size:
    model = catalog.find(job.model)
    if ":" in text:
        if text not in model.ratios:
            raise UsageError(f"{text} is not a ratio of {model.id}", hint=f"known: {', '.join(model.ratios)}")
        return model.ratios[text]
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or len(text) > _MOST_DIGITS:
        raise UsageError(f"{shorten(text)} is not a size", hint='like "1664x928", or a ratio like "16:9"')
    size = Size(width=int(width), height=int(height))
    if refusal := model.refusal(size):
        near = " and ".join(str(fitting) for fitting in model.nearest(size))
        raise UsageError(refusal, hint=f"nearest: {near}")
    return size


def _named(picture: Picture, job: Job, told: str, *, retakes: bool) -> Picture:
    """The picture under a name that says what is different; with further seeds there are no `retakes` besides."""
    name, output = f"{picture.id}-{told}", f"{picture.output}-{told}"
    if naming.refuse_id(name)[0] or len(output.encode()) > naming.MAX_NAME_BYTES:
        raise UsageError(f"{name} would be too long a name", hint="give the picture a shorter id in the manifest")
    lettering = picture.lettering
    if lettering is not None and lettering.seeds:
        further = ((job.seed + each - lettering.seeds[0]) % (MAX_SEED + 1) for each in lettering.seeds)
        lettering = lettering.model_copy(update={"seeds": tuple(further) if retakes else ()})
    return picture.model_copy(update={"id": name, "output": output, "job": job, "lettering": lettering})
