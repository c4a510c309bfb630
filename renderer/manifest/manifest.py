"""A manifest: YAML or JSON in, pictures out, or all of its problems at once, each with its line.

The way through, which `_resolve` goes: bytes ▶ `yaml_reader` ▶ a document ▶ `jobs` ▶ recipes ▶ `expand` ▶ drafts ▶
`output_names` ▶ pictures. What is wrong is written down on the way, and the way ends at the first place where going on
would only be noise. Knows nothing of output folders, engines or what has been rendered.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from renderer.errors import ModelError, Problem, UnreadableError, UsageError
from renderer.job import AskedPrecision, Picture, Place
from renderer.manifest import doubts, expand, jobs, naming, scalars, source, tables, yaml_reader
from renderer.manifest.complaints import Complaint, Problems
from renderer.manifest.document import Document, Mark, Route
from renderer.manifest.expand import Draft, Expander
from renderer.manifest.fields import MAX_ALLOWED, MAX_PICTURES, ManifestFields
from renderer.manifest.inherit import EXTENDS, Inherited, inherit
from renderer.manifest.looked_at import HeardLooks, unheard
from renderer.manifest.output_names import name_outputs
from renderer.manifest.pictures_in import InputFinder
from renderer.manifest.recipe import Recipe, Surroundings
from renderer.manifest.rows import COLUMNS_OF_FIELDS, RowReader, place_in_table, value_of
from renderer.manifest.shelf import FILE_REFUSED, Shelf
from renderer.manifest.source import ManifestSource
from renderer.outputs.taken_in import NOTHING_TAKEN_IN, InputRecord, TakenIn

DEFAULT_OUTPUT = "{id}"
PROOF_SUFFIX = "-proof"


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line puts in the place of every job's own; `proof` makes a dress rehearsal of the whole.

    `defaults` is a manifest that tables extend, and `fields` are what jobs of tables are given: names and texts.
    `shelf` has all that may be named in a manifest that somebody else sent, who may have `most` pictures made of it.
    `outputs` is where it is rendered into: what went in and has gone since is on record there.
    """

    model: str | None = None
    precision: AskedPrecision | None = None
    proof: bool = False
    defaults: Path | None = None
    fields: tuple[tuple[str, str], ...] = ()
    shelf: Shelf | None = None
    most: int = MAX_ALLOWED
    outputs: Path | None = None


NO_OVERRIDES = Overrides()


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest, fully resolved.

    `file` is its path as people see it: relative to the working folder when inside it, else just the file's name.
    `name` is its folder under `outputs/`. Pictures stand in written order; ids and output names are unique. `warnings`
    are what is valid and was hardly meant, in the order of their lines. `path` is its file, None where it is from
    nowhere that stays; `proof` says that it is a rehearsal, `is_part` that the others of its pictures are elsewhere,
    `is_shared` that whoever has the lease on it renders it. Of several that are rendered together, pictures of higher
    `priority` come first. `bases` are the files that it extends, the nearest first, and
    `tables` those that its rows stand in. `auto` are the ids of pictures
    whose precision is still to be chosen (`renderer.planning.auto`); `remarks` are what a plan says of it.
    `taken_in` is what its paths stand for.
    """

    file: str
    name: str
    pictures: tuple[Picture, ...]
    warnings: tuple[Problem, ...] = ()
    path: Path | None = None
    proof: bool = False
    is_part: bool = False
    is_shared: bool = False
    bases: tuple[Path, ...] = ()
    tables: tuple[Path, ...] = ()
    priority: float = 0.0
    auto: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()
    taken_in: TakenIn = NOTHING_TAKEN_IN


def load(path: Path, overrides: Overrides = NO_OVERRIDES, heard: HeardLooks = unheard) -> Manifest:
    """The manifest in the file at `path`, or from standard input where that is `-`; a table is one by itself.

    `heard` hears how many of the pictures that go in have been looked at.

    Raises `ManifestError` with all problems of the file, `UnreadableError` when there is no file to read, and
    `UsageError` when `overrides` name a model that does not exist.
    """
    given = _of_table(path, overrides) if tables.is_table(path) else source.read(path)
    manifest = parse(given, overrides, heard)
    return replace(manifest, path=path if path.is_file() else None, proof=overrides.proof)


def parse(given: ManifestSource, overrides: Overrides = NO_OVERRIDES, heard: HeardLooks = unheard) -> Manifest:
    """The manifest that these bytes are. Raises as `load` does."""
    if overrides.model is not None:
        try:
            expand.find_model(overrides.model)
        except ModelError as error:
            raise UsageError(error.message, hint=error.hint) from error
    with _without_collecting():
        document = yaml_reader.read(given.data, given.file)
        return _resolve(_of_options(document) if given.is_made_up else document, given, overrides, heard)


def bases_of(path: Path) -> tuple[Path, ...]:
    """The files that a manifest extends, the nearest first, as far as they are found, also where it is not well."""
    try:
        given = source.read(path)
    except UnreadableError:
        return ()
    return inherit(yaml_reader.read(given.data, given.file), given.path, given.folder).bases


def is_without_jobs(problems: Sequence[Problem]) -> bool:
    """Whether a manifest has no jobs, and nothing else is wrong: it may be one that others extend."""
    return [(each.path, each.message) for each in problems] == [("jobs", jobs.MISSING)]


def _of_table(path: Path, overrides: Overrides) -> ManifestSource:
    """The manifest that a table is by itself: a job a row, with what the command line says."""
    says: dict[str, Any] = {"jobs": [{"rows": str(path.absolute())}]}
    if overrides.defaults is not None:
        says[EXTENDS] = str(overrides.defaults.absolute())
    if overrides.fields:
        says["defaults"] = {name: _typed(name, text) for name, text in overrides.fields}
    return ManifestSource(json.dumps(says).encode(), source.show(path), path.stem, path.parent, is_made_up=True)


def _of_options(document: Document) -> Document:
    """A document that the command line made: what is wrong in it is wrong with an option, or with the whole table."""
    options = {"defaults": "--set", EXTENDS: "--defaults"}

    def place(routes: Iterable[Route]) -> dict[Route, Mark]:
        return {route: Mark(1, 1, options.get(str(route[0]), "") if route else "") for route in routes}

    return replace(document, keys=place(document.keys), values=place(document.values))


def _typed(name: str, text: str) -> Any:
    """A value of the command line: of a column's field as in a table; a list or a mapping as JSON; else as in YAML."""
    if name in COLUMNS_OF_FIELDS and text:
        return value_of(name, text)
    if text.startswith(("[", "{")):
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return scalars.resolve(text)[0]


def name_of(path: Path) -> str:
    """The name of the manifest in the file at `path`, also where its jobs are not well: no picture is looked at.

    Raises `ManifestError` and `UnreadableError` for a file that is none.
    """
    given = source.read(path)
    if tables.is_table(path):
        return path.stem
    document = inherit(yaml_reader.read(given.data, given.file), given.path, given.folder).document
    problems = Problems(document)
    return jobs.read_name(jobs.read_head(jobs.read_top(problems), problems).get("name"), given.stem, problems)


def _resolve(document: Document, given: ManifestSource, overrides: Overrides, heard: HeardLooks) -> Manifest:
    """The manifest that a document is, and that takes its file's stem for its name if it gives none."""
    inherited = Inherited(document) if overrides.shelf else inherit(document, given.path, given.folder)
    document = inherited.document
    problems = Problems(document)
    top = jobs.read_top(problems)
    if overrides.shelf is not None and EXTENDS in top:
        problems.add(Complaint((EXTENDS,), FILE_REFUSED, at_key=True))
    head = jobs.read_head(top, problems)
    name = jobs.read_name(head.get("name"), given.stem, problems)
    output = head.get("output", DEFAULT_OUTPUT)
    reader = RowReader(output)
    around = Surroundings(given.folder, inherited.folders, head.get("vars", {}))
    made = jobs.read_recipes(top, around, problems)
    read = [recipe for recipe in made if _is_allowed(recipe, overrides.shelf, problems)]
    recipes = [row for recipe in read for row in reader.spread(recipe, problems, alone=len(read) == 1)]
    is_safe = naming.safe_component(name) == name
    record = InputRecord(overrides.outputs, name) if overrides.outputs is not None and is_safe else None
    finder = InputFinder(given.folder, record, heard, of_server=overrides.shelf is not None)
    expander = Expander(naming.in_braces(output), finder, overrides.model, overrides.precision, overrides.shelf)
    allowed = head.get("max_pictures", MAX_PICTURES)
    hint = "max_pictures raises it" if allowed <= overrides.most else "ask for fewer at once"
    try:
        drafts = _expand(recipes, min(allowed, overrides.most), hint, expander, problems)
    finally:  # whoever is tired of waiting begins with what has been seen the next time
        finder.looked_at.remember()
    outputs = name_outputs(output, drafts, jobs.names_of(top) | reader.columns, problems)
    problems.check()
    pictures = tuple(_pictures(document, drafts, outputs, proof=overrides.proof))
    taken_in = finder.looked_at.taken_in(name, finder.paths.patterns)
    name += PROOF_SUFFIX if overrides.proof else ""
    warnings = (*doubts.warnings(document, recipes, drafts, finder.doubts()), *reader.warnings)
    priority = float(head.get("priority", 0))
    auto = frozenset(draft.id for draft in drafts if draft.auto and not overrides.proof)
    return Manifest(
        document.file,
        name,
        pictures,
        warnings,
        bases=inherited.bases,
        tables=reader.paths,
        priority=priority,
        auto=auto,
        taken_in=taken_in,
    )


def _is_allowed(recipe: Recipe, shelf: Shelf | None, problems: Problems) -> bool:
    """Whether a job names no file, where it may name none: what is wrong is said before anything is looked at."""
    complaints = shelf.refuse(recipe) if shelf is not None else []
    problems.add(*complaints)
    return not complaints


def _expand(recipes: Sequence[Recipe], allowed: int, hint: str, expander: Expander, problems: Problems) -> list[Draft]:
    """All pictures of all jobs; none where they would be more than allowed, which is known before the first is made."""
    counts = [recipe.pictures_count for recipe in recipes]
    total = sum(counts)
    if total > allowed:
        most, recipe = max(zip(counts, recipes, strict=True), key=lambda pair: pair[0])
        message = f"the manifest makes {total:,} pictures, {most:,} of them here; allowed are {allowed:,}"
        problems.add(Complaint(recipe.route, message, f"{hint}; exclusions are not counted"))
        return []
    drafts: list[Draft] = []
    too_much = Complaint((), f"the manifest makes more than the {allowed:,} pictures that are allowed", hint)
    if (beyond := expander.look_ahead(recipes, allowed)) is not None:  # a pattern's files are counted when found
        problems.add(replace(too_much, route=beyond.route))
        return []
    for recipe in recipes:
        made, complaints = expander.expand(recipe)
        for complaint in dict.fromkeys(complaints):
            placed = place_in_table(recipe, complaint)
            problems.add(complaint) if placed is None else problems.note(placed)
        drafts.extend(made)
        if len(drafts) > allowed:  # with those into which nothing goes
            problems.add(replace(too_much, route=recipe.route))
            return []
    return drafts


def _pictures(document: Document, drafts: Iterable[Draft], outputs: Iterable[str], *, proof: bool) -> Iterator[Picture]:
    """The drafts in their places. What the pictures of a job have in common is one value for all of them."""
    placed = enumerate(zip(drafts, outputs, strict=True))
    for recipe, group in itertools.groupby(placed, lambda item: item[1][0].recipe):
        line = document.mark(recipe.route).line
        keep, expect = expand.read_keep(recipe.fields), expand.read_expect(recipe.fields.get("expect"))
        for index, (draft, output) in group:
            job = expand.rehearse(draft.job) if proof else draft.job
            place = Place.of(manifest=document.file, line=line, job_id=draft.job_id, index=index, matrix=draft.matrix)
            yield Picture.of(
                id=draft.id,
                output=output,
                job=job,
                place=place,
                keep=keep,
                expect=expect,
                inputs=draft.inputs,
                lettering=draft.lettering,
            )


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
