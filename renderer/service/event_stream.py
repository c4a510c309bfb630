"""Server-sent events (HTML, 9.2): how one is written, and how many may listen. Knows nothing of what is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from renderer.service.answers import RequestError

ALIVE_S = 10.0
"""After so long in which nothing happens something is said, or it would not be seen that nobody listens any more."""

ALIVE = ": still here\n\n"
_MEDIA_TYPE = "text/event-stream"


def event(text: str, *, name: str = "", mark: str = "") -> str:
    """One event of a line of text; `mark` is what a browser that comes back says that it has seen."""
    head = (f"event: {name}\n" if name else "") + (f"id: {mark}\n" if mark else "")
    return f"{head}data: {text}\n\n"


class Listeners:
    """Places for those who listen."""

    def __init__(self, most: int) -> None:
        self._places = asyncio.Semaphore(most)
        self.count = 0

    def check(self, hint: str = "") -> None:
        """Raise `RequestError` where all places are taken."""
        if self._places.locked():
            raise RequestError(503, "busy", "too many are listening already", hint=hint)

    def answer(self, request: Request, told: AsyncIterator[str], headers: Mapping[str, str] | None = None) -> Response:
        """Tell it, until there is no more or whoever listens has gone. Raises `RequestError`."""
        self.check()
        if request.method == "HEAD":
            return Response(media_type=_MEDIA_TYPE, headers=headers)
        return StreamingResponse(self._placed(told), media_type=_MEDIA_TYPE, headers=headers)

    async def _placed(self, told: AsyncIterator[str]) -> AsyncIterator[str]:
        async with self._places:
            self.count += 1
            try:
                async for one in told:
                    yield one
            finally:
                self.count -= 1
