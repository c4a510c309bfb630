"""Before any route: who is let in, how much of a body is read and for how long, what is logged.

Nothing of a request is read before its sender is known; no log line holds a prompt, a token or a query. Pure ASGI;
knows no routes but the lengths of their bodies.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from renderer.service.answers import RequestError, respond, trouble_of
from renderer.service.configuration import LOOPBACK, Limits

EventLog = Callable[[str, Mapping[str, Any]], None]
"""Hears what is logged: the event's name, and what is to be known of it."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
}
_MOST_DIGITS = 20
_OPEN = frozenset({"/health"})
"""What needs no token: it tells a load balancer a word."""


class Guard:
    """The outermost layer of an application. `keys` are the tokens of which a client needs one; none: it needs none."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], limits: Limits, log: EventLog) -> None:
        self._app = app
        self._limits = limits
        self._log = log
        self._keys = [key.encode() for key in keys]
        self.answered: dict[tuple[str, int], int] = {}
        self._answering = 0
        self._answered_s = float("-inf")

    def is_busy(self, lately_s: float) -> bool:
        """Whether anybody is being answered, or was so short a time ago."""
        return self._answering > 0 or time.monotonic() - self._answered_s < lately_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                told = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    told.setdefault(name, value)
                told.setdefault("Cache-Control", "no-store")
                told["X-Request-ID"] = request_id
            await send(message)

        self._answering += 1
        try:
            client = self._admit(scope, headers)
            scope["state"]["client"] = client
            await self._app(scope, self._bounded(scope, headers, receive), sending)
        except Exception as error:  # noqa: BLE001  (one place where errors become answers)
            trouble = trouble_of(error)
            if trouble.code == "internal":  # it has been answered, and is raised again
                self._log("fault", {"request_id": request_id, "kind": type(error).__name__, "at": place_of(error)})
            if not status:
                await respond(trouble, scope["path"])(scope, receive, sending)
        finally:
            self._answering -= 1
            self._answered_s = time.monotonic()
        endpoint = getattr(scope.get("endpoint"), "__name__", "none")
        self.answered[endpoint, status] = self.answered.get((endpoint, status), 0) + 1
        told = {
            "request_id": request_id,
            "method": scope["method"],
            "route": endpoint,
            "status": status,
            "seconds": round(time.perf_counter() - began, 4),
        }
        self._log("request", told)

    # -- who --

    def _admit(self, scope: Scope, headers: Headers) -> str:
        """What a client is told apart by. Raises `RequestError` for one that is not let in."""
        named = headers.get("host")  # without one asks HTTP/1.0 alone, which load balancers speak and no browser does
        host = _HOST.fullmatch(named or "")
        if named is not None and (host is None or not (self._keys or host[1].strip("[]").lower() in LOOPBACK)):
            raise RequestError(421, "host", "this server goes by another name", hint="ask 127.0.0.1 or localhost")
        origin = headers.get("origin")
        if origin is not None and (not named or _netloc(origin) != named.lower()):
            raise RequestError(403, "origin", "pages of other sites may not use this server")
        if headers.get("sec-fetch-site") in {"cross-site", "same-site"} and headers.get("sec-fetch-mode") != "navigate":
            raise RequestError(403, "origin", "pages of other sites may not use this server")
        if self._keys and scope["path"] not in _OPEN:
            return self._known(headers)
        peer = scope.get("client")
        return str(peer[0]) if peer else ""

    def _known(self, headers: Headers) -> str:
        """Which token a client has; all are compared, so that time tells nothing."""
        given = _token(headers).encode()
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        if not any(matches):
            hint = "send one as Authorization: Bearer …"
            raise RequestError(401, "token", "this server wants a token", hint=hint)
        return f"key-{matches.index(True) + 1}"

    # -- how much --

    def _bounded(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """`receive`, which raises `RequestError` for a body that is too long or takes too long."""
        most = most_bytes(scope["path"], self._limits)
        announced = headers.get("content-length", "0")
        if not announced.isdecimal() or len(announced) > _MOST_DIGITS or int(announced) > most:
            raise _too_long(most)
        seconds = self._limits.body_s + most / 10**6  # a megabyte a second is no haste
        until = time.monotonic() + seconds
        read, whole = 0, False

        async def receiving() -> Message:
            nonlocal read, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            except TimeoutError:
                said = f"the request's body took more than {seconds:.0f} s to come"
                raise RequestError(408, "slow", said) from None
            read += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if read > most:
                raise _too_long(most)
            return message

        return receiving


def most_bytes(path: str, limits: Limits) -> int:
    """How long a body may be that is sent there."""
    if path == "/v1/files":
        return limits.upload_bytes
    if path.startswith(("/v1/images/", "/api/v1/images/", "/sdapi/v1/img2img")):
        return limits.picture_bytes
    return limits.manifest_bytes if path == "/api/v1/batches" else limits.body_bytes


def _too_long(most: int) -> RequestError:
    return RequestError(413, "too_long", f"a request's body may have {most:,} bytes here")


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req-{uuid4().hex[:20]}"


def _token(headers: Headers) -> str:
    """The token of a request: as Bearer, or as the password that a browser asks for."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:
            return ""
    return ""


def _netloc(origin: str) -> str:
    """The host and port of an origin; empty for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def place_of(error: Exception) -> str:
    """Where an error was raised; what it says may hold a prompt, and is not told."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
