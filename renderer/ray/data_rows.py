"""The rows of a Ray data set, rendered: a row's columns are a job's fields, and its picture comes back in the row.

A batch of rows is a night of its own in a folder of a moment, so that all is as it is elsewhere: what is wrong with a
row is its own, a crash costs no other row, a picture has its labels and sidecar. The worker stays open from batch to
batch. Knows no cluster.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from renderer.errors import MachineError, ManifestError, RendererError, UsageError
from renderer.job import Picture, Profile
from renderer.manifest.fields import JobFields
from renderer.manifest.manifest import Manifest, parse
from renderer.manifest.source import ManifestSource
from renderer.outputs import picture_files
from renderer.outputs.folder import OutputFolder
from renderer.ray import arrival, connecting, row_pictures
from renderer.ray.arrival import Introduction
from renderer.ray.kept_worker import KeptWorker
from renderer.ray.node_worker import Posting
from renderer.supervisor import events, run
from renderer.supervisor.settings import Settings, StopRequests, Terms
from renderer.text import installing

MADE = {"picture": "large_binary", "sidecar": "string", "fingerprint": "string", "error": "string"}
"""The columns that come to a row: a file's bytes, its sidecar's JSON, the fingerprint, and why there is no picture.

With Arrow's types: they are the same in each batch, also in one of failures alone.
"""

_FIELDS = frozenset(JobFields.__annotations__) - {"rows"}
_NAME = "rows"

ArrowTable = Any
"""Arrow's, in which Ray Data has its blocks: other columns pass through as they are, with their empty cells."""


@dataclass(frozen=True, slots=True)
class RowProcessor:
    """Renders data sets: `processor(rows)`, or `rows.map_batches(**processor.arguments)`.

    `defaults` are fields of every row that does not have them itself. `concurrency` is how many actors there are: a
    number, or a least and a most. `num_gpus` and `batch_size` (rows) are Ray's.
    """

    defaults: Mapping[str, Any]
    concurrency: int | tuple[int, int]
    num_gpus: float
    batch_size: int
    posting: Posting
    retries: int = 2
    profile: Profile | None = None
    here: Introduction = field(default_factory=arrival.tell)

    def __call__(self, rows: Any) -> Any:
        """The data set with the columns of `MADE` in each row. Nothing is rendered before somebody reads it."""
        return rows.map_batches(**self.arguments)

    @property
    def _compute(self) -> Any:
        connecting.library()
        try:
            from ray.data import ActorPoolStrategy  # noqa: PLC0415  # as Ray itself
        except ImportError as error:
            hint = f"the extra ray-data has what it takes: {installing('ray-data')}"
            raise MachineError(f"Ray Data cannot be imported: {error}", hint=hint) from error
        if isinstance(self.concurrency, int):
            return ActorPoolStrategy(size=self.concurrency)
        least, most = self.concurrency
        return ActorPoolStrategy(min_size=least, max_size=most)

    @property
    def arguments(self) -> dict[str, Any]:
        """For `map_batches`. Raises `MachineError` where Ray Data is not installed."""
        return {
            "fn": RowRenderer,
            "fn_constructor_args": (self,),
            "batch_size": self.batch_size,
            "batch_format": "pyarrow",
            "compute": self._compute,
            "num_gpus": self.num_gpus,
        }


def processor(
    model: str | None = None,
    *,
    concurrency: int | tuple[int, int] = 1,
    num_gpus: float = 1,
    batch_size: int = 16,
    retries: int = 2,
    profile: Profile | None = None,
    vram_bytes: int | None = None,
    offline: bool = False,
    **defaults: Any,
) -> RowProcessor:
    """What renders the rows of a data set with a model, an actor a GPU.

    `defaults` are a job's fields, as in a manifest: `precision`, `size`, `steps`… A column of that name counts more.
    Models that lack are fetched on the actors' machines, unless `offline`. Raises `UsageError` for a field that no job
    has.
    """
    given = {**({"model": model} if model is not None else {}), **defaults}
    if unknown := sorted(given.keys() - _FIELDS):
        raise UsageError(f"processor: no job has a field {', '.join(unknown)}", hint="docs/manifest.md has the fields")
    posting = Posting.here(Terms(offline=offline), vram_bytes)
    return RowProcessor(given, concurrency, num_gpus, batch_size, posting, retries, profile)


class RowRenderer:
    """The actor that renders batches of rows; Ray makes and calls it."""

    def __init__(self, told: RowProcessor) -> None:
        """Raises `MachineError` where this machine would not render as the calling one."""
        arrival.check(told.here, arrival.tell())
        connecting.end_with_node()
        told.posting.settle()
        self._told = told
        self._worker = KeptWorker(told.posting.command)

    def __call__(self, batch: ArrowTable) -> ArrowTable:
        """The batch, with the columns of `MADE`. Raises `MachineError` where nothing can be rendered at all."""
        import pyarrow as pa  # noqa: PLC0415  # as Ray Data itself

        asked = batch.select([name for name in dict.fromkeys(batch.column_names) if name in {*_FIELDS, "id"}])
        rows = asked.to_pylist() if asked.num_columns else [{}] * batch.num_rows
        with tempfile.TemporaryDirectory(prefix="renderer-rows-") as folder:
            made = self._rendered(rows, Path(folder))
        found = batch.drop_columns([name for name in MADE if name in batch.column_names])
        for name, kind in MADE.items():
            values = pa.array([each.get(name) for each in made], pa.type_for_alias(kind))
            found = found.append_column(name, values)
        return found

    def _rendered(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
        """What comes to each row; `folder` is of a moment."""
        made: list[dict[str, Any]] = [{} for _ in rows]
        pictures: list[Picture] = []
        name_models = True
        for place, cells in enumerate(rows):
            try:
                row = {name: _plain(row_pictures.kept(name, value, folder)) for name, value in cells.items()}
                pictures.append(self._picture(row, place))
                name_models = name_models and bool(row.get("model"))
            except RendererError as error:
                made[place]["error"] = _said(error.message, error.hint)
        if pictures:
            for place, columns in self._tried(pictures, folder, name_models=name_models).items():
                made[place] = columns
        return made

    def _tried(self, pictures: Sequence[Picture], folder: Path, *, name_models: bool) -> dict[int, dict[str, Any]]:
        """As `_night`; but where each row has named a model itself, that none can be had is a row's own failure."""
        try:
            return self._night(pictures, folder)
        except MachineError as error:
            if not name_models:
                raise
            return {int(each.id[1:]): {"error": _said(error.message, error.hint)} for each in pictures}

    def _picture(self, row: Mapping[str, Any], place: int) -> Picture:
        """The picture that a row asks for, by the manifest's own rules. Raises `UsageError`, `ModelError`."""
        said = {name: value for name, value in row.items() if name != "id" and value not in (None, "")}
        for name, value in said.items():
            _check_plain(name, value)
        text = json.dumps({"jobs": [{**self._told.defaults, **said}]})
        try:
            found = parse(ManifestSource(text.encode(), "row", _NAME))
        except ManifestError as error:
            first = error.problems[0]
            raise UsageError(f"{first.path.removeprefix('jobs[0].')}: {first.message}", hint=first.hint) from error
        pictures = found.pictures
        if len(pictures) != 1:
            raise UsageError(f"the row makes {len(pictures)} pictures, and one is a row's")
        if found.auto:
            message = "precision: auto is chosen when a manifest is planned, and the rows of a data set are not"
            raise UsageError(message, hint="leave it out, or name one")
        told = _text(row["id"]) if row.get("id") not in (None, "") else pictures[0].place.job_id
        name = f"r{place:06}"
        place_of = pictures[0].place.model_copy(update={"job_id": told})
        return pictures[0].model_copy(update={"id": name, "output": name, "place": place_of})

    def _night(self, pictures: Sequence[Picture], outputs: Path) -> dict[int, dict[str, Any]]:
        """What comes of each picture, by its row's place. Raises `MachineError` where none could be tried."""
        failures: dict[str, str] = {}

        def watch(what: events.Event) -> None:
            if isinstance(what, events.PictureFailed) and not what.again:
                failures[what.item.picture.id] = _said(what.message, what.hint)

        told = self._told
        manifest = Manifest(file=_NAME, name=_NAME, pictures=tuple(pictures))
        settings = Settings(
            outputs,
            profile=told.profile,
            vram_bytes=told.posting.vram_bytes,
            terms=told.posting.terms,
            retries=told.retries,
            max_failures=sys.maxsize,  # rows that fail one after the other say nothing of the next ones
            hire=self._worker.hire,
        )
        run.render([manifest], settings, watch, StopRequests())
        folder = OutputFolder(outputs / _NAME)
        return {int(each.id[1:]): _made(folder, each, failures.get(each.id)) for each in pictures}


def _made(folder: OutputFolder, picture: Picture, failure: str | None) -> dict[str, Any]:
    sidecar = picture_files.read_sidecar(folder.sidecar(picture.output))
    if sidecar is None:
        return {"error": failure or "it was not rendered"}
    file = folder.picture(picture.output, picture.keep.format)
    named = sidecar.model_copy(update={"id": picture.place.job_id})
    return {"picture": file.read_bytes(), "sidecar": named.model_dump_json(), "fingerprint": sidecar.fingerprint}


def _said(message: str, hint: str) -> str:
    return f"{message} ({hint})" if hint else message


def _check_plain(name: str, value: Any) -> None:
    """Raise `UsageError` for a cell that no manifest could hold: bytes, a set, a moment."""
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: a cell of type {type(value).__name__} is no value of a field") from error


def _text(value: Any) -> str:
    return str(value).encode("utf-8", "replace").decode()


def _plain(value: Any) -> Any:
    """A cell as a manifest has it; None where it is empty. What an empty cell of a struct would say is not said."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {name: found for name, each in value.items() if (found := _plain(each)) is not None}
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else value  # whole numbers with empty cells among them come like that
    return value
