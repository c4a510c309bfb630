"""What a document says: its head, and its jobs with what the defaults add to them.

Head, defaults and each job are held against their fields apart, so that what is wrong in one hides nothing in another.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, cast

from renderer.errors import shorten
from renderer.manifest import naming, recipe
from renderer.manifest.checking import Checker
from renderer.manifest.complaints import Complaint, Problems, nearest
from renderer.manifest.document import Document, Route
from renderer.manifest.fields import HeadFields, JobFields, ManifestFields
from renderer.manifest.naming import TemplateError
from renderer.manifest.recipe import STEM, Recipe, Surroundings, takes_in

MISSING = "is missing"
_OF_THE_MATRIX = frozenset({"matrix", "include", "exclude"})


@cache
def _head_checker() -> Checker[HeadFields]:
    return Checker(HeadFields, known=ManifestFields.__annotations__, elsewhere=JobFields.__annotations__)


@cache
def _job_checker() -> Checker[JobFields]:
    return Checker(JobFields, elsewhere=HeadFields.__annotations__)


# ---- the head --------------------------------------------------------------------------------------------------------


def read_top(problems: Problems) -> dict[str, Any]:
    """The document's mapping. Raises `ManifestError` where it could not be read to its end, or is none."""
    top = problems.document.value
    if problems.document.complete and not isinstance(top, dict):
        problems.add(Complaint((), "a manifest is a mapping", _hint_at_top(top)))
    if not isinstance(top, dict):
        problems.fail()
    return top


def _hint_at_top(top: Any) -> str:
    """What helps where a file holds a list of prompts, one a line or as YAML, and nothing around it."""
    if isinstance(top, str):
        return 'write "jobs:" in the first line, and "- " before each prompt, which stands in a line of its own'
    return 'write "jobs:" above the list' if isinstance(top, list) else 'begin it with "jobs:"'


def read_head(top: Mapping[str, Any], problems: Problems) -> HeadFields:
    """The head's fields, without those that are not well."""
    given = {
        key: _as_text(value, (key,), problems.document) if key == "vars" else value
        for key, value in top.items()
        if key not in {"defaults", "jobs"}
    }
    head, complaints = _head_checker().check(given, ())
    if head is None:
        problems.add(*complaints)
        refused = {complaint.route[0] for complaint in complaints}
        if "vars" in refused:  # every brace would be a problem
            problems.fail()
        head, _ = _head_checker().check({key: value for key, value in given.items() if key not in refused}, ())
    return head or {}


def read_name(name: str | None, stem: str, problems: Problems) -> str:
    """The manifest's name: its own, else the stem of its file."""
    # Files that come from a Mac have their accents as letters of their own: é is two, and looks like one.
    wanted = unicodedata.normalize("NFC", stem if name is None else name)
    safe = naming.safe_component(wanted.encode(errors="replace").decode())
    if wanted != safe or len(wanted.encode()) > naming.MAX_NAME_BYTES // 2:
        said = "the file's name" if name is None else shorten(wanted)
        hint = f'like "{shorten(safe)}"' if name is not None else f'give it a name, like "{shorten(safe)}"'
        problems.add(Complaint(("name",), f"{said} cannot be a folder's name everywhere", hint))
    return wanted


def names_of(top: Mapping[str, Any]) -> set[str]:
    """The names of `vars` and of all matrices in the file, of jobs that are not well too."""
    variables = top["vars"] if isinstance(top.get("vars"), dict) else ()
    jobs = top.get("jobs")
    places = [top.get("defaults"), *(jobs if isinstance(jobs, list) else ())]
    given = [place for place in places if isinstance(place, dict)]
    matrices = [place.get("matrix") for place in given]
    found = {name for matrix in matrices if isinstance(matrix, dict) for name in matrix}
    return found | set(variables) | ({STEM} if any(takes_in(place) for place in given) else set())


# ---- the jobs --------------------------------------------------------------------------------------------------------


def read_recipes(top: Mapping[str, Any], around: Surroundings, problems: Problems) -> list[Recipe]:
    """The jobs that are well in themselves, with defaults filled in; none when the defaults are not well."""
    defaults = _read_mapping(top["defaults"], ("defaults",), problems) if "defaults" in top else JobFields()
    jobs = top.get("jobs")
    if not isinstance(jobs, list) or not jobs:
        message = "must be a list of prompts or mappings, and not empty" if "jobs" in top else MISSING
        problems.add(Complaint(("jobs",), message, "every manifest has jobs"))
        return []
    digits = max(3, len(str(len(jobs))))
    recipes = []
    for position, value in enumerate(jobs):
        route = ("jobs", position)
        job = _read_job(value, route, problems)
        if job is not None and defaults is not None:
            number = str(position + 1).zfill(digits)
            merged = recipe.merge(number, job, route, defaults, ("defaults",), around)
            filled = _fill_constants(merged, problems) if around.variables else merged
            recipes += [filled] if filled is not None else []
    return recipes


_CONSTANT = ("model", "rows")
"""Fields that name a thing, which is the same for all pictures of a job: only `vars` may stand in them."""


def _fill_constants(made: Recipe, problems: Problems) -> Recipe | None:
    """The job with `vars` in these; None where they are not well, and then that is written down."""
    complaints: list[Complaint] = []
    filled: dict[str, Any] = {}
    for field in _CONSTANT:
        text = made.fields.get(field)
        if not isinstance(text, str) or "{" not in text:
            continue
        known = made.around.variables
        try:
            template = naming.parse(text)
        except TemplateError as error:
            complaints.append(Complaint(made.origin(field), error.message, error.hint))
            continue
        if unknown := [name for name in template.fields if name not in known]:
            message = f"{{{shorten(unknown[0])}}} is not a name of vars"
            hint = f"{nearest(unknown[0], known)}; {{{{ is a brace"
            complaints.append(Complaint(made.origin(field), message, hint))
        else:
            filled[field] = template.fill(known)
    problems.add(*complaints)
    return None if complaints else replace(made, fields=cast("JobFields", {**made.fields, **filled}))


def _read_job(value: Any, route: Route, problems: Problems) -> JobFields | None:
    if isinstance(value, str):
        problems.take_as_prompt(route)
        return _read_mapping({"prompt": value}, route, problems)
    if isinstance(value, dict):
        return _read_mapping(value, route, problems)
    hint = "" if isinstance(value, list) else "quote it if it is a prompt"
    problems.add(Complaint(route, "must be a prompt or a mapping of fields", hint))
    return None


def _read_mapping(value: Any, route: Route, problems: Problems) -> JobFields | None:
    """A job's or the defaults' fields, or None and the problems written down."""
    pairs = recipe.refuse_pairs(value, route) if isinstance(value, dict) else []
    fields, complaints = _job_checker().check(_as_written(value, route, problems.document), route)
    problems.add(*pairs, *complaints)
    # A value that the reader refused stands there as None, which is no field's kind: it is never taken for one.
    return None if pairs else fields


def _as_written(value: Any, route: Route, document: Document) -> Any:
    """A job in whose matrix the scalars are text as they were written, so that `1.50` stays `1.50`."""
    if not isinstance(value, dict) or not value.keys() & _OF_THE_MATRIX:
        return value
    return {
        key: _as_text(item, (*route, key), document) if key in _OF_THE_MATRIX else item for key, item in value.items()
    }


def _as_text(value: Any, route: Route, document: Document) -> Any:
    # The reader has seen to it that nothing is nested deeply enough to trouble the recursion.
    if isinstance(value, dict):
        return {key: _as_text(item, (*route, key), document) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item, (*route, position), document) for position, item in enumerate(value)]
    return value if value is None else document.sources.get(route, value)
