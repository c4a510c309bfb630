"""The page over HTTP, to this machine alone: files that it needs, and server-sent events for what changes.

Bound to 127.0.0.1 and asked by that name or localhost only, so that no other site's script can reach it by a name of
its own (DNS rebinding); by whatever port, for a tunnel's other end has one of its own. Other users of this machine are
turned away. Nothing is looked up by a path that came in: a name is one that the page uses, or it is none.
Standard library only; runs in threads beside whatever else this process does, and is never in its way.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any, BinaryIO, ClassVar, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from renderer.errors import RendererError, UsageError
from renderer.outputs.folder import Own
from renderer.report import visitors
from renderer.report.gallery import CORE_SHARE, Gallery, Served

ADDRESS = "127.0.0.1"
_EVERY_S = 0.5
_ALIVE_S = 10.0
_LINGER_S = 3.0
_MAX_LISTENERS = 32
_MAX_CONNECTIONS = 64
_OWN_NAMES = re.compile(rf"({re.escape(ADDRESS)}|localhost|\[::1\])(:\d{{1,5}})?", re.IGNORECASE)
_NOT_YOURS = """\
This page is shown to the user who serves it, and you are another one of this machine.
Where you may read the pictures, `renderer report` with --watch shows it to you.
"""
TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".avif": "image/avif",
}
_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
}


class Server:
    """Serves galleries from its beginning to its end, and keeps them up to date meanwhile."""

    def __init__(self, galleries: Sequence[Gallery], port: int = 0) -> None:
        """`port` 0 lets the system choose. Raises `UsageError` when the port is not to be had."""
        self._galleries = {gallery.name: gallery for gallery in galleries}
        try:
            self._http = _Http((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot serve on port {port}: {reason}", hint="leave --port out") from error
        self._http.galleries = self._galleries
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._http.serve_forever, args=(0.1,), name="page", daemon=True),
            threading.Thread(target=self._follow, name="page-follower", daemon=True),
        ]

    @property
    def urls(self) -> list[str]:
        """Where each gallery's page is."""
        return [f"http://{ADDRESS}:{self._http.server_port}/{quote(name)}/" for name in self._galleries]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Tell those who listen what came last, let them fetch it, and end."""
        self._ended.set()
        self._threads[1].join(_LINGER_S)
        self._look()
        for gallery in self._galleries.values():
            gallery.close()
        until = time.monotonic() + _LINGER_S
        while self._http.is_busy() and time.monotonic() < until:
            time.sleep(0.05)
        self._http.shutdown()
        self._http.server_close()

    def _follow(self) -> None:
        pause_s = _EVERY_S
        while not self._ended.wait(pause_s):
            began = time.thread_time()
            self._look()
            pause_s = max(_EVERY_S, (time.thread_time() - began) / CORE_SHARE)

    def _look(self) -> None:
        for gallery in self._galleries.values():
            with contextlib.suppress(Exception):  # whatever it is, the run is not to hear of it; it is tried again soon
                gallery.follow()


class _Http(ThreadingHTTPServer):
    """The standard library's server, quiet about clients that vanish, and never waited for."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = _MAX_CONNECTIONS  # five, its own number, makes a browser's sixth wait for a second
    galleries: Mapping[str, Gallery]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._listeners = threading.BoundedSemaphore(_MAX_LISTENERS)
        self._connections = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._count = threading.Lock()
        self._busy = 0
        self._heard_at = float("-inf")

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a client a thread, unless too many have one: who comes then is let go, and may come again."""
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a client, and give its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does something unheard of is no concern of whoever renders."""

    @contextlib.contextmanager
    def listener(self) -> Any:
        """A place for somebody who listens; None when all are taken."""
        taken = self._listeners.acquire(blocking=False)
        try:
            yield taken
        finally:
            if taken:
                self._listeners.release()

    @contextlib.contextmanager
    def serving(self) -> Any:
        with self._count:
            self._busy += 1
        try:
            yield
        finally:
            with self._count:
                self._busy -= 1
                self._heard_at = time.monotonic()

    def is_busy(self) -> bool:
        """Whether anybody is being served, or was a moment ago."""
        return self._busy > 0 or time.monotonic() - self._heard_at < 2 * _EVERY_S


class _Handler(BaseHTTPRequestHandler):
    """Answers one client's requests."""

    server: _Http
    protocol_version = "HTTP/1.1"
    server_version = "renderer"
    sys_version = ""
    timeout: ClassVar[float] = 30.0

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError), self.server.serving():
            self._answer()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """The terminal is the run's."""

    def setup(self) -> None:
        """Look once, for all that this client will ask, who it is."""
        super().setup()
        self._welcome = visitors.is_welcome(self.client_address, (ADDRESS, self.server.server_port))

    def _answer(self) -> None:
        if not _OWN_NAMES.fullmatch(self.headers.get("Host") or ""):
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST)
            return
        if not self._welcome:
            self._send("text/plain; charset=utf-8", _NOT_YOURS.encode(), HTTPStatus.FORBIDDEN)
            return
        try:
            url = urlsplit(self.path)
            name, _, rest = unquote(url.path, errors="strict").removeprefix("/").partition("/")
        except ValueError:
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        gallery = self.server.galleries.get(name)
        if gallery is None and not name:
            self._redirect(next(iter(self.server.galleries)))
        elif gallery is None:
            self._refuse(HTTPStatus.NOT_FOUND)
        elif not url.path.endswith("/") and not rest:
            self._redirect(name)
        elif rest in {"", Own.PAGE}:
            self._send(TYPES[".html"], gallery.html())
        elif rest == "happened":
            self._send(TYPES[".html"], gallery.happened())
        elif rest == "events":
            self._stream(gallery, parse_qs(url.query).get("since", [""])[0])
        else:
            self._send_file(gallery, rest)

    def _refuse(self, status: HTTPStatus) -> None:
        self._send("text/plain; charset=utf-8", f"{status.phrase}\n".encode(), status)

    def _redirect(self, name: str) -> None:
        self._begin(HTTPStatus.FOUND, {"Location": f"/{quote(name)}/", "Content-Length": "0"})

    def _begin(self, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, kind: str, body: bytes, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._begin(status, {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store"})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_file(self, gallery: Gallery, name: str) -> None:
        try:
            found = gallery.file(name)
            stream = open_served(found) if found else None
        except (OSError, RendererError):
            stream = None
        if found is None or stream is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        with stream:
            headers = {
                "Content-Type": TYPES.get(PurePosixPath(name).suffix, "application/octet-stream"),
                "Content-Length": str(os.fstat(stream.fileno()).st_size),
                "Cache-Control": "max-age=31536000, immutable" if found.lasting else "no-cache",
            }
            self._begin(HTTPStatus.OK, headers)
            if self.command != "HEAD":
                shutil.copyfileobj(stream, self.wfile)

    def _stream(self, gallery: Gallery, mark: str) -> None:
        """Server-sent events (HTML, 9.2), until the client has gone or the server ends."""
        with self.server.listener() as taken:
            if not taken:
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
                return
            self.close_connection = True
            headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "Connection": "close"}
            self._begin(HTTPStatus.OK, headers)
            mark = self.headers.get("Last-Event-ID") or mark
            patience_s: float | None = None  # whoever comes hears at once how things stand
            while self.command != "HEAD":
                change = gallery.since(mark, patience_s)
                patience_s = _ALIVE_S
                if change is None:
                    self.wfile.write(b": still here\n\n")  # or it would not be seen that nobody is
                else:
                    mark = change.mark
                    self.wfile.write(f"id: {mark}\ndata: {change.text}\n\n".encode())
                self.wfile.flush()
                if change is not None and change.last:
                    return


def open_served(found: Served) -> BinaryIO:
    """Open a file to be served. Raises `OSError` for a link, for what lies outside its folder, for what is no file."""
    if not found.path.parent.resolve().is_relative_to(found.root.resolve()):
        raise PermissionError(found.path)
    descriptor = os.open(found.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PermissionError(found.path)
    return os.fdopen(descriptor, "rb")
