"""What in a manifest is valid and was hardly meant: warnings, each with its line.

Looks at jobs that are well, and at the pictures that they make. Knows nothing of what was refused, or of what has been
rendered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from renderer.catalog import IN_CONTEXT, MODELS, MOST_TOKENS, TRAINED_TOKENS, Model, forbids_commerce
from renderer.errors import Problem
from renderer.job import Job, Lora
from renderer.manifest import choices, foreign
from renderer.manifest.complaints import Complaint
from renderer.manifest.document import Document, Route
from renderer.manifest.expand import Draft
from renderer.manifest.recipe import Recipe

_BLACK, _WHITE = 0, 255

MAX_WARNINGS = 200
"""After so many, nothing more is looked for."""

_MOST_STEPS = 100
_MANY_IMAGES = 3
"""The most that the edit models' makers name for one edit."""

_LICENCE = "read its licence before you use the pictures"
_LONG = 2 * TRAINED_TOKENS
"""Letters that a prompt has at least if it is too long: no more than two make a token, of any script."""


def warnings(
    document: Document, recipes: Iterable[Recipe], drafts: Iterable[Draft], of_files: Iterable[Complaint]
) -> tuple[Problem, ...]:
    """What is valid and was hardly meant, in the order of its lines; `of_files` is said of what goes in already."""
    doubts = Doubts(document)
    doubts.look_at_texts(recipes)
    doubts.look_at_pictures(drafts)
    doubts.warn_of(of_files)
    return tuple(sorted(doubts.warnings, key=lambda warning: (warning.line, warning.column)))


class Doubts:
    """Collects a manifest's warnings. Each is said once, at the place where its cause was written."""

    def __init__(self, document: Document) -> None:
        self.warnings: list[Problem] = []
        self._document = document
        self._looked: set[Route] = set()
        self._said: set[tuple[Route, str]] = set()

    @property
    def _enough(self) -> bool:
        return len(self.warnings) > MAX_WARNINGS

    def warn_of(self, complaints: Iterable[Complaint]) -> None:
        """What others have seen."""
        for each in complaints:
            self._warn(each.route, each.message, each.hint)

    def look_at_texts(self, recipes: Iterable[Recipe]) -> None:
        """What was written: prompts, and the values of matrices."""
        for recipe in recipes:
            if self._enough:
                return
            matrix = recipe.fields.get("matrix", {})
            for field in ("prompt", "negative_prompt"):
                text = recipe.fields.get(field)
                if isinstance(text, str):
                    filled = bool(recipe.names) and field not in recipe.plain
                    self._look_at_text(recipe.origin(field), text, matrix=filled)
            for number, region in enumerate(recipe.fields.get("regions", ())):
                route = (*recipe.origin("regions"), number, "prompt")
                self._look_at_text(route, region["prompt"], matrix=bool(recipe.names) and "regions" not in recipe.plain)
                if choices.may_have(region["prompt"]):
                    said = "has what looks like a choice, and none is drawn in a region: it is read as text"
                    self._warn(route, said, "write a name of the matrix in braces")
            for name, value in recipe.around.variables.items():
                self._look_at_text(("vars", name), value, matrix=True)
            for name, values in matrix.items():
                for position, value in enumerate(values):
                    self._look_at_text((*recipe.origin("matrix"), name, position), value, matrix=True)

    def _look_at_text(self, route: Route, text: str, *, matrix: bool) -> None:
        route = self._written(route)
        if route in self._looked:  # the defaults' are every job's
            return
        self._looked.add(route)
        if cut := self._document.cuts.get(route):
            message = 'what follows " #" is a comment, and no part of the text'
            hint = "quote the whole text, or write a space behind the # of a comment"
            warning = self._document.problem(route, message, hint)
            self.warnings.append(replace(warning, line=cut.line, column=cut.column, warning=True))
        for finding in foreign.findings(text, matrix=matrix):
            self._warn(route, finding.message, finding.hint)

    def look_at_pictures(self, drafts: Iterable[Draft]) -> None:
        """What comes of it: settings that do nothing, prompts that are too long, and pictures that are there twice."""
        first: dict[tuple[object, ...], Draft] = {}
        before: Recipe | None = None
        sets: set[tuple[Lora, ...]] = set()
        for draft in drafts:
            if self._enough:
                return
            recipe, job = draft.recipe, draft.job
            if recipe is not before:
                self._look_at_settings(draft)
                before, sets = recipe, set()
            if job.loras and job.loras not in sets:
                sets.add(job.loras)
                self._look_at_loras(draft)
            if job.controlnets:
                self._look_at_controlnets(draft)
            if job.mask_inputs:
                self._look_at_masks(draft)
            if len(job.prompt) > _LONG or len(job.negative_prompt) > _LONG:
                self._look_at_length(recipe, job)
            other = first.setdefault(tuple(vars(job).values()), draft)
            if other is not draft:
                self._doubt_twins(draft, other)

    def _look_at_lettering(self, draft: Draft) -> None:
        fields, route = draft.recipe.fields, draft.recipe.origin("lettering")
        own = route[: len(draft.recipe.route)] == draft.recipe.route  # defaults are for jobs without a text as well
        if own and draft.lettering is None and fields.get("lettering", "none") != "none":
            self._warn(route, "finds no text in quotation marks", "quote it in the prompt, or list the texts")

    def _look_at_settings(self, draft: Draft) -> None:
        recipe, job, model = draft.recipe, draft.job, draft.model
        guided = job.cfg_scale != 1
        for name, licence in _licences(model):
            if forbids_commerce(licence):
                self._warn(recipe.origin("model"), f"{name} is not for commercial use ({licence})", _LICENCE)
        if not guided and job.negative_prompt.strip():
            route = recipe.origin("negative_prompt")
            self._warn(route, "has no effect at cfg_scale 1", "raise cfg_scale, or leave it out")
        if model.editing is not None and job.edit is None:
            hint = "write images: [photo.jpg], if one is to be edited"
            if model.files:
                hint += "; if it is not made for edits, whatever its name says, give it kind: picture"
            self._warn(recipe.origin("model"), f"{model.id} is shown no picture: it draws from the text alone", hint)
        if job.edit is not None and len(job.edit.images) > _MANY_IMAGES:
            message = f"{len(job.edit.images)} pictures, and {model.id} has learned from one to {_MANY_IMAGES}"
            self._warn(recipe.origin("images"), message, "leave out what matters least, or put two into one picture")
        if job.edit is not None and len(set(job.edit.images)) < len(job.edit.images):
            self._warn(
                recipe.origin("images"), "has one picture twice, which costs as much as another", "leave one out"
            )
        if job.input_image is not None and job.inpaint_mask is None and job.denoising_strength == 1:
            self._warn(recipe.origin("strength"), "leaves nothing of the image", "write less, like 0.6")
        if job.regions and not job.riding and model.id in MODELS and not model.is_embedded:
            said = f"{model.id} has not learned regions by itself"
            self._warn(recipe.origin("regions"), said, "add a LoRA that has, like DiffSynth's EliGen")
        learned = any(each.row is None or each.row is IN_CONTEXT for each in draft.riding.found)
        if job.context_image is not None and not learned and model.id in MODELS and not model.is_embedded:
            said = f"{model.id} has not learned to look at it by itself"
            self._warn(recipe.origin("context_image"), said, f"write loras: [{IN_CONTEXT.id}]")
        self._look_at_lettering(draft)
        steps = job.num_inference_steps
        route = recipe.origin("steps" if "steps" in recipe.fields else "num_inference_steps")
        if steps > _MOST_STEPS:
            message = f"{steps} steps take long, and show little that {model.steps} do not"
            self._warn(route, message, f"write steps: {model.steps}")
        elif guided and steps < model.steps // 4 and "expect" not in recipe.fields:  # a smoke test is meant to be short
            message = f"{steps} steps are few for {model.id} with guidance"
            self._warn(
                route, message, f"write steps: {model.steps}; few steps are for distilled models, at cfg_scale 1"
            )

    def _look_at_loras(self, draft: Draft) -> None:
        """Steps, guidance and schedules that the job says and its LoRAs were not made for; LoRAs of other models."""
        recipe, job = draft.recipe, draft.job
        for position, found in enumerate(draft.riding.found):
            route = (*recipe.origin("loras"), position)
            if forbids_commerce(found.licence):
                what = draft.riding.loras[position].name
                self._warn(route, f"{what} is not for commercial use ({found.licence})", _LICENCE)
            row = found.row
            if row is None:
                continue
            if row.base != draft.model.id and draft.model.id in MODELS:
                self._warn(
                    route, f"{row.id} was made for {row.base}, and the model is {draft.model.id}", "compare both"
                )
            if not row.is_distilled:
                continue
            field = "steps" if "steps" in recipe.fields else "num_inference_steps"
            if field in recipe.fields and not row.steps <= job.num_inference_steps <= 2 * row.steps:
                message = f"{job.num_inference_steps} steps, and {row.id} was made for {row.steps}"
                self._warn(recipe.origin(field), message, f"write {field}: {row.steps}, or leave it out")
            if "cfg_scale" in recipe.fields and job.cfg_scale != row.cfg_scale:
                message = f"{row.id} was made for cfg_scale {row.cfg_scale:g}; guidance doubles the time"
                self._warn(recipe.origin("cfg_scale"), message, "leave it out")
            if job.schedule != row.schedule:
                message = f"{row.id} was made for the schedule {row.schedule}"
                self._warn(recipe.origin("schedule"), message, "leave it out, or write schedule: auto")

    def _look_at_controlnets(self, draft: Draft) -> None:
        """Those of other models, and of licences that forbid commercial use."""
        from renderer.weights.adapters.whereabouts import licence_of  # noqa: PLC0415  # hardly any has one

        for position, net in enumerate(draft.job.controlnets):
            route, row = (*draft.recipe.origin("controlnets"), position), MODELS.get(net.source)
            if forbids_commerce(licence := licence_of(net.source)):
                self._warn(route, f"{net.name} is not for commercial use ({licence})", _LICENCE)
            if row is not None and row.base != draft.model.id and draft.model.id in MODELS:
                said = f"{row.id} was made for {row.base}, and the model is {draft.model.id}"
                self._warn(route, said, "compare both")

    def _look_at_masks(self, draft: Draft) -> None:
        """Masks of one colour: of what is nowhere white nothing comes."""
        from renderer.outputs.input_files import is_all  # noqa: PLC0415  # most manifests have none

        recipe, job = draft.recipe, draft.job
        named = {file.sha256: Path(file.path).name for file in draft.inputs}
        masks = [(recipe.origin("mask"), job.inpaint_mask, "nothing of the image is drawn anew")]
        masks += [
            ((*recipe.origin("regions"), number, "mask"), region.mask, "its prompt is seen nowhere")
            for number, region in enumerate(job.regions)
        ]
        masks += [
            ((*recipe.origin("controlnets"), number, "mask"), net.mask, "nothing of its image is a gap")
            for number, net in enumerate(job.controlnets)
        ]
        for route, mask, effect in masks:
            if mask is not None and is_all(mask, _BLACK):
                self._warn(route, f"{named[mask.sha256]} is black all over: {effect}", "paint white where it counts")
        whole = job.edit is None and job.denoising_strength == 1
        if whole and job.inpaint_mask is not None and is_all(job.inpaint_mask, _WHITE):
            said = f"{named[job.inpaint_mask.sha256]} is white all over: nothing is left of the image"
            self._warn(recipe.origin("mask"), said, "leave it out, and write a strength, like 0.6")

    def _look_at_length(self, recipe: Recipe, job: Job) -> None:
        texts = {"prompt": job.prompt} | ({"negative_prompt": job.negative_prompt} if job.cfg_scale != 1 else {})
        for field, text in texts.items():
            tokens = _fewest_tokens(text)
            if tokens > MOST_TOKENS:
                message = f"is more than {MOST_TOKENS:,} tokens long, and what is beyond them is cut off"
                self._warn(recipe.origin(field), message, "shorten it")
            elif tokens > TRAINED_TOKENS:
                message = f"is more than {TRAINED_TOKENS} tokens long, and the model has learned from no more"
                self._warn(recipe.origin(field), message, "shorten it, and put what matters first")

    def _doubt_twins(self, draft: Draft, first: Draft) -> None:
        recipe, other = draft.recipe, first.recipe
        line = self._document.mark(other.route).line
        message = f'"{draft.id}" is the same picture as "{first.id}" of line {line}: all of its settings are'
        if (key := (recipe.route, f"twin of {other.route}")) not in self._said:
            self._said.add(key)
            self._warn(recipe.route, message, "give it another seed, or remove it")

    def _warn(self, route: Route, message: str, hint: str) -> None:
        route = self._written(route)
        if (route, message) in self._said or self._enough:
            return
        self._said.add((route, message))
        if len(self.warnings) == MAX_WARNINGS:
            message, hint = f"after {MAX_WARNINGS} warnings, nothing more was looked for", ""
        self.warnings.append(replace(self._document.problem(route, message, hint), warning=True))

    def _written(self, route: Route) -> Route:
        """The route, or where a job that is nothing but its prompt was written."""
        while len(route) > 2 and route not in self._document.values:  # noqa: PLR2004
            route = route[:-1]
        return route


def _licences(model: Model) -> list[tuple[str, str]]:
    """Those of a model and of what was fused into it, by names."""
    found = [(model.id, model.licence)]
    if model.fused:
        from renderer.weights.adapters.whereabouts import licence_of  # noqa: PLC0415  # hardly any has one

        found += [(each.source, licence_of(each.source)) for each in model.fused]
    return found


def _fewest_tokens(text: str) -> int:
    """How many tokens a prompt is at least, without its tokenizer: about, and rather too few.

    Qwen's vocabulary takes four to five Latin letters to a token, and one to two Chinese characters.
    """
    narrow = sum(letter.isascii() for letter in text)
    return narrow // 5 + (len(text) - narrow) // 2
