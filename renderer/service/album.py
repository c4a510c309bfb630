"""What a browser sees: a form that sends a prompt or a manifest, how things stand, and the page of what was rendered.

GET /                       the form, with its script and its stylesheet
GET /pictures/…             the page of the newest pictures, as of any other folder, and its files
GET /api/v1/images/{id}/events    a picture's steps, as they are done
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response

from renderer.job import Picture, Sidecar, fingerprint
from renderer.manifest.manifest import Manifest
from renderer.outputs.folder import SIDECAR_SUFFIX, OutputFolder
from renderer.outputs.picture_files import read_sidecar
from renderer.planning.plan import make_plan
from renderer.report import gather, page
from renderer.report.gallery import Gallery
from renderer.service import gallery_files
from renderer.service.answers import RequestError
from renderer.service.configuration import ServiceSettings
from renderer.service.event_stream import ALIVE_S, Listeners, event
from renderer.service.gallery_files import HTML
from renderer.service.images import Pictures
from renderer.service.intake import ID_LETTERS
from renderer.service.operations import Operation
from renderer.service.queue_file import Ended
from renderer.service.standing import Standing

MOST_SHOWN = 300
"""Pictures on the page: the newest ones."""

_HERE = Path(__file__).parent
_FORM = {"form.css": "text/css; charset=utf-8", "form.js": "text/javascript; charset=utf-8"}
_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The page as it was drawn, and what finds its files; `count` is how many had been rendered then."""

    html: bytes
    gallery: Gallery
    count: int
    at_s: float


class AlbumRoutes:
    """The routes of this module."""

    def __init__(self, pictures: Pictures, settings: ServiceSettings) -> None:
        self._pictures = pictures
        self._outputs = settings.rendering.outputs
        self._folder = OutputFolder(self._outputs / settings.name)
        self._name = settings.name
        self._listeners = Listeners(settings.limits.streams)
        self._drawing = asyncio.Lock()
        self._drawn: _Drawn | None = None
        self.operations = [
            Operation("GET", "/", self.form, "text/html"),
            *(Operation("GET", f"/{name}", self.asset, kind.partition(";")[0]) for name, kind in _FORM.items()),
            Operation("GET", "/pictures", self.to_album, "text/html", also={307: "text/html"}),
            Operation("GET", "/pictures/", self.album, "text/html"),
            Operation("GET", "/pictures/{name:path}", self.file, "*/*"),
            Operation("GET", "/api/v1/images/{key}/events", self.events, "text/event-stream"),
        ]

    async def form(self, _request: Request) -> Response:
        """The form."""
        headers = {"Content-Security-Policy": _POLICY}
        return FileResponse(_HERE / "form.html", media_type=HTML, headers=headers)

    async def asset(self, request: Request) -> Response:
        """Its script or its stylesheet."""
        name = request.url.path.removeprefix("/")
        return FileResponse(_HERE / name, media_type=_FORM[name])

    async def to_album(self, _request: Request) -> Response:
        """The way to the page."""
        return RedirectResponse("/pictures/")

    async def album(self, _request: Request) -> Response:
        """The page of the newest pictures, at most so old."""
        return Response((await self._now()).html, media_type=HTML)

    async def file(self, request: Request) -> Response:
        """A file that the page calls for; any other name is none."""
        gallery = (await self._now()).gallery
        return await gallery_files.answer(request, gallery, request.path_params["name"], fleeting="private, max-age=60")

    async def events(self, request: Request) -> Response:
        """A picture's steps, until it is decided what became of it."""
        known = self._pictures.desk.look(request.path_params["key"])
        if known is None:
            raise RequestError(404, "unknown", "nobody has asked for such a picture here")
        return self._listeners.answer(request, _steps(known))

    # -- the page --

    async def _now(self) -> _Drawn:
        count = self._pictures.desk.counts.rendered
        drawn = self._drawn
        if drawn is not None and (drawn.count == count or time.monotonic() - drawn.at_s < _EVERY_S):
            return drawn
        async with self._drawing:
            if self._drawn is drawn:
                self._drawn = await run_in_threadpool(self._draw, count)
            assert self._drawn is not None
            return self._drawn

    def _draw(self, count: int) -> _Drawn:
        manifest = Manifest(file=self._folder.queue.name, name=self._name, pictures=tuple(self._newest()))
        plan = make_plan(manifest, self._outputs)
        html = page.write_html(gather.gather(plan), form="../").encode()
        return _Drawn(html, Gallery(manifest, self._outputs), count, time.monotonic())

    def _newest(self) -> list[Picture]:
        """The newest pictures that are there, the first one first."""
        names = [entry for entry in _entries(self._folder.path) if len(entry.name) == ID_LETTERS + len(SIDECAR_SUFFIX)]
        names.sort(key=lambda entry: entry.stat().st_mtime_ns, reverse=True)
        shown = []
        for entry in names[:MOST_SHOWN]:
            sidecar = read_sidecar(Path(entry.path))
            if sidecar is not None and (picture := self._picture(sidecar)) is not None:
                shown.append(picture)
        return shown

    def _picture(self, sidecar: Sidecar) -> Picture | None:
        """A picture as it was asked for; None for one of a model that the server has no more."""
        reference = self._pictures.intake.reference_of(sidecar.model)
        if reference is None:
            return None
        job = sidecar.job.model_copy(update={"model": reference})
        if fingerprint(job, sidecar.model) != sidecar.fingerprint:
            return None
        return Picture(id=sidecar.id, output=sidecar.id, job=job, place=sidecar.place, keep=sidecar.keep)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if entry.name.endswith(SIDECAR_SUFFIX) and entry.is_file()]
    except OSError:
        return []


async def _steps(known: Standing | Ended | Sidecar) -> AsyncIterator[str]:
    """How a picture stands, as it moves on."""
    if isinstance(known, Sidecar):
        yield _event({"state": "done"})
        return
    if isinstance(known, Standing):
        async for _ in known.follow(ALIVE_S):
            yield _event({"state": known.state, "step": known.step, "steps": known.steps})
    state = known.state if isinstance(known, Standing) else known.how
    yield _event({"state": state, "message": known.message, "hint": known.hint})


def _event(told: dict[str, object]) -> str:
    return event(json.dumps(told, ensure_ascii=False))
