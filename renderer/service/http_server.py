"""uvicorn in a thread of its own: at one socket, for those who may come in, and for nobody who dawdles.

Both servers are this one, that of requests and that of pages. Knows no routes. Whatever a client does, the process has
files left for what it is there for, and a thread that nobody waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import resource
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Self

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from renderer.errors import UsageError
from renderer.service import visitors

_HEAD_S = 20.0
"""Within so long a client that has come, or that begins another request, says what it wants."""

_STALLED_S = 30.0
"""For so long a client may take nothing of what is sent to it."""

_MOST_HEAD_BYTES = 2**15
_LINGER_S = 5

Complain = Callable[[Exception], None]
"""Hears of what nobody foresaw."""


class HttpServer:
    """Answers by an application from its beginning to its end. A context: at its end answers have a moment to go out.

    `only_this_user` turns other users of this machine away, `others_hint` tells them what they can do; `connections`
    are how many clients may be there at once. `begin` is called on the loop before anybody asks.
    """

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        *,
        only_this_user: bool,
        others_hint: str,
        connections: int,
        begin: Callable[[asyncio.AbstractEventLoop], None],
        complain: Complain,
    ) -> None:
        kind = {
            "only_this_user": only_this_user, "most": most_connections(connections),
            "not_yours": _refusal(403, "Forbidden", "user", "this server is another user's", others_hint),
        }  # fmt: skip
        config = uvicorn.Config(
            app,
            http=type("_Protocol", (Protocol,), kind),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_LINGER_S,
        )
        logging.getLogger().addHandler(logging.NullHandler())  # what libraries think of requests is no line of a log
        self._server = _Quiet(config)
        self._listening = listening
        self._begin = begin
        self._complain = complain
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        host, port = listening.getsockname()[:2]
        self.port = int(port)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def __enter__(self) -> Self:
        """Begin. Raises `RuntimeError` where no thread is to be had."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(_LINGER_S + 1)
        self._listening.close()

    def wait(self, what: Coroutine[Any, Any, None], timeout_s: float) -> None:
        """Have something done on the loop, and wait for it, so long at most."""
        try:
            doing = asyncio.run_coroutine_threadsafe(what, self._loop)
        except RuntimeError:  # the loop is over
            what.close()
            return
        with contextlib.suppress(Exception):  # whatever it is, whoever ends the server has other things to do
            doing.result(timeout_s)

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError), self._runner:
            self._loop.set_exception_handler(self._unforeseen)
            self._begin(self._loop)
            self._runner.run(self._server.serve(sockets=[self._listening]))

    def _unforeseen(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(error := context.get("exception"), Exception) and not isinstance(error, OSError):
            self._complain(error)


class _Quiet(uvicorn.Server):
    """uvicorn's server without its handlers of signals: who stops the renderer decides what that means."""

    def capture_signals(self) -> Any:
        return contextlib.nullcontext()


class Protocol(H11Protocol):
    """uvicorn's protocol, which lets in whom it may, and lets go who says nothing and who takes nothing.

    Who comes when all places are taken is told so: each client that is there holds a file of this process.
    """

    only_this_user: ClassVar[bool] = True
    most: ClassVar[int] = 1024
    not_yours: ClassVar[bytes] = b""
    _turned_away = False
    _watching: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _left_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override, unused-ignore]
        super().connection_made(transport)
        here, peer = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        if len(self.connections) > self.most:
            transport.write(_full())
            transport.close()
        elif self.only_this_user and not visitors.is_welcome(peer[:2], here[:2]):
            self._turned_away = True
            transport.write(self.not_yours)
            transport.write_eof()  # and what it says is read: a close beforehand would take the answer back
            self.loop.call_later(_LINGER_S, transport.abort)
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._watch_no_more()
        self._takes()

    def data_received(self, data: bytes) -> None:
        if self._turned_away or self.transport.is_closing():
            return
        super().data_received(data)
        if self._is_answered:
            self._watch()  # uvicorn watches only those that say nothing at all
        else:
            self._watch_no_more()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._watch_taking()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._takes()

    def _watch_taking(self) -> None:
        self._left_bytes = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(_STALLED_S, self._look_whether_it_takes)

    def _look_whether_it_takes(self) -> None:
        """Let go of a client that has taken nothing; one that is slow has its time, however long its answer is."""
        self._stalled = None
        if self.transport.get_write_buffer_size() < self._left_bytes:
            self._watch_taking()
        else:
            self.transport.abort()

    def _takes(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

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


def most_connections(wanted: int) -> int:
    """How many clients may be there at once: half of the files that this process may open are for other things."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if files == resource.RLIM_INFINITY else min(wanted, max(1, files // 2))


def listen(host: str, port: int) -> socket.socket:
    """A socket at the port; 0 lets the system choose. Raises `UsageError` where it cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.create_server((host, port), family=family, backlog=1024)
        made.setblocking(False)  # noqa: FBT003
        # Whoever comes inherits it: an answer's body would wait until its head is acknowledged, 40 ms late.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else error
        raise UsageError(f"cannot serve on {host}, port {port}: {reason}", hint="--port takes another") from error
    return made


@functools.cache
def _full() -> bytes:
    return _refusal(503, "Service Unavailable", "busy", "too many are here already", "ask again in a while")


def _refusal(status: int, phrase: str, code: str, message: str, hint: str) -> bytes:
    """An answer to whoever is not even asked what it wants."""
    body = json.dumps({"error": {"code": code, "message": message, "field": None, "hint": hint}}).encode()
    lines = (
        f"HTTP/1.1 {status} {phrase}", "Content-Type: application/json", f"Content-Length: {len(body)}",
        "Retry-After: 10" if status == 503 else "Cache-Control: no-store", "Connection: close",  # noqa: PLR2004
    )  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
