"""Files that a page calls for, over HTTP: by the page's own names, in pieces, and never through a link.

Knows no routes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from renderer.errors import RendererError
from renderer.report.gallery import Gallery, Served
from renderer.service.answers import RequestError

HTML = "text/html; charset=utf-8"
_TYPES: Mapping[str, str] = {
    ".html": HTML,
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".avif": "image/avif",
}
_PIECE_BYTES = 2**18
_LASTING = "max-age=31536000, immutable"


async def answer(request: Request, gallery: Gallery, name: str, *, fleeting: str) -> Response:
    """The file that a page calls `name`. `fleeting` is how long one is kept whose name says nothing of what is in it.

    Raises `RequestError` for any other name.
    """
    found, stream = await run_in_threadpool(_open, gallery, name)
    if found is None or stream is None:
        raise RequestError(404, "unknown", "the page has no such file")
    headers = {
        "Content-Length": str(os.fstat(stream.fileno()).st_size),
        "Cache-Control": _LASTING if found.lasting else fleeting,
    }
    kind = _TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")
    if request.method == "HEAD":
        stream.close()
        return Response(media_type=kind, headers=headers)
    return StreamingResponse(_pieces(stream), media_type=kind, headers=headers)


def _open(gallery: Gallery, name: str) -> tuple[Served | None, BinaryIO | None]:
    try:
        found = gallery.file(name)
        return found, _open_served(found) if found is not None else None
    except (OSError, RendererError):
        return None, None


def _open_served(found: Served) -> BinaryIO:
    """Open a file to be served. Raises `OSError` for a link, for what lies outside its folder, for what is no file."""
    if not found.path.parent.resolve().is_relative_to(found.root.resolve()):
        raise PermissionError(found.path)
    descriptor = os.open(found.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PermissionError(found.path)
    return os.fdopen(descriptor, "rb")


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece
