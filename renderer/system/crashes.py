"""A fault of the program's own: its traceback goes into a file, and a line says where that is."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import platformdirs

from renderer import __version__
from renderer.system import streams


def tell(error: BaseException) -> None:
    """Say what happened in a line, and where the rest is; where no file can be written, the rest follows at once."""
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    told = "".join(traceback.format_exception(error))
    head = f"renderer {__version__}, Python {sys.version.split()[0]}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n\n"
    path = _kept(head + told)
    if path is not None:
        streams.say(f"error: {what}\n  this is a fault of the renderer's own; please report it with {path}")
    else:
        streams.say(f"error: {what}\n  this is a fault of the renderer's own; please report it with this:\n{told}")


def _kept(text: str) -> Path | None:
    """The file that holds a text, which nobody but this user may read; None where none can be written."""
    for folder in _folders():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(f"-{datetime.now(UTC):%Y%m%d-%H%M%S}.txt", "renderer-crash-", folder)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(text)
            return Path(name)
    return None


def _folders() -> Iterator[Path]:
    """Where such a file may be: where this user's programs keep their state, else among files of a moment."""
    with contextlib.suppress(RuntimeError, KeyError, OSError):  # no home
        yield platformdirs.user_state_path("renderer", appauthor=False)
    with contextlib.suppress(OSError):  # no temporary folder
        yield Path(tempfile.gettempdir())
