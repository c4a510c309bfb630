"""A table's file to its rows: CSV, TSV, JSON lines, or a text with a prompt a line.

Every cell is text, as it was written. What is wrong is said with the table's own file, row and column. Knows nothing of
jobs.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from renderer.errors import Problem, UnreadableError, shorten
from renderer.manifest import decoding, source
from renderer.manifest.document import MAX_PROBLEMS
from renderer.manifest.kinds import MAX_PROMPT_LENGTH

MOST_ROWS = 100_000
PROMPT = "prompt"

_DELIMITERS = ",;\t|"


@dataclass(frozen=True, slots=True)
class Row:
    """A row: the line that it begins in, and its cells by their columns' names; an empty one is not there."""

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table: what messages call its file, its columns' names in order, its rows, and what is wrong with it."""

    file: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...] = ()


def is_table(path: Path) -> bool:
    """Whether a file is a table, by its ending."""
    return path.suffix.lower() in _READERS


def read(path: Path) -> Table:
    """The table in a file. Raises `UnreadableError` where it cannot be read."""
    file = source.show(path)
    read_rows = _READERS.get(path.suffix.lower())
    if read_rows is None:
        raise UnreadableError(file, f"{file} is no table", hint=f"these are: {', '.join(_READERS)}")
    text, problems = decoding.decode(source.read(path, "table").data, file)
    if problems:
        return Table(file, (), (), tuple(problems[:MAX_PROBLEMS]))
    return read_rows(text, file)


# ---- formats ---------------------------------------------------------------------------------------------------------


def _lines(text: str, file: str) -> Table:
    """A prompt a line; empty lines are none."""
    found = [Row(number, {PROMPT: line.strip()}) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    return _checked(file, (PROMPT,), iter(found))


def _separated(text: str, file: str) -> Table:
    """CSV, by what most often stands between the names of its first line."""
    head = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=head.count)
    return _by_delimiter(text, file, delimiter)


def _tabbed(text: str, file: str) -> Table:
    return _by_delimiter(text, file, "\t")


def _by_delimiter(text: str, file: str, delimiter: str) -> Table:
    csv.field_size_limit(max(csv.field_size_limit(), 4 * MAX_PROMPT_LENGTH))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    problems: list[Problem] = []
    rows: list[Row] = []
    columns: tuple[str, ...] = ()
    line = 1
    try:
        columns = tuple(unicodedata.normalize("NFC", name.strip()) for name in next(reader))
        problems += _refuse_columns(file, columns)
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) > len(columns):
                    message = f"the row has {len(cells)} cells, and the table {len(columns)} columns"
                    hint = f"quote what has a {_NAMED[delimiter]} in it"
                    problems.append(Problem(file, line, 1, "", message, hint))
                named = zip(columns, cells, strict=False)
                rows.append(Row(line, {name: cell.strip() for name, cell in named if name and cell.strip()}))
            line = reader.line_num + 1
            if len(rows) > MOST_ROWS or len(problems) >= MAX_PROBLEMS:
                break
    except csv.Error as error:
        problems.append(Problem(file, line, 1, "", f"the row cannot be read: {error}", "close its quotes"))
    return Table(file, columns, tuple(rows), tuple(problems)) if problems else _checked(file, columns, iter(rows))


_NAMED = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


def _refuse_columns(file: str, columns: tuple[str, ...]) -> Iterator[Problem]:
    for name, count in Counter(filter(None, columns)).items():
        if count > 1:
            yield Problem(file, 1, 1, shorten(name), f"{count} columns have this name", "rename all but one")
    if not any(columns):
        yield Problem(file, 1, 1, "", "the first line names no columns", "write their names into it")


def _objects(text: str, file: str) -> Table:
    """An object a line; what they have between them are the columns."""
    problems: list[Problem] = []
    rows: list[Row] = []
    names: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        cells = _object(line)
        if cells is None:
            message, hint = "the line is no JSON object of texts and numbers", 'like {"prompt": "a cat", "seed": 1}'
            problems.append(Problem(file, number, 1, "", message, hint))
        else:
            names.update(dict.fromkeys(cells))
            rows.append(Row(number, cells))
        if len(rows) > MOST_ROWS or len(problems) >= MAX_PROBLEMS:
            break
    columns = tuple(names)
    return Table(file, columns, tuple(rows), tuple(problems)) if problems else _checked(file, columns, iter(rows))


def _object(line: str) -> dict[str, str] | None:
    """A line's cells as they were written: `1.50` stays `1.50`."""
    try:
        value = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    cells = {name: each for name, each in value.items() if each is not None}
    cells = {name: str(each).lower() if isinstance(each, bool) else each for name, each in cells.items()}
    if not all(isinstance(each, str) for each in cells.values()):
        return None
    return {unicodedata.normalize("NFC", name): str(each) for name, each in cells.items() if each.strip()}


def _checked(file: str, columns: tuple[str, ...], rows: Iterator[Row]) -> Table:
    problems: list[Problem] = []
    kept: list[Row] = []
    for row in rows:
        kept.append(row)
        for name, cell in row.cells.items():
            if len(cell) > MAX_PROMPT_LENGTH:
                message, hint = f"is too long: {len(cell):,} characters", f"at most {MAX_PROMPT_LENGTH:,}"
                problems.append(Problem(file, row.line, 1, shorten(name), message, hint))
    if not kept:
        problems.append(Problem(file, 1, 1, "", "the table has no rows"))
    if len(kept) > MOST_ROWS:
        message = f"the table has more than {MOST_ROWS:,} rows"
        problems.append(Problem(file, kept[MOST_ROWS].line, 1, "", message, "split it"))
    return Table(file, columns, tuple(kept), tuple(problems[:MAX_PROBLEMS]))


_READERS: Mapping[str, Callable[[str, str], Table]] = {
    ".csv": _separated,
    ".tsv": _tabbed,
    ".jsonl": _objects,
    ".txt": _lines,
}
