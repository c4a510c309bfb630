"""What lies on the disk of uploads and batches, in `.batches` of the output folder: whole files, and a line a result.

    {file}.data, {file}.file.json       an upload, and what is known of it
    {batch}.batch.json                  a batch as OpenAI's clients read it
    {batch}.results.jsonl               what became of its items, as they end

Pictures are not kept twice: a result names them, and they are read from their own files. Knows no HTTP and no queue.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from renderer.job import Keep, Value
from renderer.outputs.folder import OutputFolder
from renderer.system import files

_ID = re.compile(r"(file|batch)-[0-9a-f]{24}")

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
ENDED: frozenset[BatchStatus] = frozenset({"failed", "completed", "expired", "cancelled"})


class UploadedFile(Value):
    """An upload. Times are seconds since 1970, as all of OpenAI's."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class RequestCounts(Value):
    """How many items a batch has, and how they stand."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchObject(Value):
    """A batch. `endpoint` is where its items would be sent one by one; a manifest's is `/api/v1/batches`."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    input_file_id: str
    completion_window: str
    status: BatchStatus
    created_at: int
    expires_at: int
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: dict[str, Any] | None = None
    request_counts: RequestCounts = RequestCounts()
    metadata: dict[str, str] | None = None
    client: str = Field(default="", exclude=True)

    def now(self, status: BatchStatus, **told: Any) -> BatchObject:
        """The same batch with another status, and since when."""
        moment = {} if status == "validating" else {f"{status}_at": int(time.time())}
        return self.model_copy(update={"status": status, **moment, **told})


class ItemResult(Value):
    """What became of one item: the pictures that it made, or what is told of its failing.

    `keep` and `response_format` are how the pictures are to be sent, `warnings` what is otherwise than was asked for.
    """

    item: int
    custom_id: str
    pictures: tuple[str, ...] = ()
    keep: Keep = Keep()
    response_format: Literal["b64_json", "url"] = "b64_json"
    warnings: tuple[str, ...] = ()
    status_code: int = 200
    error: dict[str, Any] | None = None


class BatchStore:
    """The folder of uploads and batches. For one process; may be called by several threads, for different things."""

    def __init__(self, folder: OutputFolder) -> None:
        self._path = folder.batches

    # -- uploads --

    def add_file(self, data: bytes, filename: str, purpose: str) -> UploadedFile:
        """Keep an upload. Raises `DiskError`."""
        known = UploadedFile(
            id=new_id("file"), bytes=len(data), created_at=int(time.time()), filename=filename, purpose=purpose
        )
        files.write_whole(self.data(known.id), data)
        files.write_whole(self._path / f"{known.id}.file.json", known.model_dump_json().encode())
        return known

    def file(self, key: str) -> UploadedFile | None:
        """What is known of an upload."""
        return _read(self._path / f"{key}.file.json", UploadedFile) if _ID.fullmatch(key) else None

    def list_files(self) -> list[UploadedFile]:
        """All uploads, the newest first."""
        found = [_read(path, UploadedFile) for path in self._path.glob("*.file.json")]
        return sorted((each for each in found if each is not None), key=lambda each: -each.created_at)

    def data(self, key: str) -> Path:
        """Where an upload's bytes lie."""
        return self._path / f"{key}.data"

    def remove_file(self, key: str) -> None:
        """Forget an upload. Raises `DiskError`."""
        for path in (self._path / f"{key}.file.json", self.data(key)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise files.disk_error(path, error, doing="remove") from error

    # -- batches --

    def save(self, batch: BatchObject) -> None:
        """Keep how a batch stands. Raises `DiskError`."""
        told = batch.model_dump(mode="json") | {"client": batch.client}
        files.write_whole(self._path / f"{batch.id}.batch.json", json.dumps(told).encode())

    def batch(self, key: str) -> BatchObject | None:
        """How a batch stands, as it was saved last."""
        return _read(self._path / f"{key}.batch.json", BatchObject) if _ID.fullmatch(key) else None

    def batches(self) -> list[BatchObject]:
        """All batches, the newest first."""
        found = [_read(path, BatchObject) for path in self._path.glob("*.batch.json")]
        return sorted((each for each in found if each is not None), key=lambda each: (-each.created_at, each.id))

    def add_result(self, batch: str, result: ItemResult) -> None:
        """Write down what became of an item. Raises `DiskError`."""
        files.append_line(self._path / f"{batch}.results.jsonl", result.model_dump_json().encode())

    def results(self, batch: str) -> Iterator[ItemResult]:
        """What became of a batch's items so far, each once, in the order in which they ended."""
        seen: set[int] = set()
        for line in lines_of(self._path / f"{batch}.results.jsonl"):
            try:
                result = ItemResult.model_validate_json(line)
            except ValueError:  # a killed server's last line
                continue
            if result.item not in seen:
                seen.add(result.item)
                yield result


def lines_of(path: Path) -> Iterator[bytes]:
    """A file's lines that are not empty; none where there is no file. Raises `DiskError`."""
    try:
        with path.open("rb") as stream:
            for line in stream:
                if line.strip():
                    yield line
    except FileNotFoundError:
        return
    except OSError as error:
        raise files.disk_error(path, error, doing="read") from error


def new_id(kind: str) -> str:
    """A name that nobody guesses."""
    return f"{kind}-{secrets.token_hex(12)}"


def _read(path: Path, kind: type[Any]) -> Any:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ValueError):
        return None
