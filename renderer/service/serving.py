"""A server from its beginning to its end: its folder held, its queue taken up, HTTP in a thread, rendering in this one.

Whatever ends it, what was accepted is on the disk, and the next one goes on from there. Knows no routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from renderer.errors import UsageError
from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files, status
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal
from renderer.planning import owner
from renderer.report import visitors
from renderer.service.app import AppParts, build
from renderer.service.batch_runs import BatchRuns
from renderer.service.batch_store import BatchStore
from renderer.service.configuration import ServiceSettings
from renderer.service.desk import Desk
from renderer.service.guard import EventLog
from renderer.service.images import Pictures
from renderer.service.intake import Intake
from renderer.service.request_queue import RequestQueue
from renderer.service.shifts import Shifts
from renderer.supervisor import events, local_worker
from renderer.supervisor.events import Watch
from renderer.supervisor.settings import StopRequests

_HEAD_S = 20.0
"""Within so long a client that has come, or that begins another request, says what it wants."""

_MOST_HEAD_BYTES = 2**15
_LINGER_S = 5
_LOOK_S = 0.05
_NOT_YOURS = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    b'{"error":{"code":"user","message":"this server is another user\'s","field":null,"hint":"a token opens it"}}'
)


def serve(settings: ServiceSettings, stop: StopRequests, log: EventLog, watch: Watch) -> None:
    """Serve until somebody asks to stop. To be called in the main thread, of which workers are children.

    Raises `LockedError` where another run holds the folder, `UsageError` where the port cannot be had, `DiskError`.
    """
    settings.check()
    folder = OutputFolder(settings.rendering.outputs / settings.name)
    listening = _listen(settings)
    with listening, folder.locked():
        owner.check(folder, Manifest(file=folder.queue.name, name=settings.name, pictures=()))
        if (left := status.left_behind(folder)) is not None:
            local_worker.end_orphan(left)
        picture_files.sweep(folder)
        _Server(settings, folder, listening, log, watch, stop).run()


class _Server:
    """The parts of a server, and how they hang together."""

    def __init__(
        self, settings: ServiceSettings, folder: OutputFolder, listening: socket.socket, log: EventLog, watch: Watch,
        stop: StopRequests,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._listening = listening
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
        self._http = _Http(app, settings, listening, self._attach)

    def run(self) -> None:
        self._intake.prepare()
        if restored := self._desk.restore():
            self._log("restored", {"pictures": restored})
        with self._http:
            host, port = self._listening.getsockname()[:2]
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            self._log("serving", {"url": url, "models": list(self._intake.models)})
            self._watch(events.Serving(url))
            try:
                preload = self._intake.usual_weights() if self._settings.preload else None
                self._shifts.run(self._stop, preload)
            finally:
                self._http.call(self._desk.stop)
        self._log("stopped", {"left": len(self._desk.standing)})

    def _attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._desk.attach(loop)
        loop.call_soon(self._runs.resume)

    def _heard(self, what: events.Event) -> None:
        self._desk.heard(what)
        self._watch(what)


class _Http:
    """uvicorn in a thread of its own. A context: at its end answers that are being given have a moment."""

    def __init__(
        self,
        app: Any,
        settings: ServiceSettings,
        listening: socket.socket,
        attach: Callable[[asyncio.AbstractEventLoop], None],
    ) -> None:
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=settings.limits.connections,
            h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_LINGER_S,
        )
        _Protocol.only_this_user = not settings.keys
        self._server = _Quiet(config)
        self._listening = listening
        self._attach = attach
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(_LINGER_S + 1)

    def call(self, what: Callable[[], None]) -> None:
        """Have something done on the loop."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(what)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._attach(self._loop)
        self._loop.run_until_complete(self._server.serve(sockets=[self._listening]))


class _Quiet(uvicorn.Server):
    """uvicorn's server without its handlers of signals: who stops the renderer decides what that means."""

    def capture_signals(self) -> Any:
        return contextlib.nullcontext()


class _Protocol(H11Protocol):
    """uvicorn's protocol, which lets no other user of this machine in, and nobody wait who says nothing."""

    only_this_user = True
    _watching: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override, unused-ignore]
        super().connection_made(transport)
        here, peer = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        if self.only_this_user and len(peer) == 2 and not visitors.is_welcome(peer, here):  # noqa: PLR2004
            transport.write(_NOT_YOURS)
            transport.close()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._watch_no_more()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answered:
            self._watch()  # uvicorn watches only those that say nothing at all
        else:
            self._watch_no_more()

    @property
    def _is_answered(self) -> bool:
        """Whether what it asked for, if anything, has been answered: what it says now is the next request's."""
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        if self._watching is None and not self.transport.is_closing():
            self._watching = self.loop.call_later(_HEAD_S, self._look)

    def _watch_no_more(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def _look(self) -> None:
        """Let go of a client that has not said yet what it wants."""
        self._watching = None
        if self._is_answered and not self.transport.is_closing():
            self.transport.close()


def _listen(settings: ServiceSettings) -> socket.socket:
    """A socket at the port, or `UsageError`."""
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        made = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
        made.setblocking(False)  # noqa: FBT003
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"cannot serve on {settings.host}, port {settings.port}: {reason}"
        raise UsageError(message, hint="--port takes another") from error
    return made
