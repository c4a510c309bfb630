"""A server from its beginning to its end: its folder held, its queue taken up, HTTP in a thread, rendering in this one.

Whatever ends it, what was accepted is on the disk, and the next one goes on from there. Knows no routes.
"""

from __future__ import annotations

import asyncio
import socket

from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files, status
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal
from renderer.planning import owner
from renderer.service.app import AppParts, build
from renderer.service.batch_runs import BatchRuns
from renderer.service.batch_store import BatchStore
from renderer.service.configuration import ServiceSettings
from renderer.service.desk import Desk
from renderer.service.guard import EventLog, place_of
from renderer.service.http_server import HttpServer, listen
from renderer.service.images import Pictures
from renderer.service.intake import Intake
from renderer.service.request_queue import RequestQueue
from renderer.service.shifts import Shifts
from renderer.supervisor import events, local_worker
from renderer.supervisor.events import Watch
from renderer.supervisor.settings import StopRequests
from renderer.system import heap

_LAST_LINES_S = 5.0
"""For so long the end of a server waits for what is still to be written down."""


def serve(settings: ServiceSettings, stop: StopRequests, log: EventLog, watch: Watch) -> None:
    """Serve until somebody asks to stop. To be called in the main thread, of which workers are children.

    Raises `LockedError` where another run holds the folder, `UsageError` where the port cannot be had, `DiskError`.
    """
    settings.check()
    heap.give_back_large()
    folder = OutputFolder(settings.rendering.outputs / settings.name)
    listening = listen(settings.host, settings.port)
    with listening, folder.locked():
        owner.check(folder, Manifest(file=folder.queue.name, name=settings.name, pictures=()))
        if (left := status.left_behind(folder)) is not None:
            local_worker.end_orphans(left)
        picture_files.sweep(folder)
        _Server(settings, folder, listening, log, watch, stop).run()


class _Server:
    """The parts of a server, and how they hang together."""

    def __init__(
        self, settings: ServiceSettings, folder: OutputFolder, listening: socket.socket, log: EventLog, watch: Watch,
        stop: StopRequests,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._log = log
        self._watch = watch
        self._stop = stop
        journal = Journal.read(folder)
        journal.compact()
        queue = RequestQueue()
        self._intake = Intake(settings.shelf, settings.limits)
        self._shifts = Shifts(settings, folder, journal, queue, self._heard)
        most_waiting, wake = settings.limits.waiting, self._shifts.wake
        self._desk = Desk(folder, journal, queue, self._intake, most_waiting=most_waiting, wake=wake, stop=stop)
        pictures = Pictures(folder, self._desk, self._intake, self._shifts)
        store = BatchStore(folder)
        self._runs = BatchRuns(store, pictures, settings, log)
        app = build(AppParts(settings, pictures, queue, self._shifts, store, self._runs), log)
        self._http = HttpServer(
            app,
            listening,
            only_this_user=not settings.keys,
            others_hint="a token opens it",
            connections=settings.limits.connections,
            begin=self._attach,
            complain=lambda error: log("fault", {"kind": type(error).__name__, "at": place_of(error)}),
        )

    def run(self) -> None:
        self._intake.prepare()
        if restored := self._desk.restore():
            self._log("restored", {"pictures": restored})
        with self._http:
            self._log("serving", {"url": self._http.url, "models": list(self._intake.models)})
            self._watch(events.Serving(self._http.url))
            try:
                preload = self._intake.usual_weights() if self._settings.preload else None
                self._shifts.run(self._stop, preload)
            finally:
                self._http.wait(self._desk.end(), _LAST_LINES_S)
        self._log("stopped", {"left": len(self._desk.standing)})

    def _attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._desk.attach(loop)
        loop.call_soon(self._runs.resume)

    def _heard(self, what: events.Event) -> None:
        self._desk.heard(what)
        self._watch(what)
