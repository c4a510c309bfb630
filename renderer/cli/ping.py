"""A dead man's switch: an address that hears when a run begins, that it ended well, or that it failed.

As healthchecks.io takes it: `/start` and `/fail` behind the address, and the address itself. Each has a thread of its
own, so that one that does not answer is in nobody's way. Addresses hold secrets: only their number is told.
"""

from __future__ import annotations

import base64
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote, urlsplit, urlunsplit

from renderer import __version__
from renderer.errors import UsageError
from renderer.supervisor import events
from renderer.supervisor.events import Watch

PING_VARIABLE = "RENDERER_PING"
_TIMEOUT_S = 10.0
_PATIENCE_S = 15.0
_AGAIN_S = 1.0
_TRIES = 2


@dataclass(frozen=True, slots=True)
class _Ping:
    """What is sent: behind the address, and as the request's body, where there is one."""

    behind: str
    body: str = ""


def ping_addresses(given: Sequence[str]) -> list[str]:
    """The addresses that are given, and those in RENDERER_PING, which no process that is started here gets to see."""
    return [*given, *os.environ.pop(PING_VARIABLE, "").split()]


class Pinger:
    """Tells every address of a run's beginning and end."""

    def __init__(self, urls: Sequence[str], patience_s: float = _PATIENCE_S) -> None:
        """Raises `UsageError` for what is no address."""
        self._patience_s = patience_s
        self._troubles: queue.SimpleQueue[str] = queue.SimpleQueue()
        named = [(f"address {number} of --ping", url) for number, url in enumerate(urls, start=1)]
        for name, url in named:
            _check(name, url)
        self._targets = [_Target(name, url, self._troubles.put) for name, url in named]
        self._tell: Watch = lambda _: None

    def begin(self, tell: Watch) -> None:
        """The run begins; `tell` hears from now on of what could not be reached."""
        self._tell = tell
        self._send(_Ping("/start"))

    def watch(self, what: events.Event) -> None:
        """Hear what happens: troubles are told meanwhile."""
        if isinstance(what, events.Tick):
            self._complain()

    def end(self, told: str, *, failed: bool) -> None:
        """The run has ended so; what is on its way is waited for a little."""
        self._send(_Ping("/fail" if failed else "", told))
        until = time.monotonic() + self._patience_s
        for target in self._targets:
            target.end(until - time.monotonic())
        self._complain()

    def _send(self, ping: _Ping) -> None:
        for target in self._targets:
            target.send(ping)

    def _complain(self) -> None:
        while not self._troubles.empty():
            self._tell(events.Remark(self._troubles.get()))


class _Target:
    """One address and the thread that asks it."""

    def __init__(self, name: str, url: str, complain: Callable[[str], None]) -> None:
        self._name = name
        self._url = url
        self._complain = complain
        self._pings: queue.SimpleQueue[_Ping | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def send(self, ping: _Ping) -> None:
        self._pings.put(ping)

    def end(self, patience_s: float) -> None:
        """Wait at most so long for what is still to be sent."""
        self._pings.put(None)
        self._thread.join(max(0.0, patience_s))
        if self._thread.is_alive():
            self._complain(f"{self._name} does not answer, and is not waited for")

    def _work(self) -> None:
        while (ping := self._pings.get()) is not None:
            for left in reversed(range(_TRIES)):
                trouble = _ask(_behind(self._url, ping.behind), ping.body)
                if not trouble:
                    break
                if left:
                    time.sleep(_AGAIN_S)
            else:
                self._complain(f"{self._name} could not be reached: {trouble}")


def _ask(url: str, body: str) -> str:
    """Why an address did not take it; empty where it did. Its text never is part of that."""
    import http.client  # noqa: PLC0415  (most runs ping nobody)
    import urllib.error  # noqa: PLC0415

    try:
        return _status(url, body.encode() if body else None)
    except urllib.error.URLError as error:
        reason = error.reason
        return type(reason).__name__ if isinstance(reason, Exception) else "no connection"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return type(error).__name__


def _status(url: str, body: bytes | None) -> str:
    import urllib.error  # noqa: PLC0415
    import urllib.request  # noqa: PLC0415

    headers = {"User-Agent": f"renderer/{__version__}"}
    if body is not None:
        headers["Content-Type"] = "text/plain; charset=utf-8"
    bare, credentials = _without_credentials(url)
    request = urllib.request.Request(bare, data=body, headers=headers)  # noqa: S310  (its scheme was looked at)
    if credentials:
        request.add_unredirected_header("Authorization", credentials)  # to no other address
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310  (as above)
            answer.read(1)
    except urllib.error.HTTPError as error:
        if body is not None and error.code == HTTPStatus.METHOD_NOT_ALLOWED:
            return _status(url, None)
        return f"HTTP {error.code}"
    return ""


def _check(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable() and " " not in url
        is_one = is_one and parts.port != 0  # which raises for what is no port
    except ValueError:
        is_one = False
    if not is_one:
        raise UsageError(f"{name} is none", hint="it begins with https:// or http://, as healthchecks.io gives it")


def _without_credentials(url: str) -> tuple[str, str]:
    """An address without the user and password in it, which HTTP has in a header of their own: that header's value."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, ""
    known = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return bare, f"Basic {base64.b64encode(known.encode()).decode()}"


def _behind(url: str, what: str) -> str:
    """An address with something behind its path: before its query, if it has one."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + what if what else parts.path))
