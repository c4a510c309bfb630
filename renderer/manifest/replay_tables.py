"""Pictures as a table that makes them again: a row a picture, in CSV or JSON lines. Knows nothing of where they lie."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from renderer.manifest import choices, decoding
from renderer.manifest.replay import ReplayEntry

TableKind = Literal["csv", "jsonl"]
TABLE_KINDS: tuple[TableKind, ...] = get_args(TableKind)


def write(entries: Sequence[ReplayEntry], kind: TableKind) -> str:
    """The table of these entries, which `rows` or `renderer render` read."""
    rows = [_cells(entry.fields) for entry in entries]
    if kind == "jsonl":
        return "".join(f"{_json(row)}\n" for row in rows)
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def lost(entry: ReplayEntry, kind: TableKind) -> str:
    """What such a table cannot hold of an entry; empty where it holds all."""
    if kind == "jsonl":
        return ""
    texts = [cell for cell in _cells(entry.fields).values() if isinstance(cell, str)]
    if any(text != text.strip() for text in texts):
        return "spaces at the ends of its texts are lost in CSV"
    if any(next(decoding.forbidden(text), None) for text in texts):
        return "CSV cannot hold a character of its texts"
    return ""


def _json(row: Mapping[str, Any]) -> str:
    """A line, with what would break it or is not printed escaped."""
    text = json.dumps(row, ensure_ascii=False)
    return "".join(each if each.isprintable() or each == "\u3000" else json.dumps(each)[1:-1] for each in text)


def _cells(fields: Mapping[str, Any]) -> dict[str, str | int | float]:
    """A row: prompts in which nothing is drawn, lists and mappings as JSON. Braces in cells are just braces."""
    cells: dict[str, str | int | float] = {}
    for name, value in fields.items():
        if name in ("prompt", "negative_prompt"):
            cells[name] = choices.escape(value)
        else:
            cells[name] = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
    return cells
