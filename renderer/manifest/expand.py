"""One job's fields to its pictures: defaults, sizes, seeds and the matrix's combinations, with nothing left open.

How many pictures a job makes is known by arithmetic before any is made. Complaints name the route of the field that
causes them, which for a default is not the job's own. Knows nothing of YAML, files, lines or output names.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from renderer import catalog, families
from renderer.catalog import SIZE_STEP, Model
from renderer.errors import ModelError, shorten
from renderer.job import (
    EDITED_SIZE_STEP,
    AskedPrecision,
    ControlNet,
    Embed,
    Expect,
    Format,
    InputFile,
    Job,
    Keep,
    Lettering,
    Precision,
    Size,
    Weights,
    derive_seed,
)
from renderer.job.precisions import AUTO_PRECISION, DEFAULT_PRECISION
from renderer.manifest import naming, pictures_in
from renderer.manifest.complaints import Complaint
from renderer.manifest.controlnets import ControlNetFinder, refuse_controls, refuse_regions
from renderer.manifest.fields import ExpectFields, JobFields
from renderer.manifest.lettering import JobLettering
from renderer.manifest.looked_at import WantedFile
from renderer.manifest.loras import NO_LORAS, LoraFinder, LoraSet
from renderer.manifest.pictures_in import InputFinder, InputSet
from renderer.manifest.reading import Combination, Reading
from renderer.manifest.recipe import Recipe, takes_in
from renderer.manifest.shelf import Shelf
from renderer.manifest.wordings import AskedFor, Wordings

DEFAULT_MODEL = catalog.QWEN_IMAGE.id

PROOF_STEPS = 8


@dataclass(frozen=True, slots=True)
class Draft:
    """A picture that has everything but its place among the others: its index and its output name."""

    recipe: Recipe
    model: Model
    id: str
    job_id: str
    job: Job
    matrix: Combination
    inputs: tuple[InputFile, ...]
    riding: LoraSet
    lettering: Lettering | None
    auto: bool = False
    """Whether its precision is still to be chosen: the job has the usual one until then."""


# ---- expansion -------------------------------------------------------------------------------------------------------


class Expander:
    """Expands jobs; remembers the models, LoRAs and pictures they name. `named` stand in braces in `output`.

    `model` and `precision` take the place of what jobs say; with a `shelf`, its models are all there are. `finder`
    finds what goes in.
    """

    def __init__(
        self,
        named: Collection[str],
        finder: InputFinder,
        model: str | None = None,
        precision: AskedPrecision | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        self._model = model
        self._precision = precision
        self._shelf = shelf
        self._named = frozenset(named)
        self._loras = LoraFinder(catalogue_only=shelf is not None)
        self._pictures_in = finder
        self._controlnets = ControlNetFinder(catalogue_only=shelf is not None)
        self._models: dict[str, Model | ModelError] = {}

    def expand(self, recipe: Recipe) -> tuple[list[Draft], list[Complaint]]:
        """All pictures of a job in the order they were written, or none and what is wrong with it."""
        reading, model, sizes, combinations, wordings = self._begin(recipe)
        taken_in = self._pictures_in.sets(reading, combinations, model)
        sets = self._loras.sets(reading, model, [named for named, _ in taken_in]) if model else []
        controls = self._controlnets.sets(reading, model, taken_in) if model else []
        lettering = JobLettering(reading)
        if self._shelf is not None and recipe.fields.get("precision") == AUTO_PRECISION:
            message = "is chosen when a manifest is planned, and what is sent to a server is not"
            reading.complaints.append(
                Complaint(recipe.origin("precision"), f"auto {message}", "leave it out, or name one")
            )
        if reading.complaints or model is None:
            return [], reading.complaints
        chosen = [
            (named, loras, inputs, nets) for (named, inputs), loras, nets in zip(taken_in, sets, controls, strict=True)
        ]
        drafts = list(self._draft(recipe, model, sizes, chosen, wordings, lettering))
        complaints = [*_refuse_drafts(recipe, model, drafts)]
        return ([] if complaints else drafts), complaints

    def look_ahead(self, recipes: Sequence[Recipe], allowed: int) -> Recipe | None:
        """Look at all that goes into the pictures of all jobs, together: `expand` finds it known.

        Where these pictures are more than are allowed, nothing is looked at, and the job that goes beyond is told.
        """
        wanted: list[WantedFile] = []
        for recipe in recipes:
            if takes_in(recipe.fields):
                reading, model, _, combinations, _ = self._begin(recipe)
                found = self._pictures_in.wanted(reading, combinations, model) if model is not None else []
                allowed -= len(found) * recipe.pictures_of_each
                if allowed < 0:
                    return recipe
                wanted += [each for taken in found for each in taken]
        self._pictures_in.looked_at.look_at_all(wanted)
        return None

    def _begin(self, recipe: Recipe) -> tuple[Reading, Model | None, Sequence[Size], Sequence[Combination], Wordings]:
        """A job read as far as no file is looked at."""
        reading = Reading(recipe)
        model = self._find_model(recipe, reading.complaints)
        sizes = reading.sizes(model) if model and not _as_the_image(recipe) else ()
        combinations = reading.combinations()
        wordings = Wordings(reading, self._named)
        reading.check_seeds()
        reading.check_lengths(wordings.prompts, combinations)
        return reading, model, sizes, combinations, wordings

    def _find_model(self, recipe: Recipe, complaints: list[Complaint]) -> Model | None:
        reference = self._model or recipe.fields.get("model") or (self._shelf.first if self._shelf else DEFAULT_MODEL)
        if self._shelf is not None:
            if reference not in self._shelf.models:
                message = f'there is no model "{shorten(reference)}" here'
                complaints.append(Complaint(recipe.origin("model"), message, f"known: {', '.join(self._shelf.models)}"))
                return None
            reference = self._shelf.models[reference]
        if reference not in self._models:
            try:
                self._models[reference] = find_model(reference)
            except ModelError as error:
                self._models[reference] = error
        found = self._models[reference]
        if isinstance(found, Model):
            return found
        complaints.append(Complaint(recipe.origin("model"), found.message, found.hint))
        return None

    def _draft(
        self,
        recipe: Recipe,
        model: Model,
        sizes: Sequence[Size],
        chosen: Sequence[tuple[Combination, LoraSet, InputSet, tuple[ControlNet, ...]]],
        wordings: Wordings,
        lettering: JobLettering,
    ) -> Iterator[Draft]:
        fields = recipe.fields
        precision = self._precision or fields.get("precision")
        is_auto = precision == AUTO_PRECISION
        usual = _usual_precision(model, self._shelf)
        common = {"model": model.reference, "precision": usual if precision is None or is_auto else precision}
        asked_of_all = wordings.ask([combination for combination, *_ in chosen])
        for (_, riding, inputs, nets), asked_of_each in zip(chosen, asked_of_all, strict=True):
            settings = {**common, **riding.settings(fields, model), **inputs.settings(fields), "controlnets": nets}
            several = len(asked_of_each) > 1
            for size in sizes or [pictures_in.size_of(inputs, model)]:
                for place, asked in enumerate(asked_of_each):
                    seed = _seed(fields, asked, size, place)
                    yield Draft(
                        recipe=recipe,
                        model=model,
                        id=asked.stem + (f"-{size}" if len(sizes) > 1 else "") + (f"-s{seed}" if several else ""),
                        job_id=asked.job_id,
                        job=Job.of(
                            **settings,
                            prompt=asked.prompt,
                            negative_prompt=asked.negative_prompt,
                            width=size.width,
                            height=size.height,
                            seed=seed,
                        ),
                        matrix=asked.values,
                        inputs=inputs.files,
                        riding=riding,
                        lettering=lettering.of(asked.prompt, asked.values, seed),
                        auto=is_auto,
                    )


def usual_weights(shelf: Shelf) -> Weights:
    """What a job is rendered with that names neither a model nor a precision. Raises `ModelError`."""
    model = find_model(shelf.models[shelf.first])
    return Weights(model.reference, _usual_precision(model, shelf))


def usual_job(weights: Weights) -> Job:
    """The picture that a model's own settings make of a long prompt, for what is shared out before any is asked for."""
    model = find_model(weights.model)
    inputs = pictures_in.stand_in(model)
    size = pictures_in.size_of(inputs, model)
    return Job(
        **NO_LORAS.settings({}, model),
        **inputs.settings({}),
        model=weights.model,
        precision=weights.precision,
        prompt="word " * 100,
        negative_prompt="",
        width=size.width,
        height=size.height,
        seed=0,
    )


def _usual_precision(model: Model, shelf: Shelf | None) -> Precision:
    """What a job is rendered at that does not say: on a shelf, the demo model as its weights are."""
    return "bf16" if shelf is not None and model.is_embedded else DEFAULT_PRECISION


def _as_the_image(recipe: Recipe) -> bool:
    """Whether pictures are to be of the shape of what goes in."""
    return takes_in(recipe.fields) and not recipe.fields.keys() & {"size", "sizes", "width"}


def find_model(reference: str) -> Model:
    """The model that a manifest or the command line names. Raises `ModelError`, also for one that cannot render."""
    model = catalog.find(reference)
    if model.unfit:
        able = ", ".join(each.id for each in catalog.MODELS.values() if not each.unfit)
        raise ModelError(model.unfit, hint=f"these render: {able}")
    return model


def read_expect(fields: ExpectFields | None) -> Expect | None:
    """The limits of a job, or None."""
    if not fields:
        return None
    return Expect(
        seconds=fields.get("seconds"),
        vram_bytes=fields.get("vram"),
        ram_bytes=fields.get("ram"),
        lettering=fields.get("lettering"),
    )


def read_keep(fields: JobFields) -> Keep:
    """How the pictures of a job are kept."""
    return _keep(fields.get("format", _USUAL.format), fields.get("embed", _USUAL.embed))


_USUAL = Keep()


@cache
def _keep(kind: Format, embed: Embed) -> Keep:
    """One value for all jobs that keep their pictures alike."""
    return Keep(format=kind, embed=embed)


def rehearse(job: Job) -> Job:
    """The same job for a dress rehearsal: a demo model, its size, few steps; the seed and the prompt stay."""
    model = catalog.DEMO if job.edit is None else catalog.DEMO_EDIT
    side = model.proof_side or model.min_side
    stretch = math.sqrt(job.width / job.height)
    step = SIZE_STEP if job.edit is None else EDITED_SIZE_STEP

    def fit(pixels: float) -> int:
        return min(max(round(pixels / step) * step, model.min_side), model.max_side)

    proof: dict[str, Any] = {
        "model": model.id,
        "precision": "bf16",
        "width": fit(side * stretch),
        "height": fit(side / stretch),
        "num_inference_steps": min(job.num_inference_steps, PROOF_STEPS),
        "loras": (),
        "controlnets": (),
        "schedule": "qwen-image",
    }
    if job.edit is not None and model.editing is not None:
        images = job.edit.images[: model.editing.most_images]
        proof["edit"] = pictures_in.edit_of(images, model.editing)
    # No demo model takes anything apart: it draws what the prompt says.
    return job.model_copy(update={**proof, "layer_input_image": None, "layer_num": None})


def _seed(fields: JobFields, asked: AskedFor, size: Size, place: int) -> int:
    """The seed of a combination's picture at a place."""
    if "seeds" in fields:
        return fields["seeds"][place]
    first = fields["seed"] if "seed" in fields else _derived(asked.prompt, asked.negative_prompt, size)
    return first + place


@lru_cache(maxsize=64)
def _derived(prompt: str, negative_prompt: str, size: Size) -> int:
    """A job of a thousand seeds asks for the first of them a thousand times."""
    return derive_seed(prompt, negative_prompt, size)


def _refuse_drafts(recipe: Recipe, model: Model, drafts: Sequence[Draft]) -> Iterator[Complaint]:
    """What shows only when a matrix's values have come into their places."""
    for draft in drafts:
        message, hint = naming.refuse_id(draft.id)
        if message:
            yield Complaint(recipe.origin("id"), message, hint)
            return
    if any(not draft.job.prompt.strip() for draft in drafts):
        yield Complaint(recipe.origin("prompt"), "is empty for one of the matrix's combinations")
    for number in range(len(recipe.fields.get("regions", ()))):
        asked = (region.prompt for draft in drafts for region in draft.job.regions[number : number + 1])
        if any(not prompt.strip() for prompt in asked):
            route = (*recipe.origin("regions"), number, "prompt")
            yield Complaint(route, "is empty for one of the matrix's combinations")
    jobs = [draft.job for draft in drafts]
    yield from refuse_controls(recipe, model, jobs)
    yield from refuse_regions(recipe, model, jobs)
    yield from _refuse_marks(recipe, model, jobs)


def _refuse_marks(recipe: Recipe, model: Model, jobs: Sequence[Job]) -> Iterator[Complaint]:
    """What stands in a prompt and would be taken for no text: it ends the message, or is a picture's place."""
    marks = families.find(model.family).marks
    asked = [
        (recipe.origin("prompt"), [job.prompt for job in jobs]),
        (recipe.origin("negative_prompt"), [job.negative_prompt for job in jobs]),
    ]
    for number in range(len(recipe.fields.get("regions", ()))):
        route = (*recipe.origin("regions"), number, "prompt")
        asked.append((route, [job.regions[number].prompt for job in jobs]))
    for route, prompts in asked:
        found = (mark for prompt in prompts if "<" in prompt for mark in marks if mark in prompt)
        if said := next(found, ""):
            hint = "leave it out: some language models write such marks behind what they say"
            yield Complaint(route, f"has {said} in it, which is a mark of the model's own, and no text", hint)
