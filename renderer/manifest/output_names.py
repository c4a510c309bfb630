"""Each picture's name below its manifest's folder, from the manifest's template: no two pictures have one."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from renderer.errors import shorten
from renderer.job import InputFile, canonical
from renderer.manifest import naming
from renderer.manifest.complaints import Complaint, Problems, nearest
from renderer.manifest.document import Route
from renderer.manifest.expand import Draft
from renderer.manifest.kinds import OUTPUT_FIELDS
from renderer.manifest.naming import Template, TemplateError


def name_outputs(output: str, drafts: Sequence[Draft], names: set[str], problems: Problems) -> list[str]:
    """Each picture's name; none when ids, the template or the names are not well.

    `names` are those of all matrices and tables in the file, also of jobs that made no picture.
    """
    # Equal ids would give equal output names; said once is enough.
    unique = _check_unique("id", ((draft, draft.id) for draft in drafts), problems)
    template = _read_template(output, names, problems)
    if not unique or template is None or not _check_names(template, drafts, problems):
        return []
    digits, fields = len(str(len(drafts))), template.fields
    outputs = [
        naming.output_name(template, _values(fields, draft, str(index).zfill(digits)))
        for index, draft in enumerate(drafts)
    ]
    _check_unique("output name", zip(drafts, outputs, strict=True), problems)
    return outputs


def _check_unique(what: str, named: Iterable[tuple[Draft, str]], problems: Problems) -> bool:
    """Refuse two pictures of one name, also where they differ only in case; once for each pair of jobs."""
    taken: dict[str, Draft] = {}
    refused: set[tuple[Route, Route]] = set()
    for draft, name in named:
        other = taken.setdefault(naming.collision_key(name), draft)
        pair = other.recipe.route, draft.recipe.route
        if other is not draft and pair not in refused:
            refused.add(pair)
            problems.add(_refuse_twins(what, name, draft, other, problems))
    return not refused


def _refuse_twins(what: str, name: str, draft: Draft, other: Draft, problems: Problems) -> Complaint:
    first, second = problems.line(other.recipe.route), problems.line(draft.recipe.route)
    if draft.recipe is other.recipe:
        message = f'two pictures of the job in line {first} have the {what} "{shorten(name)}"'
        pairs = zip(other.inputs, draft.inputs, strict=False)
        both = next((f"{_last(one)} and {_last(two)}" for one, two in pairs if one.path != two.path), "")
        if draft.matrix == other.matrix and both:
            return Complaint(draft.recipe.route, message, f"{{stem}} is the same of {both}: rename one")
        return Complaint(draft.recipe.route, message, "their values differ only in what a name cannot hold")
    message = f'two pictures have the {what} "{shorten(name)}": of line {first} and of line {second}'
    return Complaint(draft.recipe.route, message, "case does not tell them apart")


def _last(file: InputFile) -> str:
    """A file's name and its folder's."""
    return shorten("/".join(file.path.split("/")[-2:]))


def _read_template(output: str, names: set[str], problems: Problems) -> Template | None:
    try:
        template = naming.parse(output)
    except TemplateError as error:
        problems.add(Complaint(("output",), error.message, error.hint))
        return None
    known = {*OUTPUT_FIELDS, *names}
    unknown = [name for name in template.fields if name not in known]
    for name in unknown:
        problems.add(Complaint(("output",), f"unknown field {{{shorten(name)}}}", nearest(name, known)))
    message, hint = naming.refuse_layout(template)
    if message:
        problems.add(Complaint(("output",), message, hint))
    return None if unknown or message else template


def _check_names(template: Template, drafts: Sequence[Draft], problems: Problems) -> bool:
    """Whether every job has the names that the template mentions."""
    wanted = [name for name in template.fields if name not in OUTPUT_FIELDS]
    for draft in drafts:
        for name in wanted:
            if name not in draft.matrix:
                line = problems.line(draft.recipe.route)
                message = f"the job in line {line} has no {{{shorten(name)}}} in a matrix or a table"
                problems.add(Complaint(("output",), message, "use {id}, which names what varies"))
                return False
    return True


def _values(fields: Collection[str], draft: Draft, index: str) -> Mapping[str, str]:
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
