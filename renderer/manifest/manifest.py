"""A manifest: YAML or JSON in, pictures out, or all of its problems at once, each with its line.

The way through: bytes ▶ `yaml_reader` ▶ plain values with marks ▶ `fields` ▶ typed fields ▶ `expand` ▶ drafts ▶ output
names ▶ pictures. Head, defaults and each job are checked apart, so that what is wrong in one hides nothing in another.
Knows nothing of output folders, engines or what has been rendered.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pydantic import TypeAdapter

from renderer.errors import ManifestError, ModelError, Problem, UsageError, shorten
from renderer.job import Picture, Place, Precision, canonical
from renderer.manifest import expand, naming, source, yaml_reader
from renderer.manifest.doubts import Doubts
from renderer.manifest.expand import Draft, Expander, Recipe
from renderer.manifest.fields import (
    MAX_PICTURES,
    OUTPUT_FIELDS,
    Checker,
    Complaint,
    HeadFields,
    JobFields,
    ManifestFields,
    nearest,
)
from renderer.manifest.naming import Template, TemplateError
from renderer.manifest.source import Source
from renderer.manifest.yaml_reader import MAX_PROBLEMS, TOO_MANY, Document, Route

DEFAULT_OUTPUT = "{id}"
PROOF_SUFFIX = "-proof"


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line puts in the place of every job's own; `proof` makes a dress rehearsal of the whole."""

    model: str | None = None
    precision: Precision | None = None
    proof: bool = False


NO_OVERRIDES = Overrides()


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest, fully resolved.

    `file` is its path as people see it: relative to the working folder when inside it, else just the file's name.
    `name` is its folder under `outputs/`. Pictures stand in written order; ids and output names are unique. `warnings`
    are what is valid and was hardly meant, in the order of their lines. `path` is its file, None where it is from
    nowhere that stays; `proof` says that it is a rehearsal.
    """

    file: str
    name: str
    pictures: tuple[Picture, ...]
    warnings: tuple[Problem, ...] = ()
    path: Path | None = None
    proof: bool = False


def load(path: Path, overrides: Overrides = NO_OVERRIDES) -> Manifest:
    """The manifest in the file at `path`, or from standard input where that is `-`.

    Raises `ManifestError` with all problems of the file, `UnreadableError` when there is no file to read, and
    `UsageError` when `overrides` name a model that does not exist.
    """
    manifest = parse(source.read(path), overrides)
    return replace(manifest, path=path if path.is_file() else None, proof=overrides.proof)


def parse(given: Source, overrides: Overrides = NO_OVERRIDES) -> Manifest:
    """The manifest that these bytes are. Raises as `load` does."""
    if overrides.model is not None:
        try:
            expand.find_model(overrides.model)
        except ModelError as error:
            raise UsageError(error.message, hint=error.hint) from error
    with _without_collecting():
        return _Loading(yaml_reader.read(given.data, given.file), overrides).manifest(given.stem)


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema of manifests, for editors. It allows a little more than `load` does, and never less."""
    schema = TypeAdapter(ManifestFields).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Render manifest"}


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """Keep Python's collector of circles away while values are made that stay: it would look at all, and find none."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


# ---- values to pictures ----------------------------------------------------------------------------------------------


@cache
def _head_checker() -> Checker[HeadFields]:
    return Checker(HeadFields, known=ManifestFields.__annotations__, elsewhere=JobFields.__annotations__)


@cache
def _job_checker() -> Checker[JobFields]:
    return Checker(JobFields, elsewhere=HeadFields.__annotations__)


class Made(NamedTuple):
    """A draft and the job it was made from."""

    recipe: Recipe
    draft: Draft


class _Loading:
    """One manifest on its way from a document to pictures, with the problems that come up."""

    def __init__(self, document: Document, overrides: Overrides) -> None:
        self.document = document
        self.overrides = overrides
        self.problems: list[Problem] = list(document.problems)
        self.said: set[tuple[Route, str]] = set()
        self.plain: set[int] = set()

    def manifest(self, stem: str) -> Manifest:
        """The manifest, whose name is the file's stem if it gives none. Raises `ManifestError`."""
        if not self.document.complete:
            self.fail()
        top = self.document.value
        if not isinstance(top, dict):
            self.complain([Complaint((), "a manifest is a mapping", _hint_at_top(top))])
            self.fail()
        head = self.check_head(top)
        name = self.check_name(head.get("name"), stem)
        recipes = self.read_recipes(top)
        drafts: list[Made] = []
        if self.check_count(recipes, head.get("max_pictures", MAX_PICTURES)):
            drafts = self.expand(recipes)
        # Equal ids would give equal output names; said once is enough.
        unique = self.check_unique("id", ((made.recipe, made.draft.id) for made in drafts))
        outputs = self.name_outputs(
            head.get("output", DEFAULT_OUTPUT), drafts if unique else [], self.matrix_names(top)
        )
        if self.problems:
            self.fail()
        return Manifest(self.document.file, name, tuple(self.pictures(drafts, outputs)), self.doubt(recipes, drafts))

    def doubt(self, recipes: Sequence[Recipe], drafts: Sequence[Made]) -> tuple[Problem, ...]:
        """What is valid and was hardly meant."""
        doubts = Doubts(self.document)
        doubts.look_at_texts(recipes)
        doubts.look_at_pictures(drafts)
        return tuple(sorted(doubts.warnings, key=lambda warning: (warning.line, warning.column)))

    # -- problems

    def complain(self, complaints: Iterable[Complaint]) -> None:
        """Write complaints down with their lines, each once, unless they are about what was refused already."""
        for complaint in complaints:
            route = complaint.route
            if len(route) > 1 and route[0] == "jobs" and route[1] in self.plain:
                route = route[:2]
            if (route, complaint.message) in self.said or self.document.is_broken(route):
                continue
            self.said.add((route, complaint.message))
            self.problems.append(
                self.document.problem(route, complaint.message, complaint.hint, at_key=complaint.at_key)
            )
            if len(self.problems) >= MAX_PROBLEMS:
                self.problems.append(self.document.problem(route, TOO_MANY))
                self.fail()

    def fail(self) -> NoReturn:
        raise ManifestError(self.problems)

    # -- parts of the file

    def check_head(self, top: Mapping[str, Any]) -> HeadFields:
        """The head's fields, without those that are not well."""
        given = {key: value for key, value in top.items() if key not in {"defaults", "jobs"}}
        head, complaints = _head_checker().check(given, ())
        if head is None:
            self.complain(complaints)
            refused = {complaint.route[0] for complaint in complaints}
            head, _ = _head_checker().check({key: value for key, value in given.items() if key not in refused}, ())
        return head or {}

    def check_name(self, name: str | None, stem: str) -> str:
        # Files that come from a Mac have their accents as letters of their own: é is two, and looks like one.
        wanted = unicodedata.normalize("NFC", stem if name is None else name)
        safe = naming.safe_component(wanted.encode(errors="replace").decode())
        if wanted != safe or len(wanted.encode()) > naming.MAX_NAME_BYTES // 2:
            said = "the file's name" if name is None else shorten(wanted)
            hint = f'like "{shorten(safe)}"' if name is not None else f'give it a name, like "{shorten(safe)}"'
            self.complain([Complaint(("name",), f"{said} cannot be a folder's name everywhere", hint)])
        return wanted + PROOF_SUFFIX if self.overrides.proof else wanted

    def read_recipes(self, top: Mapping[str, Any]) -> list[Recipe]:
        """The jobs that are well in themselves, with defaults filled in; none when the defaults are not well."""
        defaults = self.check_mapping(top["defaults"], ("defaults",)) if "defaults" in top else JobFields()
        jobs = top.get("jobs")
        if not isinstance(jobs, list) or not jobs:
            message = "must be a list of prompts or mappings, and not empty" if "jobs" in top else "is missing"
            self.complain([Complaint(("jobs",), message, "every manifest has jobs")])
            return []
        digits = max(3, len(str(len(jobs))))
        recipes = []
        for position, value in enumerate(jobs):
            route = ("jobs", position)
            job = self.check_job(value, position)
            if job is not None and defaults is not None:
                number = str(position + 1).zfill(digits)
                recipes.append(expand.merge(number, job, route, defaults, ("defaults",)))
        return recipes

    def check_job(self, value: Any, position: int) -> JobFields | None:
        route = ("jobs", position)
        if isinstance(value, str):
            self.plain.add(position)
            return self.check_mapping({"prompt": value}, route)
        if isinstance(value, dict):
            return self.check_mapping(value, route)
        hint = "" if isinstance(value, list) else "quote it if it is a prompt"
        self.complain([Complaint(route, "must be a prompt or a mapping of fields", hint)])
        return None

    def check_mapping(self, value: Any, route: Route) -> JobFields | None:
        """A job's or the defaults' fields, or None and the problems written down."""
        pairs = expand.refuse_pairs(value, route) if isinstance(value, dict) else []
        fields, complaints = _job_checker().check(self.as_written(value, route), route)
        self.complain([*pairs, *complaints])
        # A value that the reader refused stands there as None, which is no field's kind: it is never taken for one.
        return None if pairs else fields

    def as_written(self, value: Any, route: Route) -> Any:
        """A job in whose matrix the scalars are text as they were written, so that `1.50` stays `1.50`."""
        if not isinstance(value, dict) or not value.keys() & {"matrix", "include", "exclude"}:
            return value
        parts = {"matrix", "include", "exclude"}
        return {key: self._as_text(item, (*route, key)) if key in parts else item for key, item in value.items()}

    def _as_text(self, value: Any, route: Route) -> Any:
        # The reader has seen to it that nothing is nested deeply enough to trouble the recursion.
        if isinstance(value, dict):
            return {key: self._as_text(item, (*route, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._as_text(item, (*route, position)) for position, item in enumerate(value)]
        return value if value is None else self.document.sources.get(route, value)

    def matrix_names(self, top: Mapping[str, Any]) -> set[str]:
        """The names of all matrices in the file, of jobs that are not well too."""
        jobs = top.get("jobs")
        places = [top.get("defaults"), *(jobs if isinstance(jobs, list) else ())]
        matrices = [place.get("matrix") for place in places if isinstance(place, dict)]
        return {name for matrix in matrices if isinstance(matrix, dict) for name in matrix}

    # -- pictures

    def check_count(self, recipes: Sequence[Recipe], allowed: int) -> bool:
        """Whether the manifest makes no more pictures than allowed; known before the first is made."""
        counts = [recipe.pictures_count for recipe in recipes]
        total = sum(counts)
        if total <= allowed:
            return True
        most, recipe = max(zip(counts, recipes, strict=True), key=lambda pair: pair[0])
        message = f"the manifest makes {total:,} pictures, {most:,} of them here; allowed are {allowed:,}"
        self.complain([Complaint(recipe.route, message, "max_pictures raises it; exclusions are not counted")])
        return False

    def expand(self, recipes: Sequence[Recipe]) -> list[Made]:
        expander = Expander(self.overrides.model, self.overrides.precision)
        drafts: list[Made] = []
        for recipe in recipes:
            made, complaints = expander.expand(recipe)
            self.complain(complaints)
            drafts.extend(Made(recipe, draft) for draft in made)
        return drafts

    def check_unique(self, what: str, named: Iterable[tuple[Recipe, str]]) -> bool:
        """Refuse two pictures of one name, also where they differ only in case; once for each pair of jobs."""
        taken: dict[str, Recipe] = {}
        refused: set[tuple[Route, Route]] = set()
        for recipe, name in named:
            key = naming.collision_key(name)
            other = taken.get(key)
            if other is None:
                taken[key] = recipe
            elif (other.route, recipe.route) not in refused:
                refused.add((other.route, recipe.route))
                self.complain([self._refuse_twins(what, name, recipe, other)])
        return not refused

    def _refuse_twins(self, what: str, name: str, recipe: Recipe, other: Recipe) -> Complaint:
        first, second = (self.document.mark(each.route).line for each in (other, recipe))
        if recipe is other:
            message = f'two pictures of the job in line {first} have the {what} "{shorten(name)}"'
            return Complaint(recipe.route, message, "their values differ only in what a name cannot hold")
        message = f'two pictures have the {what} "{shorten(name)}": of line {first} and of line {second}'
        return Complaint(recipe.route, message, "case does not tell them apart")

    def name_outputs(self, output: str, drafts: Sequence[Made], matrix_names: set[str]) -> list[str]:
        """Each picture's name below the output folder; empty when the template or the names are not well."""
        template = self.read_output(output, matrix_names)
        if template is None or not self.check_output_names(template, drafts):
            return []
        digits, fields = len(str(len(drafts))), template.fields
        outputs = [
            naming.output_name(template, _output_values(fields, draft, str(index).zfill(digits)))
            for index, (_, draft) in enumerate(drafts)
        ]
        self.check_unique("output name", ((made.recipe, name) for made, name in zip(drafts, outputs, strict=True)))
        return outputs

    def read_output(self, output: str, matrix_names: set[str]) -> Template | None:
        try:
            template = naming.parse(output)
        except TemplateError as error:
            self.complain([Complaint(("output",), error.message, error.hint)])
            return None
        known = {*OUTPUT_FIELDS, *matrix_names}
        unknown = [name for name in template.fields if name not in known]
        self.complain(
            Complaint(("output",), f"unknown field {{{shorten(name)}}}", nearest(name, known)) for name in unknown
        )
        message, hint = naming.refuse_layout(template)
        if message:
            self.complain([Complaint(("output",), message, hint)])
        return None if unknown or message else template

    def check_output_names(self, template: Template, drafts: Sequence[Made]) -> bool:
        """Whether every job has the matrix's names that the template mentions."""
        wanted = [name for name in template.fields if name not in OUTPUT_FIELDS]
        for recipe, draft in drafts:
            for name in wanted:
                if name not in draft.matrix:
                    line = self.document.mark(recipe.route).line
                    message = f"the job in line {line} has no {{{shorten(name)}}} in a matrix"
                    self.complain([Complaint(("output",), message, "use {id}, which names what varies")])
                    return False
        return True

    def pictures(self, drafts: Iterable[Made], outputs: Iterable[str]) -> Iterator[Picture]:
        """The drafts in their places. What the pictures of a job have in common is one value for all of them."""
        for recipe, group in itertools.groupby(
            enumerate(zip(drafts, outputs, strict=True)), lambda item: item[1][0].recipe
        ):
            line = self.document.mark(recipe.route).line
            keep, expect = expand.read_keep(recipe.fields), expand.read_expect(recipe.fields.get("expect"))
            for index, ((_, draft), output) in group:
                job = expand.rehearse(draft.job) if self.overrides.proof else draft.job
                place = Place.of(
                    manifest=self.document.file, line=line, job_id=draft.job_id, index=index, matrix=draft.matrix
                )
                yield Picture.of(id=draft.id, output=output, job=job, place=place, keep=keep, expect=expect)


def _hint_at_top(top: Any) -> str:
    """What helps where a file holds a list of prompts, one a line or as YAML, and nothing around it."""
    if isinstance(top, str):
        return 'write "jobs:" in the first line, and "- " before each prompt, which stands in a line of its own'
    return 'write "jobs:" above the list' if isinstance(top, list) else 'begin it with "jobs:"'


def _output_values(fields: Collection[str], draft: Draft, index: str) -> Mapping[str, str]:
    """The values of what output names may mention. The hash, which takes time, only where they do."""
    job = draft.job
    values = {
        **draft.matrix,
        "id": draft.id,
        "index": index,
        "seed": str(job.seed),
        "width": str(job.width),
        "height": str(job.height),
        "model": job.model,
    }
    if "hash" in fields:
        values["hash"] = hashlib.sha256(canonical(job).encode()).hexdigest()[:8]
    return values
