"""Chosen pictures, copied out of their folder with a table of what they are and a contact sheet: a folder, or a zip.

It is written beside its name and gets that when it is whole. Knows pictures and sidecars; nothing of the command line.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from renderer.errors import DiskError, UsageError
from renderer.outputs.folder import Own
from renderer.planning.plan import Plan, Planned
from renderer.report import gather, thumbnails
from renderer.system.files import PART_PREFIX, disk_error

_TABLE = "pictures"
_ZIP = ".zip"

_PLAIN = (
    *("file", "id", "mark", "job", "prompt", "negative_prompt", "model", "precision"),
    *("width", "height", "steps", "cfg_scale", "seed", "lettering"),
)
"""Columns of the table; a matrix's names and the file's SHA-256 stand behind them."""

_Put = Callable[[str, Path | bytes], None]
"""Takes a file or its bytes in under a name."""


def export(plans: Sequence[Plan], target: Path) -> int:
    """Copy the chosen pictures of some plans that are there to a folder, or to a zip by that ending: how many.

    Of several plans each has a folder of its name. Raises `UsageError` where there is something already, or none is
    chosen that is there, and `DiskError`.
    """
    chosen = [(plan, [item for item in plan.chosen if item.sidecar is not None]) for plan in plans]
    count = sum(len(items) for _, items in chosen)
    if not count:
        raise UsageError("no picture that is there was chosen", hint="renderer plan says which are")
    if os.path.lexists(target):
        raise UsageError(f"{target} is there already", hint="take another name, or remove it")
    part = target.with_name(f"{PART_PREFIX}{uuid4().hex}")
    try:
        if target.suffix.lower() == _ZIP:
            with zipfile.ZipFile(part, "x", strict_timestamps=False) as into:
                _put_all(chosen, _putting_into(into))
        else:
            part.mkdir()
            _put_all(chosen, _putting_below(part))
        part.rename(target)
    except OSError as error:
        at = Path(os.fsdecode(error.filename or target))
        raise disk_error(target if at.is_relative_to(part) else at, error) from error
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                part.unlink()
    return count


def _putting_below(folder: Path) -> _Put:
    def put(name: str, what: Path | bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(what, bytes):
            path.write_bytes(what)
        else:
            shutil.copyfile(what, path)

    return put


def _putting_into(into: zipfile.ZipFile) -> _Put:
    """Pictures are packed already: they are stored as they are."""

    def put(name: str, what: Path | bytes) -> None:
        if isinstance(what, bytes):
            into.writestr(name, what)
        else:
            into.write(what, name)

    return put


def _put_all(chosen: Sequence[tuple[Plan, Sequence[Planned]]], put: _Put) -> None:
    for plan, items in chosen:
        if not items:
            continue
        root = f"{plan.manifest.name}/" if len(chosen) > 1 else ""
        marks = gather.read_marks(plan.folder)
        rows = [dict(_row(item, marks.get(item.fingerprint))) for item in items]
        for row in rows:
            path = plan.folder.path / row["file"]
            if not path.is_file():
                raise DiskError(f"{path} is gone")
            put(f"{root}{row['file']}", path)
            for name in row["layers"]:
                put(f"{root}{name}", plan.folder.path / name)
        put(f"{root}{_TABLE}.csv", _as_csv(rows))
        put(f"{root}{_TABLE}.json", json.dumps(rows, indent=2, ensure_ascii=False).encode() + b"\n")
        put(f"{root}{Own.CONTACT_SHEET}", thumbnails.draw_contact_sheet(plan, items))


def _row(item: Planned, mark: Any) -> Iterator[tuple[str, Any]]:
    """What the table says of a picture, by columns."""
    assert item.sidecar is not None
    told = {**gather.describe(item, mark), "file": gather.file_name(item)}
    layers = gather.layer_names(item)
    read = item.sidecar.lettering
    told["lettering"] = None if read is None else round(read.score, 4)
    yield from ((name, told.get(name)) for name in _PLAIN)
    yield "matrix", dict(item.picture.place.matrix)
    yield "layers", layers
    yield "sha256", item.sidecar.file.sha256


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Commas, and a mark by which spreadsheets know UTF-8. A cell that they would compute is made a text."""
    names = list(dict.fromkeys(name for row in rows for name in row["matrix"]))
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow([*_PLAIN, *(f"matrix.{name}" for name in names), "sha256"])
    for row in rows:
        cells = [row[name] for name in _PLAIN] + [row["matrix"].get(name) for name in names] + [row["sha256"]]
        table.writerow(["" if cell is None else _harmless(cell) for cell in cells])
    return text.getvalue().encode("utf-8-sig")


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" and cell else cell
