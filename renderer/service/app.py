"""The applications: routes behind the guard. Built from parts that are made elsewhere; knows no sockets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from renderer.errors import RendererError
from renderer.service.album import AlbumRoutes
from renderer.service.answers import RequestError, respond, trouble_of
from renderer.service.automatic1111 import WebuiRoutes
from renderer.service.batch_runs import BatchRuns
from renderer.service.batch_store import BatchStore
from renderer.service.configuration import Limits, ServiceSettings
from renderer.service.guard import EventLog, Guard
from renderer.service.health import HealthRoutes
from renderer.service.images import ImageRoutes, Pictures
from renderer.service.openai_batches import BatchRoutes
from renderer.service.openai_images import OpenAIRoutes
from renderer.service.openapi import DocumentRoutes
from renderer.service.request_queue import RequestQueue
from renderer.service.shifts import Shifts


@dataclass(frozen=True, slots=True)
class AppParts:
    """What the routes need."""

    settings: ServiceSettings
    pictures: Pictures
    queue: RequestQueue
    shifts: Shifts
    store: BatchStore
    runs: BatchRuns


def build(parts: AppParts, log: EventLog) -> Guard:
    """The application that answers requests for pictures."""
    health = HealthRoutes(parts.pictures.desk, parts.queue, parts.shifts)
    operations = [
        *health.operations,
        *AlbumRoutes(parts.pictures, parts.settings).operations,
        *ImageRoutes(parts.pictures).operations,
        *OpenAIRoutes(parts.pictures, parts.settings).operations,
        *WebuiRoutes(parts.pictures, parts.settings).operations,
        *BatchRoutes(parts.store, parts.runs, parts.pictures).operations,
    ]
    routes = [each.route for each in (*operations, *DocumentRoutes(operations).operations)]
    guard = guarded(routes, keys=parts.settings.keys, limits=parts.settings.limits, log=log)
    health.guard = guard
    return guard


def guarded(routes: Sequence[BaseRoute], *, keys: Sequence[str], limits: Limits, log: EventLog) -> Guard:
    """Routes as they are served: nobody comes to them but by the guard, and what they raise becomes an answer."""
    handlers = {HTTPException: _refuse, RendererError: _answer, ClientDisconnect: _forget, Exception: _answer}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), keys, limits, log)


async def _answer(request: Request, error: Exception) -> Response:
    """What a route raises."""
    return respond(trouble_of(error), request.url.path)


async def _forget(request: Request, _error: Exception) -> Response:
    """A client that goes before its request is whole: nobody reads this, and it is counted as what it is."""
    return respond(trouble_of(RequestError(400, "gone", "the request ended in its middle")), request.url.path)


async def _refuse(request: Request, error: Exception) -> Response:
    """What the routes themselves refuse: a path that there is not, a method that one does not have."""
    assert isinstance(error, HTTPException)
    codes = {404: ("unknown", "there is nothing at this path"), 405: ("method", "this path takes another method")}
    code, said = codes.get(error.status_code, ("refused", error.detail))
    answer = respond(trouble_of(RequestError(error.status_code, code, said)), request.url.path)
    answer.headers.update(error.headers or {})
    return answer
