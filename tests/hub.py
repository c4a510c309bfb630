"""A hub of our own on 127.0.0.1: it speaks the file APIs of Hugging Face and ModelScope, as far as their clients ask.

It can lie about a hash, cut connections, fall silent and refuse; it counts the bytes it gave.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import parse_qs, unquote, urlsplit

_STALL_S = 5.0

COMMIT = "75e0b4be04f60ec59a75f475837eced720f823b6"


@dataclass(slots=True)
class Hub:
    """The hub's files by repository and name, and how it behaves.

    `busy` are refusals still to come, each the beginning of a request and a status; `words` and `pause` go with them.
    A hub that does not know tokens answers 401 to any, and a closed one to everybody else. `page` is given for all.
    """

    files: dict[str, dict[str, bytes]]
    revisions: set[str] = field(default_factory=lambda: {COMMIT, "main", "master"})
    false_hashes: set[str] = field(default_factory=set)
    cut_after: dict[str, int] = field(default_factory=dict)
    cuts: int = 1
    stall_after: dict[str, int] = field(default_factory=dict)
    stalled: Event = field(default_factory=Event)
    status: int = 200
    busy: list[tuple[str, int]] = field(default_factory=list)
    words: str = ""
    pause: str = ""
    knows_tokens: bool = True
    closed: bool = False
    page: bytes = b""
    takes_ranges: bool = True
    given: dict[str, int] = field(default_factory=dict)
    ranges: list[tuple[str, int]] = field(default_factory=list)
    endpoint: str = ""

    def sha256(self, name: str, data: bytes) -> str:
        return hashlib.sha256(data + b"!" if name in self.false_hashes else data).hexdigest()

    def environment(self, folder: Path) -> dict[str, str]:
        """What points both clients, in a process of their own, at this hub and at caches below `folder`."""
        return {
            **os.environ,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(folder / "hugging-face"),
            "HF_HUB_CACHE": str(folder / "hugging-face/hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "MODELSCOPE_ENDPOINT": self.endpoint,
            "MODELSCOPE_CACHE": str(folder / "modelscope"),
            "MODELSCOPE_HOME": str(folder / "modelscope-home"),
            "RENDERER_MODELS": str(folder / "models"),
            "RENDERER_CACHE": str(folder / "cache"),
        }


def run(
    command: list[str], environment: Mapping[str, str], *, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, without a terminal."""
    return subprocess.run(
        [sys.executable, *command],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """The hub, open for business."""

    class Handler(_Handler):
        shop = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    shop: Hub

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        url = urlsplit(self.path)
        path = [unquote(each) for each in url.path.strip("/").split("/")]
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if self.shop.page:
            self._page(self.shop.page)
        elif self.shop.status != 200:
            self._refuse(self.shop.status)
        elif due := next((each for each in self.shop.busy if f"{self.command} {self.path}".startswith(each[0])), None):
            self.shop.busy.remove(due)
            self._refuse(due[1])
        elif self.headers.get("Authorization", "").startswith("Bearer hf_") and not self.shop.knows_tokens:
            self.shop.words = "Invalid credentials in Authorization header"
            self._refuse(401)
        elif self.shop.closed:
            self._refuse(401, "GatedRepo")
        elif path[:3] == ["api", "v1", "models"]:
            self._modelscope(path[3:], query, body=body)
        elif path[:2] == ["api", "models"]:
            self._hugging_face_api(path[2:])
        elif path[2:3] == ["resolve"]:
            self._file("/".join(path[:2]), path[3], "/".join(path[4:]), body=body)
        else:
            self._refuse(404)

    # -- Hugging Face

    def _hugging_face_api(self, path: list[str]) -> None:
        repository, what, revision = "/".join(path[:2]), path[2] if len(path) > 2 else "", unquote("/".join(path[3:]))
        files = self.shop.files.get(repository)
        if files is None:
            self._refuse(404, "RepoNotFound")
        elif revision and revision not in self.shop.revisions:
            self._refuse(404, "RevisionNotFound")
        elif what == "tree":
            self._json([{"type": "file", "path": name, **self._facts(name, data)} for name, data in files.items()])
        else:
            siblings = [{"rfilename": name, **self._facts(name, data)} for name, data in files.items()]
            self._json({"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "tags": []})

    def _facts(self, name: str, data: bytes) -> dict[str, object]:
        sha256 = self.shop.sha256(name, data)
        lfs = {"oid": sha256, "sha256": sha256, "size": len(data), "pointerSize": 1}
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        if name in self.shop.false_hashes:
            oid = "0" * 40
        return {"size": len(data), "oid": oid, "blobId": oid, **({"lfs": lfs} if name.endswith(".safetensors") else {})}

    def _file(self, repository: str, revision: str, name: str, *, body: bool) -> None:
        data = self.shop.files.get(repository, {}).get(name)
        if data is None or revision not in self.shop.revisions:
            self._refuse(404, "EntryNotFound")
            return
        self._give(name, data, {"ETag": f'"{self.shop.sha256(name, data)}"', "X-Repo-Commit": COMMIT}, body=body)

    # -- ModelScope

    def _modelscope(self, path: list[str], query: Mapping[str, str], *, body: bool) -> None:
        repository, what = "/".join(path[:2]), "/".join(path[2:])
        files = self.shop.files.get(repository)
        if files is None or query.get("Revision", "master") not in self.shop.revisions:
            self._json({"Code": 10010205001, "Success": False, "Message": "record not found"}, status=404)
        elif what == "repo/files":
            root = query.get("Root", "")
            listed = [
                {"Path": name, "Size": len(data), "Sha256": self.shop.sha256(name, data), "Type": "blob"}
                for name, data in files.items()
                if name.startswith(root)
            ]
            self._json({"Code": 200, "Success": True, "Data": {"Files": listed}})
        elif what == "repo":
            name = query["FilePath"]
            self._give(name, files[name], {}, body=body)
        else:
            self._json({"Code": 200, "Success": True, "Data": {}})

    # -- both

    def _give(self, name: str, data: bytes, headers: Mapping[str, str], *, body: bool) -> None:
        asked = self.headers.get("Range", "") if self.shop.takes_ranges else ""
        begin, end = 0, len(data) - 1
        if asked.startswith("bytes="):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first or 0), int(last) if last else end
            self.shop.ranges.append((name, begin))
        part = data[begin : end + 1]
        self.send_response(206 if asked else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end}/{len(data)}")
        self.end_headers()
        if body:
            self._send(name, part)

    def _send(self, name: str, part: bytes) -> None:
        """The bytes; or as many as the hub gives before it hangs up."""
        limit = self.shop.cut_after.get(name)
        if limit is not None and self.shop.cuts > 0 and limit < len(part):
            self.shop.cuts -= 1
            part = part[:limit]
            self.close_connection = True
        stall = self.shop.stall_after.pop(name, None)
        if stall is not None and stall < len(part):
            part = part[:stall]
            self.close_connection = True
        self.shop.given[name] = self.shop.given.get(name, 0) + len(part)
        self.wfile.write(part)
        if stall is not None:
            self.wfile.flush()
            self.shop.stalled.set()
            time.sleep(_STALL_S)
        if self.close_connection:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, value: object, status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _page(self, page: bytes) -> None:
        """What a proxy shows in the place of all that is asked for."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(page)

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if self.shop.words:
            self.send_header("X-Error-Message", self.shop.words)
        if self.shop.pause:
            self.send_header("Retry-After", self.shop.pause)
        self.send_header("Content-Length", "0")
        self.end_headers()
