"""Batches on their way: their items asked for a few at a time, what became of each written down, until all are through.

A server that begins goes on with those that have not ended: what is written down is not asked for again, and what was
rendered meanwhile is found. Where the disk takes nothing, a batch waits and goes on likewise; what nobody foresaw fails
it. Lives on the event loop. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool

from renderer.errors import DiskError, ManifestError, RendererError
from renderer.job import Keep, Picture, Sidecar
from renderer.manifest.manifest import Manifest
from renderer.service.answers import openai_body, trouble_of
from renderer.service.batch_store import ENDED, BatchObject, BatchStore, ItemResult, RequestCounts, lines_of
from renderer.service.configuration import ServiceSettings
from renderer.service.guard import EventLog, place_of
from renderer.service.images import Pictures
from renderer.service.intake import Requested
from renderer.service.json_values import read_json
from renderer.service.openai_fields import translate
from renderer.service.standing import Standing, StoppingError, Whose

GENERATIONS = "/v1/images/generations"
OF_MANIFESTS = "/api/v1/batches"
_AT_ONCE = 32
_MOST_ERRORS = 100
_LOOK_S = 60.0
_AGAIN_S = 10.0
"""After so long a batch goes on whose disk took nothing."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What one of a batch asks for: pictures, how they are to be sent, and what is otherwise than was asked for."""

    wanted: Sequence[Requested]
    how: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Item:
    """One of a batch: what makes its pictures, when its turn comes. That may raise what is wrong with it."""

    custom_id: str
    read: Callable[[], Ask]


class _Invalid(Exception):  # noqa: N818  (no error of ours: what a batch's input is, and its clients are told)
    """A batch whose input is none: `errors` says what is wrong with it."""

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(errors)
        self.errors = {"object": "list", "data": list(errors)[:_MOST_ERRORS]}


class BatchRuns:
    """All batches of a server."""

    def __init__(self, store: BatchStore, pictures: Pictures, settings: ServiceSettings, log: EventLog) -> None:
        self._store = store
        self._pictures = pictures
        self._models = settings.shelf.models
        self._strict = settings.strict_models
        self._limits = settings.limits
        self._log = log
        self._saving = asyncio.Lock()
        self._going: dict[str, asyncio.Task[None]] = {}
        self._standing: dict[str, BatchObject] = {}
        self._manifests: dict[str, Manifest] = {}

    def resume(self) -> None:
        """Go on with those that have not ended. On the loop."""
        for batch in self._store.batches():
            if batch.status not in ENDED:
                self.begin(batch)

    def begin(self, batch: BatchObject, manifest: Manifest | None = None) -> None:
        """Have a batch go its way; it has been saved. `manifest` is its input, where that has been read."""
        self._standing[batch.id] = batch
        if manifest is not None:
            self._manifests[batch.id] = manifest
        self._going[batch.id] = asyncio.get_running_loop().create_task(self._run(batch.id))

    def look(self, key: str) -> BatchObject | None:
        """How a batch stands."""
        return self._standing.get(key) or self._store.batch(key)

    async def saved(self) -> None:
        """Until how batches stand now is on the disk, or the disk has not taken it: the next server says the same."""
        async with self._saving:
            pass

    def is_going(self, key: str) -> bool:
        """Whether a batch has not ended."""
        batch = self.look(key)
        return key in self._going or (batch is not None and batch.status not in ENDED)

    async def cancel(self, key: str) -> BatchObject | None:
        """Ask for no more of a batch's items; those that workers have come all the same."""
        batch = self.look(key)
        if batch is None or batch.status in ENDED or batch.status == "cancelling":
            return batch
        try:
            await self._becomes(batch.now("cancelling"))
        finally:
            self._withdraw(key)
        await self._pictures.desk.kept()
        return self.look(key)

    def _withdraw(self, key: str) -> None:
        """A batch wants none of what still waits for it: it was cancelled, or its time is up.

        Raises `StoppingError` where nothing is written down any more: it is still so when the server runs again.
        """
        if (batch := self._standing.get(key)) is not None:
            whose = Whose(batch.client, key)
            for standing in self._pictures.desk.standing:
                if whose in standing.wanted_by:
                    self._pictures.desk.cancel(standing.key, whose)

    async def _expire(self, key: str, at_s: float) -> None:
        """When a batch's time is up, by this machine's clock, which may be put right meanwhile."""
        while (left_s := at_s - time.time()) > 0:  # noqa: ASYNC110  (no event tells of a clock)
            await asyncio.sleep(min(left_s, _LOOK_S))
        with contextlib.suppress(StoppingError):
            self._withdraw(key)

    # -- one batch --

    async def _run(self, key: str) -> None:
        try:
            while True:
                if await self._is_through(key):
                    return
                await asyncio.sleep(_AGAIN_S)
        finally:
            self._going.pop(key, None)
            self._standing.pop(key, None)
            self._manifests.pop(key, None)

    async def _is_through(self, key: str) -> bool:
        """Go through a batch. False where the disk took nothing: what is not written down is asked for again."""
        try:
            try:
                await self._through(key)
            except Exception as error:  # noqa: BLE001  (whatever it is, the batch's client is told)
                await self._stopped_by(key, list(_causes(error)))
        except DiskError:
            return False
        return True

    async def _stopped_by(self, key: str, causes: Sequence[Exception]) -> None:
        """Say of a batch why it does not go on, if that is its end. Raises the `DiskError` that it is to wait for."""
        for cause in causes:
            if isinstance(cause, StoppingError):  # it goes on when the server runs again
                return
        for cause in causes:
            if isinstance(cause, DiskError):
                raise cause
        invalid = next((cause for cause in causes if isinstance(cause, _Invalid)), None)
        if invalid is None:
            trouble = trouble_of(causes[0])
            told = {"kind": type(causes[0]).__name__, "at": place_of(causes[0])}
            self._log("fault", {"batch": key, **told})
            invalid = _Invalid([{"code": trouble.code, "message": trouble.message, "line": None, "param": None}])
        self._standing[key] = self._standing[key].now("failed", errors=invalid.errors, **self._outputs(key))
        self._withdraw(key)
        await self._becomes(self._standing[key])

    async def _through(self, key: str) -> None:
        batch = self._standing[key]
        if batch.status in ENDED:  # that could not be written down
            await self._becomes(batch)
            return
        total = await run_in_threadpool(self._validate, batch)
        results = await run_in_threadpool(list, self._store.results(key))
        ended = {result.item for result in results}
        failed = sum(result.error is not None for result in results)
        counts = RequestCounts(total=total, completed=len(ended) - failed, failed=failed)
        batch = self._standing[key].model_copy(update={"request_counts": counts})
        await self._becomes(batch.now("in_progress") if batch.status == "validating" else batch)
        end = asyncio.create_task(self._expire(key, batch.expires_at))
        places = asyncio.Semaphore(_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                async for number, item in self._items(batch):
                    if number in ended:
                        continue
                    await places.acquire()
                    if not self._goes_on(key):
                        break
                    group.create_task(self._one(key, number, item, places))
        finally:
            end.cancel()
        if not self._goes_on(key):  # also where the server before was ended in between
            self._withdraw(key)
            await self._pictures.desk.kept()
        await self._finish(key)

    async def _items(self, batch: BatchObject) -> AsyncIterator[tuple[int, Item]]:
        if batch.endpoint == OF_MANIFESTS:
            pictures = (await run_in_threadpool(self._manifest, batch)).pictures
            for number, picture in enumerate(pictures):
                yield number, Item(picture.id, partial(self._picture, picture, batch.id, number))
            return
        for number, line in enumerate(lines_of(self._store.data(batch.input_file_id))):
            told = read_json(line)
            yield number, Item(told["custom_id"], partial(self._read, told["body"], batch.id))

    def _picture(self, picture: Picture, batch: str, number: int) -> Ask:
        return Ask([self._pictures.intake.requested(picture, batch, number)], {"keep": picture.keep})

    def _read(self, body: Mapping[str, Any], batch: str) -> Ask:
        asked = translate(body, self._models, strict=self._strict, derived=True)
        wanted = self._pictures.intake.read(asked.fields, batch)
        keep = wanted[0].keep if wanted else Keep()
        return Ask(wanted, {"keep": keep, "response_format": asked.response_format, "warnings": asked.warnings})

    async def _one(self, key: str, number: int, item: Item, places: asyncio.Semaphore) -> None:
        """One item, until it is known what becomes of it and that is written down."""
        try:
            known: list[Standing | Sidecar] = []
            result = ItemResult(item=number, custom_id=item.custom_id)
            try:
                ask = item.read()
                known = await self._pictures.ask(ask.wanted, Whose(self._standing[key].client, key))
                sidecars = await asyncio.gather(*map(self._pictures.wait, known))
                update = {"pictures": tuple(sidecar.id for sidecar in sidecars), **ask.how}
                result = result.model_copy(update=update)
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
        outputs = self._outputs(key)
        if batch.status == "cancelling":
            await self._becomes(batch.now("cancelled", **outputs))
        elif left:
            await self._becomes(batch.now("expired", **outputs))
        else:
            await self._becomes(batch.now("finalizing"))
            await self._becomes(self._standing[key].now("completed", **outputs))

    def _outputs(self, key: str) -> dict[str, str | None]:
        counts = self._standing[key].request_counts
        return {
            "output_file_id": f"{key}-output" if counts.completed else None,
            "error_file_id": f"{key}-errors" if counts.failed else None,
        }

    async def _becomes(self, batch: BatchObject) -> None:
        """A batch stands otherwise, and that is on the disk on return."""
        self._standing[batch.id] = batch
        async with self._saving:  # what is saved last is how it stands
            await run_in_threadpool(self._store.save, self._standing.get(batch.id, batch))

    # -- what it is made of --

    def _manifest(self, batch: BatchObject) -> Manifest:
        if batch.id not in self._manifests:
            data = self._store.data(batch.input_file_id).read_bytes()
            self._manifests[batch.id] = self._pictures.intake.read_manifest(data, "manifest")
        return self._manifests[batch.id]

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


def _causes(error: Exception) -> Iterator[Exception]:
    """The errors that a group of tasks ended with, each by itself."""
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    else:
        yield error


def wrong(line: bytes, endpoint: str, seen: set[str]) -> tuple[str, str] | None:
    """What is wrong with a batch's line, as a code and a sentence; `seen` are the ids of those before it."""
    try:
        told = read_json(line)
    except RecursionError:
        return "invalid_json_line", "the line is nested too deeply"
    except ValueError as error:
        return "invalid_json_line", f"the line is no JSON: {error}"
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
