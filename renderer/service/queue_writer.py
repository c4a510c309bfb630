"""Lines of `queue.jsonl` on their way to the disk: what comes while others are written shares the next sync.

Lives on the event loop. Knows no pictures and no clients.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from renderer.errors import DiskError
from renderer.service.queue_file import QueueEntry, QueueFile, WhatIsKnown

Then = Callable[[DiskError | None], None]
"""Hears, before anybody who waits does, that lines are on the disk, or why they are not."""


@dataclass(frozen=True, slots=True)
class _Group:
    lines: Sequence[QueueEntry]
    then: Then | None
    written: asyncio.Future[None]


class QueueWriter:
    """Writes to one file, in order."""

    def __init__(self, file: QueueFile, known: Callable[[], WhatIsKnown]) -> None:
        """`known` is what the file has to say when it is written anew, having grown long."""
        self._file = file
        self._known = known
        self._unwritten: list[_Group] = []
        self._writing: asyncio.Task[None] | None = None

    def write(self, lines: Sequence[QueueEntry], then: Then | None = None) -> asyncio.Future[None]:
        """Begin to write lines. What is returned is done when they are on the disk, or has the `DiskError`.

        Without lines it is done when those before it are.
        """
        loop = asyncio.get_running_loop()
        written = loop.create_future()
        self._unwritten.append(_Group(lines, then, written))
        if self._writing is None or self._writing.done():
            self._writing = loop.create_task(self._write_all())
        return written

    async def _write_all(self) -> None:
        while self._unwritten:
            groups, self._unwritten = self._unwritten, []
            error: DiskError | None = None
            try:
                if lines := [line for group in groups for line in group.lines]:
                    await run_in_threadpool(self._file.append, lines)
            except DiskError as trouble:
                error = trouble
            for group in groups:
                if group.then is not None:
                    group.then(error)
                if error is None:
                    group.written.set_result(None)
                    continue
                group.written.set_exception(error)
                group.written.exception()  # where nobody waits for it any more, that is nobody's fault
            with contextlib.suppress(DiskError):  # then it is so another time
                if self._file.is_long:
                    await run_in_threadpool(self._file.keep, self._known())
