"""What a job's `controlnets` mean: each network found, its pictures, and how it counts, for every combination.

And what of these and of `regions` does not go with a picture's size.

Each network is looked at once a manifest. Knows nothing of YAML and lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from renderer import catalog
from renderer.catalog import Model
from renderer.errors import ModelError, shorten
from renderer.job import ControlNet, Input, Job, Size
from renderer.manifest.additions import refuse_weight
from renderer.manifest.complaints import Complaint
from renderer.manifest.control_kinds import SCALES, ControlNetFields
from renderer.manifest.naming import Template
from renderer.manifest.pictures_in import InputSet, is_of_shape, size_of
from renderer.manifest.reading import Combination, Reading
from renderer.manifest.recipe import Recipe

if TYPE_CHECKING:
    from renderer.weights.control_files import FoundControlNet

_FIELD = "controlnets"
_SIZES = frozenset({"size", "sizes", "width"})


class ControlNetFinder:
    """Finds ControlNets, each once. `catalogue_only` looks at no path."""

    def __init__(self, *, catalogue_only: bool = False) -> None:
        self._catalogue_only = catalogue_only
        self._found: dict[tuple[str, str, Path], FoundControlNet | ModelError] = {}

    def sets(
        self, reading: Reading, model: Model, taken_in: Sequence[tuple[Combination, InputSet]]
    ) -> list[tuple[ControlNet, ...]]:
        """The ControlNets of each combination; what is wrong with them is complained of in `reading`."""
        items = reading.fields.get("controlnets", [])
        if not items:
            return [()] * len(taken_in)
        named = [reading.template(_FIELD, _name(item), number, _key(item)) for number, item in enumerate(items)]
        scales = [_scale(reading, item, number) for number, item in enumerate(items)]
        sets: list[tuple[ControlNet, ...]] = []
        for combination, inputs in taken_in:
            if reading.complaints:
                return []
            if len(inputs.controls) < len(items):  # a file is missing: that is said once, where it was wanted first
                sets.append(())
                continue
            sets.append(
                tuple(
                    net
                    for number, (item, pictures) in enumerate(zip(items, inputs.controls, strict=True))
                    if (found := self._find(reading, model, named[number].fill(combination), item, number))
                    for net in self._made(reading, found, item, number, pictures, scales[number], combination)
                )
            )
        return sets

    def _find(
        self, reading: Reading, model: Model, reference: str, item: ControlNetFields, number: int
    ) -> FoundControlNet | None:
        folder = reading.recipe.folder_of(_FIELD)
        key = reference, model.reference, folder
        if self._catalogue_only and reference not in catalog.MODELS:
            said = f"{shorten(reference)} is no ControlNet of the catalogue"
            reading.complain(_FIELD, said, "no file is read", number, _key(item))
            return None
        if key not in self._found:
            from renderer.weights.control_files import find_controlnet  # noqa: PLC0415  # most manifests have none

            try:
                self._found[key] = find_controlnet(reference, folder, model)
            except ModelError as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, ModelError):
            reading.complain(_FIELD, found.message, found.hint, number, _key(item))
            return None
        return found

    @staticmethod
    def _made(
        reading: Reading,
        found: FoundControlNet,
        item: ControlNetFields,
        number: int,
        pictures: tuple[Input, Input | None],
        scale: Template | float,
        combination: Combination,
    ) -> Iterator[ControlNet]:
        image, mask = pictures
        if found.masked and mask is None:
            hint = "mask: mask.png, white where it is drawn anew"
            reading.complain(_FIELD, f"{shorten(_name(item))} inpaints, and has no mask", hint, number)
        if mask is not None and not found.masked:
            reading.complain(_FIELD, f"{shorten(_name(item))} takes no mask", "leave it out", number, "mask")
        weight = _number(reading, scale.fill(combination) if isinstance(scale, Template) else scale, number)
        if weight is not None:
            yield ControlNet(
                source=found.source,
                identity=found.identity,
                image=image,
                mask=mask,
                scale=weight,
                start=item.get("start", 0.0),
                end=item.get("end", 1.0),
            )


def refuse_regions(recipe: Recipe, model: Model, jobs: Sequence[Job]) -> Iterator[Complaint]:
    """What shows only when sizes are known: masks, or what stands beside a picture, of another shape than it."""
    if not recipe.fields.keys() & {"regions", "context_image"}:
        return
    said: set[int] = set()
    for job in jobs:
        context, shape = job.context_image, job.input_image or Size(width=job.width, height=job.height)
        given = job.input_image is not None or bool(recipe.fields.keys() & _SIZES)
        if context is not None and given and not _is_shaped(context, shape, job, model) and -1 not in said:
            said.add(-1)
            sizes = f"{context.width}x{context.height}, and the picture {job.width}x{job.height}"
            yield Complaint(recipe.origin("context_image"), f"is {sizes}", "it has the picture's shape")
        for number, region in enumerate(job.regions):
            if not _is_shaped(region.mask, shape, job, model) and number not in said:
                said.add(number)
                sizes = f"{region.mask.width}x{region.mask.height}, and the picture {job.width}x{job.height}"
                yield Complaint(
                    (*recipe.origin("regions"), number, "mask"), f"is {sizes}", "it has the picture's shape"
                )


def refuse_controls(recipe: Recipe, model: Model, jobs: Sequence[Job]) -> Iterator[Complaint]:
    """What shows only when sizes and steps are known: a picture of another shape, a network that counts at no step."""
    if _FIELD not in recipe.fields:
        return
    said: set[tuple[int, str]] = set()
    for job in jobs:
        for number, net in enumerate(job.controlnets):
            steps = job.num_inference_steps
            route = (*recipe.origin(_FIELD), number)
            if not any(net.acts_at(step, steps) for step in range(steps)) and (number, "steps") not in said:
                said.add((number, "steps"))
                message = f"from {net.start:g} to {net.end:g} there is none of the {steps} steps"
                yield Complaint(route, message, f"a step is every {1 / max(steps - 1, 1):.3g}, from 0 to 1")
            shape, what = _shape_of(recipe, job)
            if not _is_shaped(net.image, shape, job, model) and (number, "shape") not in said:
                said.add((number, "shape"))
                message = f"its image is {net.image.width}x{net.image.height}, and {what} {shape.width}x{shape.height}"
                yield Complaint((*route, "image"), message, "what holds a picture has its shape")


def _is_shaped(image: Input, shape: Input | Size, job: Job, model: Model) -> bool:
    """Whether a picture has a shape, or the one that a job has by it where no size is written.

    That is rounded, and within the model's bounds: of what is very long another one.
    """
    if is_of_shape(image, shape):
        return True
    alone = InputSet(edit=job.edit.model_copy(update={"images": (image,)})) if job.edit else InputSet(context=image)
    return isinstance(shape, Size) and size_of(alone, model) == shape


def _shape_of(recipe: Recipe, job: Job) -> tuple[Input | Size, str]:
    """What a job's pictures are of the shape of, and what that is."""
    if job.input_image is not None and job.edit is None:
        return job.input_image, "what is drawn over"
    if recipe.fields.keys() & _SIZES:
        return Size(width=job.width, height=job.height), "the size"
    if job.edit is not None:
        return job.edit.images[0], "what is edited"
    if job.context_image is not None:
        return job.context_image, "what stands beside it"
    return job.controlnets[0].image, "the first one's"


def _key(item: ControlNetFields) -> str:
    return "id" if "id" in item else "file"


def _name(item: ControlNetFields) -> str:
    return item.get("id") or item.get("file", "")


def _scale(reading: Reading, item: ControlNetFields, number: int) -> Template | float:
    scale = item.get("scale", 1.0)
    return reading.template(_FIELD, scale, number, "scale") if isinstance(scale, str) else scale


def _number(reading: Reading, written: str | float, number: int) -> float | None:
    """A scale, also one that a matrix gives as text."""
    try:
        scale = float(written)
    except ValueError:
        reading.complain(_FIELD, f"the scale {shorten(str(written))} is not a number", "", number, "scale")
        return None
    if refusal := refuse_weight(scale, SCALES):
        reading.complain(_FIELD, f"the scale {refusal[0]}", refusal[1], number, "scale")
        return None
    return scale
