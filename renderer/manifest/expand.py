"""One job's fields to its pictures: defaults, sizes, seeds and the matrix's combinations, with nothing left open.

How many pictures a job makes is known by arithmetic before any is made. Complaints name the route of the field that
causes them, which for a default is not the job's own. Knows nothing of YAML, files, lines or output names.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, cast

from renderer import catalog
from renderer.catalog import SIZE_STEP, Model
from renderer.errors import ModelError, shorten
from renderer.job import MAX_SEED, Embed, Expect, Format, Job, Keep, Precision, Size, derive_seed
from renderer.manifest import naming
from renderer.manifest.fields import EXCLUDING, MAX_PROMPT_LENGTH, Complaint, ExpectFields, JobFields, nearest
from renderer.manifest.naming import Template, TemplateError
from renderer.manifest.yaml_reader import Route

Combination = Mapping[str, str]

DEFAULT_MODEL = catalog.QWEN_IMAGE.id
DEFAULT_PRECISION: Precision = "fp8"
DEFAULT_SIZE = "1:1"

GROUPS = (
    frozenset({"size", "sizes", "width", "height"}),
    frozenset({"seed", "seeds", "count"}),
    frozenset({"steps", "num_inference_steps"}),
)
"""Fields that belong together: a job that gives one of a group takes none of it from the defaults."""

PROOF_STEPS = 8


@dataclass(frozen=True, slots=True)
class Draft:
    """A picture that has everything but its place among the others: its index and its output name."""

    id: str
    job_id: str
    job: Job
    matrix: Combination


# ---- defaults --------------------------------------------------------------------------------------------------------


def refuse_pairs(given: Mapping[str, Any], route: Route) -> list[Complaint]:
    """Fields of one mapping that exclude each other, or lack their other half. Kinds of values do not matter here."""
    order = list(given)
    complaints = {}
    for one, other in EXCLUDING:
        if one in given and other in given:
            first, second = sorted((one, other), key=order.index)
            message = f"cannot stand beside {first}, which says the same"
            complaints[second] = Complaint((*route, second), message, "keep one of them", at_key=True)
    for one, other in (("width", "height"), ("height", "width")):
        if one in given and other not in given:
            complaints.setdefault(one, Complaint((*route, one), f"needs {other} beside it", "or use size", at_key=True))
    return list(complaints.values())


@dataclass(frozen=True)
class Recipe:
    """A job's fields, the defaults filled in, and where each was written."""

    number: str
    route: Route
    fields: JobFields
    origins: Mapping[str, Route]

    def origin(self, field: str) -> Route:
        """Where `field` was written; the job itself for one that was not."""
        return self.origins.get(field, self.route)

    @cached_property
    def combinations_count(self) -> int:
        """How many combinations the matrix makes at most: exclusions are not looked at."""
        axes = self.fields.get("matrix", {}).values()
        return math.prod(map(len, axes)) + len(self.fields.get("include", ()))

    @property
    def pictures_count(self) -> int:
        """How many pictures the job makes at most: what the cap looks at, before anything is expanded."""
        sizes = len(self.fields.get("sizes", (DEFAULT_SIZE,)))
        seeds = self.fields.get("count") or len(self.fields.get("seeds", (0,)))
        return self.combinations_count * sizes * seeds


def merge(number: str, job: JobFields, route: Route, defaults: JobFields, defaults_route: Route) -> Recipe:
    """A job with what it does not say taken from the defaults.

    A job's own matrix also drops the defaults' `include` and `exclude`, which speak of another matrix.
    """
    dropped = set().union(*(group for group in GROUPS if group & job.keys()))
    if "matrix" in job:
        dropped |= {"include", "exclude"}
    taken = {field: value for field, value in defaults.items() if field not in job and field not in dropped}
    origins = {field: (*defaults_route, field) for field in taken} | {field: (*route, field) for field in job}
    return Recipe(number, route, cast("JobFields", taken | job), origins)


# ---- expansion -------------------------------------------------------------------------------------------------------


class Expander:
    """Expands jobs; remembers the models they name. `model` and `precision` take the place of what jobs say."""

    def __init__(self, model: str | None = None, precision: Precision | None = None) -> None:
        self._model = model
        self._precision = precision
        self._models: dict[str, Model | ModelError] = {}

    def expand(self, recipe: Recipe) -> tuple[list[Draft], list[Complaint]]:
        """All pictures of a job in the order they were written, or none and what is wrong with it."""
        reading = _Reading(recipe)
        model = self._find_model(recipe, reading.complaints)
        sizes = reading.sizes(model) if model else ()
        combinations = reading.combinations()
        templates = reading.templates()
        reading.check_seeds()
        reading.check_lengths(templates, combinations)
        if reading.complaints or model is None:
            return [], reading.complaints
        drafts = list(self._draft(recipe, model, sizes, combinations, templates))
        complaints = [*_refuse_drafts(recipe, drafts)]
        return ([] if complaints else drafts), complaints

    def _find_model(self, recipe: Recipe, complaints: list[Complaint]) -> Model | None:
        reference = self._model or recipe.fields.get("model", DEFAULT_MODEL)
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
        combinations: Sequence[Combination],
        templates: Mapping[str, Template],
    ) -> Iterator[Draft]:
        fields = recipe.fields
        common = {
            "model": model.reference,
            "precision": self._precision or fields.get("precision", DEFAULT_PRECISION),
            "cfg_scale": fields.get("cfg_scale", model.cfg_scale),
            "num_inference_steps": fields.get("num_inference_steps", fields.get("steps", model.steps)),
        }
        varying = [name for name in fields.get("matrix", ()) if len({each[name] for each in combinations}) > 1]
        unnamed = [name for name in varying if name not in templates["id"].fields]
        for combination in combinations:
            slugs = {name: naming.slug(value) for name, value in combination.items()}
            job_id = unicodedata.normalize("NFC", templates["id"].fill(slugs))
            stem = "-".join((job_id, *(slugs[name] for name in unnamed)))
            prompt = templates["prompt"].fill(combination)
            negative_prompt = templates["negative_prompt"].fill(combination)
            for size in sizes:
                seeds = _seeds(fields, prompt, negative_prompt, size)
                for seed in seeds:
                    yield Draft(
                        id=stem + (f"-{size}" if len(sizes) > 1 else "") + (f"-s{seed}" if len(seeds) > 1 else ""),
                        job_id=job_id,
                        job=Job.of(
                            **common,
                            prompt=prompt,
                            negative_prompt=negative_prompt,
                            width=size.width,
                            height=size.height,
                            seed=seed,
                        ),
                        matrix=combination,
                    )


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
    return Expect(seconds=fields.get("seconds"), vram_bytes=fields.get("vram"), ram_bytes=fields.get("ram"))


def read_keep(fields: JobFields) -> Keep:
    """How the pictures of a job are kept."""
    return _keep(fields.get("format", _USUAL.format), fields.get("embed", _USUAL.embed))


_USUAL = Keep()


@cache
def _keep(kind: Format, embed: Embed) -> Keep:
    """One value for all jobs that keep their pictures alike."""
    return Keep(format=kind, embed=embed)


def rehearse(job: Job) -> Job:
    """The same job for a dress rehearsal: the demo model, its size, few steps; the seed and the prompt stay."""
    model = catalog.DEMO
    side = model.proof_side or model.min_side
    stretch = math.sqrt(job.width / job.height)

    def fit(pixels: float) -> int:
        return min(max(round(pixels / SIZE_STEP) * SIZE_STEP, model.min_side), model.max_side)

    proof: dict[str, Any] = {
        "model": model.id,
        "precision": "bf16",
        "width": fit(side * stretch),
        "height": fit(side / stretch),
        "num_inference_steps": min(job.num_inference_steps, PROOF_STEPS),
    }
    return job.model_copy(update=proof)


def _seeds(fields: JobFields, prompt: str, negative_prompt: str, size: Size) -> Sequence[int]:
    if "seeds" in fields:
        return fields["seeds"]
    first = fields["seed"] if "seed" in fields else derive_seed(prompt, negative_prompt, size)
    return range(first, first + fields.get("count", 1))


def _refuse_drafts(recipe: Recipe, drafts: Sequence[Draft]) -> Iterator[Complaint]:
    """What shows only when a matrix's values have come into their places."""
    for draft in drafts:
        message, hint = naming.refuse_id(draft.id)
        if message:
            yield Complaint(recipe.origin("id"), message, hint)
            return
    if any(not draft.job.prompt.strip() for draft in drafts):
        yield Complaint(recipe.origin("prompt"), "is empty for one of the matrix's combinations")


# ---- reading one job -------------------------------------------------------------------------------------------------


class _Reading:
    """What one job's fields mean, with the complaints that come up on the way."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.fields = recipe.fields
        self.complaints: list[Complaint] = []

    def complain(self, field: str, message: str, hint: str = "", *rest: str | int, at_key: bool = False) -> None:
        self.complaints.append(Complaint((*self.recipe.origin(field), *rest), message, hint, at_key))

    # -- sizes

    def sizes(self, model: Model) -> Sequence[Size]:
        """The job's sizes as `model` understands them."""
        if "width" in self.fields:
            wanted: list[tuple[str | Size, tuple[str | int, ...]]] = [
                (Size(width=self.fields["width"], height=self.fields["height"]), ("width",))
            ]
        elif "sizes" in self.fields:
            wanted = [(text, ("sizes", position)) for position, text in enumerate(self.fields["sizes"])]
        else:
            wanted = [(self.fields.get("size", DEFAULT_SIZE), ("size",))]
        sizes: list[Size] = []
        for text, (field, *rest) in wanted:
            size = text if isinstance(text, Size) else self._read_size(text, model, str(field), *rest)
            if size is None or self._refuse_size(size, model, str(field), *rest):
                continue
            if size in sizes:
                self.complain(str(field), f"{size} is there twice", "keep one", *rest)
            sizes.append(size)
        return sizes

    def _read_size(self, text: str, model: Model, field: str, *rest: str | int) -> Size | None:
        if ":" in text:
            if text not in model.ratios:
                self.complain(field, f"{text} is not a ratio of {model.id}", f"known: {', '.join(model.ratios)}", *rest)
            return model.ratios.get(text)
        width, height = text.split("x")
        return Size(width=int(width), height=int(height))

    def _refuse_size(self, size: Size, model: Model, field: str, *rest: str | int) -> bool:
        refusal = model.refusal(size)
        if refusal:
            near = " and ".join(str(fitting) for fitting in model.nearest(size))
            self.complain(field, refusal, f"nearest: {near}", *rest)
        return bool(refusal)

    # -- seeds

    def check_seeds(self) -> None:
        seen: set[int] = set()
        for position, seed in enumerate(self.fields.get("seeds", ())):
            if seed in seen:
                self.complain("seeds", f"{seed} is there twice", "keep one", position)
            seen.add(seed)
        if self.fields.get("seed", 0) + self.fields.get("count", 1) - 1 > MAX_SEED:
            self.complain("count", "the last seed would be too large", f"allowed: 0 to {MAX_SEED:,}")

    # -- the matrix

    def combinations(self) -> Sequence[Combination]:
        """The matrix's combinations in written order; a single empty one where there is no matrix."""
        matrix = self.fields.get("matrix")
        if matrix is None:
            for field in ("include", "exclude"):
                if field in self.fields:
                    self.complain(field, "needs a matrix", at_key=True)
            return [{}]
        for name, values in matrix.items():
            seen: set[str] = set()
            for position, value in enumerate(values):
                if value in seen:
                    self.complain("matrix", f"{shorten(value)} is there twice", "keep one", name, position)
                seen.add(value)
        product = [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())]
        kept = self._exclude(product)
        combinations = self._include(kept)
        if not combinations and not self.complaints:
            self.complain("matrix", "makes no combination: all are excluded")
        return combinations

    def _exclude(self, product: list[dict[str, str]]) -> list[dict[str, str]]:
        """What no exclusion matches. Exclusions of the same names are looked up at once: there may be many."""
        by_names: dict[tuple[str, ...], dict[tuple[str, ...], list[int]]] = {}
        for position, pattern in enumerate(self.fields.get("exclude", ())):
            if self._refuse_names("exclude", pattern, position):
                continue
            ordered = tuple(sorted(pattern))
            values = tuple(pattern[name] for name in ordered)
            by_names.setdefault(ordered, {}).setdefault(values, []).append(position)
        kept, used = [], set()
        for combination in product:
            matching = [
                position
                for ordered, patterns in by_names.items()
                for position in patterns.get(tuple(combination[name] for name in ordered), ())
            ]
            used.update(matching)
            if not matching:
                kept.append(combination)
        for patterns in by_names.values():
            for position in itertools.chain.from_iterable(patterns.values()):
                if position not in used:
                    self.complain("exclude", "excludes nothing", "values are compared as written", position)
        return kept

    def _include(self, kept: list[dict[str, str]]) -> list[dict[str, str]]:
        matrix = self.fields.get("matrix", {})
        seen = {tuple(combination.values()) for combination in kept}
        combinations = list(kept)
        for position, given in enumerate(self.fields.get("include", ())):
            if self._refuse_names("include", given, position):
                continue
            missing = [name for name in matrix if name not in given]
            if missing:
                self.complain("include", f"lacks {', '.join(missing)}", "give every name of the matrix", position)
                continue
            combination = {name: given[name] for name in matrix}
            if tuple(combination.values()) in seen:
                self.complain("include", "this combination is there already", "remove it", position)
            seen.add(tuple(combination.values()))
            combinations.append(combination)
        return combinations

    def _refuse_names(self, field: str, given: Mapping[str, str], position: int) -> bool:
        matrix = self.fields.get("matrix", {})
        unknown = [name for name in given if name not in matrix]
        for name in unknown:
            self.complain(
                field, f"{name} is not a name of the matrix", nearest(name, matrix), position, name, at_key=True
            )
        return bool(unknown)

    # -- templates

    def templates(self) -> Mapping[str, Template]:
        """The id and both prompts as templates; without a matrix, braces in them are just braces."""
        if "prompt" not in self.fields:
            self.complaints.append(Complaint((*self.recipe.route, "prompt"), "is missing", "every job needs one"))
        return {
            "id": self._template("id", self.fields.get("id", self.recipe.number)),
            "prompt": self._template("prompt", self.fields.get("prompt", "")),
            "negative_prompt": self._template("negative_prompt", self.fields.get("negative_prompt", "")),
        }

    def _template(self, field: str, text: str) -> Template:
        matrix = self.fields.get("matrix")
        if matrix is None:
            return naming.literal(text)
        try:
            template = naming.parse(text)
        except TemplateError as error:
            self.complain(field, error.message, error.hint)
            return naming.literal(text)
        unknown = [name for name in template.fields if name not in matrix]
        for name in unknown:
            hint = f"{nearest(name, matrix)}; {{{{ is a brace"
            self.complain(field, f"{{{shorten(name)}}} is not a name of the matrix", hint)
        return naming.literal(text) if unknown else template

    def check_lengths(self, templates: Mapping[str, Template], combinations: Sequence[Combination]) -> None:
        """Refuse prompts that would be too long before they are made: two short templates can make gigabytes."""
        longest = {
            name: max((len(each[name]) for each in combinations), default=0) for name in self.fields.get("matrix", ())
        }
        for field in ("prompt", "negative_prompt"):
            length = templates[field].measure(longest)
            if length > MAX_PROMPT_LENGTH:
                hint = f"at most {MAX_PROMPT_LENGTH:,} characters"
                self.complain(field, f"would be {length:,} characters with the matrix's longest values", hint)
