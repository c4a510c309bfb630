"""How far a look at many pictures is, before anything is done with them: on a terminal and in a log.

A thousand photos that go into pictures take minutes the first time. Nothing is said, and nothing imported, before a
second is over.
"""

from __future__ import annotations

import argparse
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from renderer.cli.console import Console
    from renderer.manifest.looked_at import HeardLooks

_TELL_AFTER_S = 1.0


class FirstLook:
    """One of a name, a manifest's. While it lasts, what it gives may be told how far things are."""

    def __init__(self, name: str, options: argparse.Namespace, what: str = "") -> None:
        """`options` say how a log is written, where the command asks for that; without `what`, it is what goes in."""
        self._name = name
        self._what = what
        self._log_format = vars(options).get("log_format", "auto")
        self._tells_s = time.monotonic() + _TELL_AFTER_S
        self._heard: HeardLooks | None = None
        self._console: Console | None = None

    def __enter__(self) -> HeardLooks:
        return self._tell

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._console is not None:
            self._console.close()

    def _tell(self, done: int, total: int) -> None:
        if time.monotonic() >= self._tells_s:
            if self._heard is None:
                self._heard = self._opened()
            self._heard(done, total)

    def _opened(self) -> HeardLooks:
        from renderer.cli import console  # noqa: PLC0415  # hardly any manifest has so many pictures
        from renderer.supervisor.busy import LOOKS_IN, LongWork  # noqa: PLC0415  # as above

        self._console = console.open_console(self._log_format)
        return LongWork(self._console.watch, self._name, self._what or LOOKS_IN, after_s=0.0).tell
