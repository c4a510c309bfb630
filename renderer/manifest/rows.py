"""A job with `rows` to as many jobs as its table has rows.

A column that is called like a field sets it for its row, unless the job's own text names it in braces; every column may
be named so, as a matrix's names are. Knows nothing of how tables are written.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from renderer.errors import Problem, UnreadableError, shorten
from renderer.manifest import choices, draws, naming, scalars, tables
from renderer.manifest import recipe as recipes
from renderer.manifest.checking import Checker
from renderer.manifest.choices import ChoiceError
from renderer.manifest.complaints import MAX_WORD_LENGTH, Complaint, Problems
from renderer.manifest.document import spell
from renderer.manifest.fields import JobFields
from renderer.manifest.kinds import OUTPUT_FIELDS
from renderer.manifest.matrices import JobMatrix
from renderer.manifest.recipe import ROW, Recipe, TableRow
from renderer.manifest.tables import Row, Table
from renderer.system.folders import expanded

_TEXTS = frozenset({"id", "prompt", "negative_prompt", "model", "precision", "size"}) | {
    *("format", "embed", "image", "mask", "context_image")
}
_NUMBERS = frozenset({"steps", "num_inference_steps", "cfg_scale", "width", "height", "seed", "count"}) | {
    *("strength", "mask_blur", "layers", "retake")
}
_LISTS = frozenset({"images", "loras", "controlnets", "regions", "lettering"})
_WORDS = {"lettering": frozenset({"auto", "none"})}
"""What a cell may say in the place of a list."""

_JSON = _LISTS | {"schedule", "expect"}
"""Of these a cell is JSON, or one word: of a list its only one."""

COLUMNS_OF_FIELDS = _TEXTS | _NUMBERS | _JSON
"""Fields that a column sets for its row."""

OF_THE_WHOLE_JOB = frozenset({"rows", "matrix", "include", "exclude", "sample", "sample_seed", "sizes", "seeds"})
"""Fields that no column sets."""

_FILLED = frozenset(
    {"id", "prompt", "negative_prompt", "image", "images", "mask", "loras", "controlnets", "regions"}
) | {"context_image", "lettering"}
"""Where braces stand for names, but not in a cell: there they are just braces."""


class RowReader:
    """Reads tables, each once. `output` names columns as well, in braces."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._tables: dict[Path, Table | UnreadableError] = {}
        self.warnings: dict[Problem, None] = {}
        """What in tables is valid and was hardly meant, each once."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The tables that were read, or could not be."""
        return tuple(self._tables)

    @property
    def columns(self) -> set[str]:
        """What `output` may have in braces: the columns that were read; whatever it has where a table could not be."""
        tables = self._tables.values()
        unread = any(isinstance(table, UnreadableError) for table in tables)
        found = {name for table in tables if isinstance(table, Table) for name in table.columns}
        return found | (set(naming.in_braces(self._output)) if unread else set())

    def spread(self, recipe: Recipe, problems: Problems, *, alone: bool) -> list[Recipe]:
        """A job a row; the job itself where it has no `rows`. What is wrong is written down, and then there is none.

        A row's number is the job's and its own; only its own where the job is `alone` in its manifest.
        """
        written = recipe.fields.get("rows")
        if written is None:
            return [recipe]
        table = self._read(recipe.folder_of("rows") / expanded(written))
        if isinstance(table, UnreadableError):
            problems.add(Complaint(recipe.origin("rows"), table.message, table.hint or "paths are from its folder"))
            return []
        problems.note(*table.problems)
        if table.problems:
            return []
        plain = replace(recipe, fields=cast("JobFields", {k: v for k, v in recipe.fields.items() if k != "rows"}))
        names = self._names(plain, table)
        if twice := [name for name in names if name in plain.fields.get("matrix", {})]:
            message = f"{shorten(twice[0])} is a column of {table.file} as well"
            problems.add(Complaint(recipe.origin("matrix"), message, "rename one of them"))
            return []
        if wrong := [each for row in table.rows for each in _refuse_choices(table, row, names)]:
            problems.note(*wrong)
            return []
        for name in table.columns:
            if name in OF_THE_WHOLE_JOB and name not in names:
                message = "is a field of the whole job, and no column sets it"
                self.warnings[Problem(table.file, 1, 1, name, message, "write it in the job", warning=True)] = None
        digits = max(3, len(str(len(table.rows))))
        twins = _twins(table, names)
        found: list[Recipe] = []
        for position, (row, (_, twin)) in enumerate(zip(table.rows, twins, strict=True), 1):
            number = str(position).zfill(digits)
            made = _of_row(plain, table, row, names, number if alone else f"{recipe.number}-{number}")
            if isinstance(made, Recipe):
                found.append(replace(made, row=TableRow(table.file, row.line, twin, ROW not in names)))
            else:
                problems.note(*made)
        if "sample" in plain.fields and len(found) == len(table.rows):
            rows = [draws.key_of(told, str(twin)) for told, twin in twins]
            drawn = [replace(found[place], chosen=each) for place, each in JobMatrix(plain.fields).sample_with(rows)]
            if not drawn:
                problems.add(Complaint(recipe.origin("matrix"), "makes no combination: all are excluded"))
            return drawn
        return found

    def _read(self, path: Path) -> Table | UnreadableError:
        if path not in self._tables:
            try:
                self._tables[path] = tables.read(path)
            except UnreadableError as error:
                self._tables[path] = error
        return self._tables[path]

    def _names(self, recipe: Recipe, table: Table) -> list[str]:
        """The columns that are named in braces, somewhere in the job or in the manifest's `output`."""
        told = {name for text in _texts([recipe.fields, self._output]) for name in naming.in_braces(text)}
        given = {name for text in _texts([self._output]) for name in naming.in_braces(text)} & set(OUTPUT_FIELDS)
        return [name for name in table.columns if name in told - given and len(name) <= MAX_WORD_LENGTH]


def _of_row(recipe: Recipe, table: Table, row: Row, names: list[str], number: str) -> Recipe | list[Problem]:
    """The job of one row, or what is wrong with the row."""
    empty = [name for name in names if name not in row.cells]
    if empty:
        return [
            Problem(table.file, row.line, 1, shorten(name), "the cell is empty", "fill it: the job names the column")
            for name in empty
        ]
    cells = {name: cell for name, cell in row.cells.items() if name not in names and name in COLUMNS_OF_FIELDS}
    given = {name: value_of(name, cell) for name, cell in cells.items()}
    pairs = recipes.refuse_pairs(given, ())
    fields, complaints = _checker().check(given, ())
    if pairs or complaints or fields is None:
        return [
            Problem(table.file, row.line, 1, shorten(str(each.route[0])), each.message, each.hint)
            for each in (*pairs, *complaints)
        ]
    taken = {name: recipe.fields[name] for name in recipes.left_of(recipe.fields, fields)}  # type: ignore[literal-required]
    return replace(
        recipe,
        number=number,
        fields=cast("JobFields", {**taken, **fields}),
        origins={**recipe.origins, **{name: (*recipe.origin("rows"), name) for name in fields}},
        cells={ROW: number.rpartition("-")[2], **{name: row.cells[name] for name in names}},
        plain=_FILLED & fields.keys(),
    )


def _twins(table: Table, names: Collection[str]) -> list[tuple[str, int]]:
    """What each row says, as far as it is used, and its number among those that say the same."""
    used = {*names, *COLUMNS_OF_FIELDS}
    seen: Counter[str] = Counter()
    found = []
    for row in table.rows:
        told = draws.key_of(*sorted(f"{name}={cell}" for name, cell in row.cells.items() if name in used))
        seen[told] += 1
        found.append((told, seen[told]))
    return found


def _refuse_choices(table: Table, row: Row, names: Collection[str]) -> Iterable[Problem]:
    """What looks like a choice in a cell that is filled in, and is none."""
    for name, cell in row.cells.items():
        if choices.may_have(cell) and name in names:
            try:
                choices.of_value(cell)
            except ChoiceError as error:
                yield Problem(table.file, row.line, 1, shorten(name), error.message, error.hint)


def place_in_table(recipe: Recipe, complaint: Complaint) -> Problem | None:
    """What is wrong with a cell of a job's row, in the table; None for what is written elsewhere."""
    rows, route = recipe.origin("rows"), complaint.route
    if recipe.row is None or route[: len(rows)] != rows or len(route) == len(rows):
        return None
    return Problem(recipe.row.file, recipe.row.line, 1, spell(route[len(rows) :]), complaint.message, complaint.hint)


def value_of(name: str, cell: str) -> Any:
    """A cell as its field takes it."""
    if name in _JSON:
        if cell.startswith(("[", "{")):
            with contextlib.suppress(ValueError, RecursionError):
                return json.loads(cell)
        return [cell] if name in _LISTS and cell not in _WORDS.get(name, ()) else cell
    return scalars.resolve(cell)[0] if name in _NUMBERS else cell


def _texts(values: Iterable[Any]) -> Iterable[str]:
    """Every text within values, however deep."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _texts(value.values())
        elif isinstance(value, list | tuple):
            yield from _texts(value)


@cache
def _checker() -> Checker[JobFields]:
    return Checker(JobFields)
