"""Pages over HTTP while a run is on, to this user of this machine: what they call for, and what changes, as it does.

The server of requests without its queue: `render --live` and `report --watch`. It follows output folders from outside,
in a thread beside whatever else this process does, and is never in its way. Nothing is looked up by a path that came
in: a name is one that the page uses, or it is none.

GET /                               the first page, as soon as there is one
GET /{name}/                        a manifest's page
GET /{name}/happened, …/events      what stands under "What happened"; what changes, as server-sent events
GET /{name}/…                       a file that the page calls for
POST /{name}/marks                  pictures are marked: their ids, and stars, x or null
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from renderer.errors import DiskError, UsageError
from renderer.job import Value
from renderer.manifest.manifest import Manifest
from renderer.outputs.folder import Own
from renderer.outputs.picks import Pick
from renderer.report.gallery import CORE_SHARE, Gallery
from renderer.service import gallery_files
from renderer.service.answers import RequestError
from renderer.service.app import guarded
from renderer.service.configuration import Limits
from renderer.service.event_stream import ALIVE, ALIVE_S, Listeners, event
from renderer.service.gallery_files import HTML
from renderer.service.http_server import HttpServer, listen

_ADDRESS = "127.0.0.1"
_EVERY_S = 0.5
_LINGER_S = 3.0
_LIMITS = Limits(connections=64, streams=32)
_MOST_PAGES = 256
"""Of manifests that came one after the other, the last so many have a page."""

_OTHERS = "where you may read the pictures, renderer report with --watch shows the page to you"


class WatchServer:
    """Serves galleries from its beginning to its end, and keeps them up to date meanwhile."""

    def __init__(self, galleries: Sequence[Gallery], port: int = 0) -> None:
        """`port` 0 lets the system choose. Raises `UsageError` when the port is not to be had."""
        self._names = [gallery.name for gallery in galleries]
        listening = listen(_ADDRESS, port)
        pages = _Pages(galleries)
        self._guard = guarded(pages.routes, keys=(), limits=_LIMITS, log=_say_nothing)
        self._pages = pages
        self._http = HttpServer(
            self._guard,
            listening,
            only_this_user=True,
            others_hint=_OTHERS,
            connections=_LIMITS.connections,
            begin=pages.begin,
            complain=lambda _: None,
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._http.port

    @property
    def urls(self) -> list[str]:
        """Where each gallery's page is; where there is none yet, where the first will be found."""
        return [self._url_of(name) for name in self._names] or [f"{self._http.url}/"]

    def follow(self, manifest: Manifest, outputs: Path) -> None:
        """Have a page for a manifest too that is on its way: one of its own, or another where it has changed.

        That is the server's work; `take_new_urls` says when it is there.
        """
        self._pages.coming.put((manifest, outputs))

    def take_new_urls(self) -> list[str]:
        """Where the pages are that have come since it was asked last."""
        found = []
        while not self._pages.came.empty():
            found.append(self._url_of(self._pages.came.get()))
        return found

    def _url_of(self, name: str) -> str:
        return f"{self._http.url}/{quote(name)}/"

    def __enter__(self) -> Self:
        """Begin. Raises `RuntimeError` where no thread is to be had."""
        self._http.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Tell those who listen what came last, let them fetch it, and end."""
        lately_s = 2 * _EVERY_S if self._pages.is_heard else 0.0  # whoever hears of the last picture asks for it
        self._http.wait(self._pages.end(_LINGER_S), 2 * _LINGER_S)
        until = time.monotonic() + _LINGER_S
        while self._guard.is_busy(lately_s) and time.monotonic() < until:
            time.sleep(0.05)
        self._http.__exit__()


class _Marks(Value):
    """What a page sends when somebody marks pictures."""

    marks: Annotated[dict[str, Pick | None], Field(min_length=1, max_length=100_000)]


class _Pages:
    """The routes, and what keeps their galleries up to date. Lives on the event loop."""

    def __init__(self, galleries: Sequence[Gallery]) -> None:
        self._galleries = {gallery.name: gallery for gallery in galleries}
        self.coming: queue.SimpleQueue[tuple[Manifest, Path]] = queue.SimpleQueue()
        self.came: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listeners = Listeners(_LIMITS.streams)
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._one_at_a_time = CapacityLimiter(1)  # of its own: who asks for much holds nothing of it
        self.routes = [
            Route("/", self.first, methods=["GET"]),
            Route("/{gallery}", self.bare, methods=["GET"]),
            Route("/{gallery}/", self.page, methods=["GET"]),
            Route(f"/{{gallery}}/{Own.PAGE}", self.page, methods=["GET"]),
            Route("/{gallery}/happened", self.happened, methods=["GET"]),
            Route("/{gallery}/events", self.events, methods=["GET"]),
            Route("/{gallery}/marks", self.marks, methods=["POST"]),
            Route("/{gallery}/{name:path}", self.file, methods=["GET"]),
        ]

    # -- what is asked for --

    async def first(self, _request: Request) -> Response:
        """The way to the first page; where there is none yet, whoever asks looks again by himself."""
        if (name := next(iter(self._galleries), None)) is not None:
            return _to(name)
        return Response("no manifest has come yet", media_type="text/plain", headers={"Refresh": "2"})

    async def bare(self, request: Request) -> Response:
        """The way to a page whose address has no slash at its end."""
        return _to(self._asked(request).name)

    async def page(self, request: Request) -> Response:
        """A page, as new as it may be."""
        return Response(await run_in_threadpool(self._asked(request).html), media_type=HTML)

    async def happened(self, request: Request) -> Response:
        """What stands under "What happened"."""
        return Response(await run_in_threadpool(self._asked(request).happened), media_type=HTML)

    async def file(self, request: Request) -> Response:
        """A file that the page calls for; any other name is none."""
        name = request.path_params["name"]
        return await gallery_files.answer(request, self._asked(request), name, fleeting="no-cache")

    async def events(self, request: Request) -> Response:
        """What has changed since the mark that a browser has, and what changes from now on."""
        mark = request.headers.get("last-event-id") or request.query_params.get("since", "")
        return self._listeners.answer(request, self._told(self._asked(request).name, mark))

    async def marks(self, request: Request) -> Response:
        """Mark pictures. Every window that is open sees it, this one too."""
        gallery = self._asked(request)
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise RequestError(415, "type", "marks come as application/json")
        try:
            wanted = _Marks.model_validate_json(await request.body()).marks
        except ValidationError:
            hint = 'like {"marks": {"moon-s1": 5}}; 1 to 5, "x" or null'
            raise RequestError(400, "marks", "these are no marks", hint=hint) from None
        try:
            await run_in_threadpool(gallery.mark, wanted)
        except UsageError as error:
            raise RequestError(404, "unknown", error.message) from None
        except DiskError as error:  # told as it is: whoever asks is the user whose folder this is
            raise RequestError(507, "disk", error.message, hint=error.hint) from None
        await to_thread.run_sync(self._look, limiter=self._one_at_a_time)
        self._tell()
        return Response(status_code=204)

    def _asked(self, request: Request) -> Gallery:
        gallery = self._galleries.get(request.path_params["gallery"])
        if gallery is None:
            raise RequestError(404, "unknown", "there is no such page here")
        return gallery

    async def _told(self, name: str, mark: str) -> AsyncIterator[str]:
        patience_s: float | None = None  # whoever comes hears at once how things stand
        while (gallery := self._galleries.get(name)) is not None:
            news = self._news
            change = await run_in_threadpool(gallery.since, mark, patience_s)
            patience_s = 0.0
            if change is not None:
                mark = change.mark
                yield event(change.text, mark=mark)
                if change.last:
                    return
            elif not await _comes(news, ALIVE_S):
                yield ALIVE

    # -- keeping up to date --

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens."""
        return self._listeners.count > 0

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Follow the galleries from now on."""
        self._following = loop.create_task(self._follow())

    async def end(self, patience_s: float) -> None:
        """Look once more, and let nobody wait for more."""
        self._ended.set()
        if self._following is not None:
            await asyncio.wait([self._following], timeout=patience_s)
        await to_thread.run_sync(self._look, limiter=self._one_at_a_time)
        for gallery in list(self._galleries.values()):
            gallery.close()
        self._tell()

    async def _follow(self) -> None:
        pause_s = _EVERY_S
        while not await _comes(self._ended, pause_s):
            took_s = await to_thread.run_sync(self._look, limiter=self._one_at_a_time)
            self._tell()
            pause_s = max(_EVERY_S, took_s / CORE_SHARE)

    def _look(self) -> float:
        """Look for what has changed; how many seconds of a core that took."""
        began = time.thread_time()
        while not self.coming.empty():
            with contextlib.suppress(Exception):  # as below; it has no page then
                self._take_in(*self.coming.get())
        for gallery in list(self._galleries.values()):
            with contextlib.suppress(Exception):  # whatever it is, the run is not to hear of it; it is tried again soon
                gallery.follow()
        return time.thread_time() - began

    def _take_in(self, manifest: Manifest, outputs: Path) -> None:
        known = self._galleries.get(manifest.name)
        if known is not None and known.is_of(manifest):
            return
        self._galleries[manifest.name] = Gallery(manifest, outputs)
        if known is None:
            self.came.put(manifest.name)
        for name in list(self._galleries)[:-_MOST_PAGES]:
            del self._galleries[name]

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


async def _comes(what: asyncio.Event, within_s: float) -> bool:
    """Whether it happens within so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(what.wait(), within_s)
    return what.is_set()


def _to(name: str) -> Response:
    return RedirectResponse(f"/{quote(name)}/", 302)


def _say_nothing(_event: str, _told: Mapping[str, Any]) -> None:
    """The terminal is the run's."""
