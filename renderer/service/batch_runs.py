"""Batches on their way: their items asked for a few at a time, what became of each written down, until all are through.

A server that begins goes on with those that have not ended: what is written down is not asked for again, and what was
rendered meanwhile is found. Lives on the event loop. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool

from renderer.errors import DiskError, ManifestError, RendererError
from renderer.job import Picture, Sidecar
from renderer.service.answers import openai_body, trouble_of
from renderer.service.batch_store import ENDED, BatchObject, BatchStore, ItemResult, RequestCounts, lines_of
from renderer.service.configuration import Limits
from renderer.service.images import Pictures
from renderer.service.intake import Requested
from renderer.service.openai_fields import translate
from renderer.service.standing import Standing, StoppingError, Whose

GENERATIONS = "/v1/images/generations"
OF_MANIFESTS = "/api/v1/batches"
_AT_ONCE = 32
_MOST_ERRORS = 100


@dataclass(frozen=True, slots=True)
class Item:
    """One of a batch: what makes its pictures, when its turn comes. That may raise what is wrong with it."""

    custom_id: str
    read: Callable[[], list[Requested]]


class _Invalid(Exception):  # noqa: N818  (no error of ours: what a batch's input is, and its clients are told)
    """A batch whose input is none: `errors` says what is wrong with it."""

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(errors)
        self.errors = {"object": "list", "data": list(errors)[:_MOST_ERRORS]}


class BatchRuns:
    """All batches of a server."""

    def __init__(self, store: BatchStore, pictures: Pictures, models: Mapping[str, str], limits: Limits) -> None:
        self._store = store
        self._pictures = pictures
        self._models = models
        self._limits = limits
        self._saving = asyncio.Lock()
        self._going: dict[str, asyncio.Task[None]] = {}
        self._standing: dict[str, BatchObject] = {}

    def resume(self) -> None:
        """Go on with those that have not ended. On the loop."""
        for batch in self._store.batches():
            if batch.status not in ENDED:
                self.begin(batch)

    def begin(self, batch: BatchObject) -> None:
        """Have a batch go its way; it has been saved."""
        self._standing[batch.id] = batch
        self._going[batch.id] = asyncio.get_running_loop().create_task(self._run(batch.id))

    def look(self, key: str) -> BatchObject | None:
        """How a batch stands."""
        return self._standing.get(key) or self._store.batch(key)

    def is_going(self, key: str) -> bool:
        """Whether a batch has not ended."""
        return key in self._going

    async def cancel(self, key: str) -> BatchObject | None:
        """Ask for no more of a batch's items; those that workers have come all the same."""
        batch = self.look(key)
        if batch is None or batch.status in ENDED or batch.status == "cancelling":
            return batch
        await self._becomes(batch.now("cancelling"))
        self._withdraw(key)
        return self.look(key)

    def _withdraw(self, key: str) -> None:
        """A batch wants none of what still waits for it: it was cancelled, or its time is up."""
        if (batch := self._standing.get(key)) is not None:
            whose = Whose(batch.client, key)
            for standing in self._pictures.desk.standing:
                if whose in standing.wanted_by:
                    self._pictures.desk.cancel(standing.key, whose)

    # -- one batch --

    async def _run(self, key: str) -> None:
        try:
            await self._through(key)
        except* StoppingError:
            pass  # it goes on when the server runs again
        except* _Invalid as invalid:
            errors = getattr(invalid.exceptions[0], "errors", None)
            await self._becomes(self._standing[key].now("failed", errors=errors))
        except* DiskError:
            pass  # as well: what is not written down is asked for again
        finally:
            self._going.pop(key, None)
            self._standing.pop(key, None)

    async def _through(self, key: str) -> None:
        batch = self._standing[key]
        total = await run_in_threadpool(self._validate, batch)
        results = await run_in_threadpool(list, self._store.results(key))
        ended = {result.item for result in results}
        failed = sum(result.error is not None for result in results)
        counts = RequestCounts(total=total, completed=len(ended) - failed, failed=failed)
        batch = self._standing[key].model_copy(update={"request_counts": counts})
        await self._becomes(batch.now("in_progress") if batch.status == "validating" else batch)
        asyncio.get_running_loop().call_later(max(0.0, batch.expires_at - time.time()), self._withdraw, key)
        places = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            async for number, item in self._items(batch):
                if number in ended:
                    continue
                await places.acquire()
                if not self._goes_on(key):
                    break
                group.create_task(self._one(key, number, item, places))
        await self._finish(key)

    async def _items(self, batch: BatchObject) -> AsyncIterator[tuple[int, Item]]:
        if batch.endpoint == OF_MANIFESTS:
            pictures = (await run_in_threadpool(self._manifest, batch)).pictures
            for number, picture in enumerate(pictures):
                yield number, Item(picture.id, partial(self._picture, picture, batch.id, number))
            return
        for number, line in enumerate(lines_of(self._store.data(batch.input_file_id))):
            told = json.loads(line)
            yield number, Item(told["custom_id"], partial(self._read, told["body"], batch.id))

    def _picture(self, picture: Picture, batch: str, number: int) -> list[Requested]:
        return [self._pictures.intake.requested(picture, batch, number)]

    def _read(self, body: Mapping[str, Any], batch: str) -> list[Requested]:
        asked = translate(body, self._models, strict=False, derived=True)
        return self._pictures.intake.read(asked.fields, batch)

    async def _one(self, key: str, number: int, item: Item, places: asyncio.Semaphore) -> None:
        """One item, until it is known what becomes of it and that is written down."""
        try:
            known: list[Standing | Sidecar] = []
            result = ItemResult(item=number, custom_id=item.custom_id)
            try:
                wanted = item.read()
                known = await self._pictures.ask(wanted, Whose(self._standing[key].client, key))
                sidecars = await asyncio.gather(*map(self._pictures.wait, known))
                result = result.model_copy(update={"pictures": tuple(sidecar.id for sidecar in sidecars)})
            except (StoppingError, DiskError):
                raise
            except RendererError as error:
                trouble = trouble_of(error)
                if trouble.code == "cancelled" and not self._goes_on(key):
                    return
                told = {"status_code": trouble.status, "error": openai_body(trouble)["error"]}
                result = result.model_copy(update=told)
            await run_in_threadpool(self._store.add_result, key, result)
            self._count(key, failed=result.error is not None)
        finally:
            places.release()

    def _goes_on(self, key: str) -> bool:
        batch = self._standing[key]
        return batch.status == "in_progress" and time.time() < batch.expires_at

    def _count(self, key: str, *, failed: bool) -> None:
        batch = self._standing[key]
        counts = batch.request_counts
        counts = counts.model_copy(
            update={"completed": counts.completed + (not failed), "failed": counts.failed + failed}
        )
        self._standing[key] = batch.model_copy(update={"request_counts": counts})

    async def _finish(self, key: str) -> None:
        batch = self._standing[key]
        counts = batch.request_counts
        left = counts.total - counts.completed - counts.failed
        outputs = {
            "output_file_id": f"{key}-output" if counts.completed else None,
            "error_file_id": f"{key}-errors" if counts.failed else None,
        }
        if batch.status == "cancelling":
            await self._becomes(batch.now("cancelled", **outputs))
        elif left:
            await self._becomes(batch.now("expired", **outputs))
        else:
            await self._becomes(batch.now("finalizing"))
            await self._becomes(self._standing[key].now("completed", **outputs))

    async def _becomes(self, batch: BatchObject) -> None:
        """A batch stands otherwise, and that is on the disk on return."""
        self._standing[batch.id] = batch
        async with self._saving:  # what is saved last is how it stands
            await run_in_threadpool(self._store.save, self._standing.get(batch.id, batch))

    # -- what it is made of --

    def _manifest(self, batch: BatchObject) -> Any:
        data = self._store.data(batch.input_file_id).read_bytes()
        return self._pictures.intake.read_manifest(data, "manifest")

    def _validate(self, batch: BatchObject) -> int:
        """How many items a batch has. Raises `_Invalid` for an input that is none."""
        if batch.endpoint == OF_MANIFESTS:
            try:
                return len(self._manifest(batch).pictures)
            except (ManifestError, OSError) as error:
                raise _Invalid(
                    [{"code": "invalid_manifest", "message": str(error), "line": None, "param": None}]
                ) from error
        errors: list[dict[str, Any]] = []
        total = 0
        for number, told in self._validated(batch):
            total += 1
            if told is not None:
                code, message = told
                errors.append({"code": code, "message": message, "line": number, "param": None})
            if len(errors) >= _MOST_ERRORS:
                break
        if not total:
            errors.append({"code": "empty_file", "message": "the file has no line", "line": None, "param": None})
        if errors:
            raise _Invalid(errors)
        return total

    def _validated(self, batch: BatchObject) -> Iterator[tuple[int, tuple[str, str] | None]]:
        """Each line's number, and what is wrong with it: a code and a sentence."""
        seen: set[str] = set()
        for number, line in enumerate(lines_of(self._store.data(batch.input_file_id)), start=1):
            if number > self._limits.batch_lines:
                yield number, ("too_many", f"a batch has {self._limits.batch_lines:,} lines at most")
                return
            yield number, wrong(line, batch.endpoint, seen)


def wrong(line: bytes, endpoint: str, seen: set[str]) -> tuple[str, str] | None:
    """What is wrong with a batch's line, as a code and a sentence; `seen` are the ids of those before it."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return "invalid_json_line", "the line is no JSON"
    if not isinstance(told, dict) or not isinstance(told.get("body"), dict):
        return "invalid_request", "a line is an object with custom_id, method, url and body"
    custom_id = told.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return "missing_required_parameter", "custom_id is missing"
    if custom_id in seen:
        return "duplicate_custom_id", "another line has the same custom_id"
    seen.add(custom_id)
    if told.get("method") != "POST":
        return "invalid_method", "method must be POST"
    if told.get("url") != endpoint:
        return "mismatched_endpoint", f"url must be the batch's endpoint, {endpoint}"
    return None
