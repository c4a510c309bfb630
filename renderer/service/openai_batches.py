"""Batches over HTTP: OpenAI's files and batches, and a manifest as it is.

POST /v1/files, GET /v1/files[/{id}[/content]], DELETE /v1/files/{id}
POST /v1/batches, GET /v1/batches[/{id}], POST /v1/batches/{id}/cancel
POST /api/v1/batches                                a manifest, YAML or JSON
GET  /api/v1/batches/{id}[/results], DELETE         how it stands, what came of it, no more of it
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from renderer.errors import shorten
from renderer.job import Sidecar
from renderer.manifest.fields import ManifestFields
from renderer.manifest.manifest import Manifest
from renderer.service.answer_bodies import BatchList, FileList, FileTold, RemovedFile
from renderer.service.answers import RequestError, tell
from renderer.service.batch_runs import OF_MANIFESTS, BatchRuns
from renderer.service.batch_store import BatchObject, BatchStore, ItemResult, UploadedFile, new_id
from renderer.service.bodies import BatchFields, UploadFields, WindowQuery, read, without_nulls
from renderer.service.images import Pictures, file_url, read_object
from renderer.service.operations import FORM, JSON, YAML, Operation, Sent
from renderer.service.uploads import form_of
from renderer.text import MIB

_UNIT_S = {"m": 60, "h": 3600, "d": 86400}
_USUAL_WINDOW = "24h"
_JSONL = "application/jsonl"

MOST_UPLOADS, MOST_UPLOADED_BYTES = 1000, 8 * 2**30
"""That are kept at a time: whoever may send files may not fill the disk with them."""


class BatchRoutes:
    """The routes of this module."""

    def __init__(self, store: BatchStore, runs: BatchRuns, pictures: Pictures) -> None:
        self._store = store
        self._runs = runs
        self._pictures = pictures
        upload = Sent((UploadFields,), (FORM,), files=("file",), needs=("file",))
        manifest = Sent((ManifestFields,), (YAML, JSON))
        batch = Sent((BatchFields,), nulls=True)
        self.operations = [
            Operation("POST", "/v1/files", self.upload, UploadedFile, takes=upload),
            Operation("GET", "/v1/files", self.files, FileList),
            Operation("GET", "/v1/files/{key}", self.file, FileTold),
            Operation("DELETE", "/v1/files/{key}", self.remove, RemovedFile),
            Operation("GET", "/v1/files/{key}/content", self.content, "*/*"),
            Operation("POST", "/v1/batches", self.create, BatchObject, takes=batch),
            Operation("GET", "/v1/batches", self.batches, BatchList),
            Operation("GET", "/v1/batches/{key}", self.batch, BatchObject),
            Operation("POST", "/v1/batches/{key}/cancel", self.cancel, BatchObject),
            Operation("POST", OF_MANIFESTS, self.manifest, BatchObject, takes=manifest, query=WindowQuery),
            Operation("GET", "/api/v1/batches/{key}", self.batch, BatchObject),
            Operation("DELETE", "/api/v1/batches/{key}", self.cancel, BatchObject),
            Operation("GET", "/api/v1/batches/{key}/results", self.results, _JSONL),
        ]

    # -- files --

    async def upload(self, request: Request) -> Response:
        """Keep an upload: a batch's lines."""
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise RequestError(415, "not_multipart", "an upload is multipart/form-data", field="file")
        async with form_of(request, max_files=1, max_fields=8, max_part_size=2**16) as form:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise RequestError(422, "invalid_request", "is missing", field="file")
            read(UploadFields, {} if purpose is None else {"purpose": purpose})
            data, name = await file.read(), shorten(file.filename or "upload")
        kept = await run_in_threadpool(self._store.list_files)
        if len(kept) >= MOST_UPLOADS or len(data) + sum(each.bytes for each in kept) > MOST_UPLOADED_BYTES:
            said = f"{len(kept):,} files of {sum(each.bytes for each in kept) // MIB:,} MiB are kept already"
            raise RequestError(413, "too_many_files", said, field="file", hint="remove some: DELETE /v1/files/{id}")
        known = await run_in_threadpool(self._store.add_file, data, name, "batch")
        return tell(known)

    async def files(self, _request: Request) -> Response:
        """All uploads."""
        return tell(FileList(data=await run_in_threadpool(self._store.list_files)))

    async def file(self, request: Request) -> Response:
        """One of them; what a batch made is one too."""
        key = request.path_params["key"]
        if (made := self._made(key)) is not None:
            batch, _ = made
            name = f"{key}.jsonl"
            return tell(FileTold(id=key, bytes=0, created_at=batch.created_at, filename=name, purpose="batch_output"))
        return tell(self._uploaded(key))

    async def remove(self, request: Request) -> Response:
        """Forget an upload."""
        known = self._uploaded(request.path_params["key"])
        if any(batch.input_file_id == known.id and self._runs.is_going(batch.id) for batch in self._store.batches()):
            raise RequestError(409, "in_use", "a batch is made of this file, and has not ended")
        await run_in_threadpool(self._store.remove_file, known.id)
        return tell(RemovedFile(id=known.id))

    async def content(self, request: Request) -> Response:
        """An upload's bytes; or a batch's answers, put together while they are read."""
        key = request.path_params["key"]
        if (made := self._made(key)) is not None:
            batch, errors = made
            answers = self._answers(batch, str(request.base_url), errors=errors)
            return StreamingResponse(answers, media_type=_JSONL)
        return FileResponse(self._store.data(self._uploaded(key).id), media_type="application/octet-stream")

    # -- batches --

    async def create(self, request: Request) -> Response:
        """Begin a batch of an upload's lines."""
        asked = read(BatchFields, without_nulls(await read_object(request)))
        file = self._uploaded(asked["input_file_id"], field="input_file_id")
        window = asked.get("completion_window", _USUAL_WINDOW)
        return await self._begin(request, asked["endpoint"], file.id, window, metadata=asked.get("metadata"))

    async def manifest(self, request: Request) -> Response:
        """Begin a batch of a manifest, as it stands. All that is wrong with it is told, each with its line."""
        window = read(WindowQuery, dict(request.query_params)).get("completion_window", _USUAL_WINDOW)
        data = await request.body()
        checked = await run_in_threadpool(self._pictures.intake.read_manifest, data, "manifest")
        known = await run_in_threadpool(self._store.add_file, data, checked.name, "manifest")
        return await self._begin(request, OF_MANIFESTS, known.id, window, manifest=checked)

    async def batches(self, _request: Request) -> Response:
        """All batches, the newest first."""
        await self._runs.saved()
        found = [self._runs.look(batch.id) or batch for batch in await run_in_threadpool(self._store.batches)]
        ends = {"first_id": found[0].id, "last_id": found[-1].id} if found else {}
        return tell(BatchList(data=found, **ends), nulls=True)

    async def batch(self, request: Request) -> Response:
        """One of them."""
        await self._runs.saved()
        return tell(self._found(request), nulls=True)

    async def cancel(self, request: Request) -> Response:
        """No more of a batch."""
        batch = await self._runs.cancel(self._found(request).id)
        assert batch is not None
        return tell(batch, nulls=True)

    async def results(self, request: Request) -> Response:
        """A line for each item that is through: its pictures, or why there are none."""
        batch = self._found(request)

        def lines() -> Iterator[str]:
            for result in self._store.results(batch.id):
                told: dict[str, Any] = {"id": result.custom_id, "state": "failed" if result.error else "done"}
                if result.error is not None:
                    told["error"] = result.error
                else:
                    told["pictures"] = [file_url("/", key, result.keep) for key in result.pictures]
                yield json.dumps(told, ensure_ascii=False) + "\n"

        return StreamingResponse(lines(), media_type=_JSONL)

    async def _begin(
        self, request: Request, endpoint: str, file: str, window: str,
        *, metadata: dict[str, str] | None = None, manifest: Manifest | None = None,
    ) -> Response:  # fmt: skip
        now = int(time.time())
        batch = BatchObject(
            id=new_id("batch"),
            endpoint=endpoint,
            input_file_id=file,
            completion_window=window,
            status="validating",
            created_at=now,
            expires_at=now + int(window[:-1]) * _UNIT_S[window[-1]],
            metadata=metadata,
            client=request.state.client,
        )
        await run_in_threadpool(self._store.save, batch)
        self._runs.begin(batch, manifest)
        location = f"{OF_MANIFESTS if endpoint == OF_MANIFESTS else '/v1/batches'}/{batch.id}"
        return tell(batch, headers={"Location": location}, nulls=True)

    # -- what is asked for --

    def _found(self, request: Request) -> BatchObject:
        batch = self._runs.look(request.path_params["key"])
        if batch is None:
            raise RequestError(404, "unknown", "there is no such batch here")
        return batch

    def _uploaded(self, key: str, field: str = "") -> Any:
        known = self._store.file(key)
        if known is None:
            raise RequestError(404, "unknown", "there is no such file here", field=field)
        return known

    def _made(self, key: str) -> tuple[BatchObject, bool] | None:
        """The batch whose answers a file's id stands for, and whether those are its errors."""
        name, _, kind = key.rpartition("-")
        batch = self._runs.look(name) if kind in ("output", "errors") else None
        if batch is None or key not in (batch.output_file_id, batch.error_file_id):
            return None
        return batch, kind == "errors"

    async def _answers(self, batch: BatchObject, base: str, *, errors: bool) -> AsyncIterator[str]:
        for result in self._store.results(batch.id):
            if (result.error is not None) == errors:
                line = await self._answer(batch, result, base)
                yield json.dumps(line, ensure_ascii=False) + "\n"

    async def _answer(self, batch: BatchObject, result: ItemResult, base: str) -> dict[str, Any]:
        body: dict[str, Any] = {"error": result.error}
        if result.error is None:
            sidecars = [one for key in result.pictures if isinstance(one := self._pictures.desk.look(key), Sidecar)]
            data = []
            for sidecar in sidecars:
                if result.response_format == "url":
                    told = {"url": file_url(base, sidecar.id, result.keep)}
                else:
                    told = {"b64_json": base64.b64encode(await self._pictures.read(sidecar, result.keep)).decode()}
                data.append({**told, "seed": sidecar.job.seed, "id": sidecar.id})
            body = {"created": batch.created_at, "data": data, "output_format": result.keep.format}
            body |= {"warnings": result.warnings} if result.warnings else {}
        answer = {"status_code": result.status_code, "request_id": f"{batch.id}-{result.item}", "body": body}
        return {"id": f"{batch.id}-{result.item}", "custom_id": result.custom_id, "response": answer, "error": None}
