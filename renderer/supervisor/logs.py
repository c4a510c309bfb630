"""What a process prints, kept in a file: of bounded size, and never in the way of who prints.

The file may be changed while the process lives, so that each manifest has the log of its own pictures. What cannot be
written is lost, and nothing else with it. Knows nothing of who prints.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import BinaryIO

from renderer.errors import DiskError
from renderer.system.files import disk_error

MAX_LOG_BYTES = 16 * 2**20
"""A log that has grown larger begins anew; the one before it stays beside it."""

_EXCERPT_BYTES = 4000
_CHUNK_BYTES = 2**16


class Log:
    """A stream's words, into a file."""

    def __init__(self, path: Path) -> None:
        """Raises `DiskError` when `path` cannot be written."""
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._tail = b""
        self._thread: threading.Thread | None = None
        self.into(path)

    def into(self, path: Path) -> None:
        """Write to the end of `path` from now on. Raises `DiskError` when that cannot be; then nothing is written."""
        with self._lock:
            self._close()
            self._path = path
            self._file = _open(path)

    def follow(self, stream: BinaryIO) -> None:
        """Take in what comes from `stream`, until its end, in a thread."""
        self._thread = threading.Thread(target=self._follow, args=(stream,), name="log", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Wait until the stream has ended, at most so long."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def add(self, chunk: bytes) -> None:
        """Take in what was printed elsewhere."""
        self._tail = (self._tail + chunk)[-_EXCERPT_BYTES:]
        with self._lock:
            self._write(chunk)

    def close(self) -> None:
        """Nothing more comes."""
        with self._lock:
            self._close()

    def excerpt(self) -> str:
        """The last that was printed, whether it could be written or not."""
        return self._tail.decode(errors="replace").strip()

    def _follow(self, stream: BinaryIO) -> None:
        with stream, contextlib.suppress(OSError, ValueError):
            while chunk := os.read(stream.fileno(), _CHUNK_BYTES):
                self.add(chunk)
        self.close()

    def _write(self, chunk: bytes) -> None:
        if self._file is None:
            return
        try:
            self._file.write(chunk)
            if self._file.tell() > MAX_LOG_BYTES and self._path.is_file():
                self._close()
                self._file = _open(self._path)
        except (OSError, DiskError):
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None


def _open(path: Path) -> BinaryIO:
    """Open a log at its end; one that has grown large begins anew, and the old one stays beside it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_suffix(".old.log"))
        return path.open("ab", buffering=0)
    except OSError as error:
        raise disk_error(path, error) from error
