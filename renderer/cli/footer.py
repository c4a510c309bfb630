"""A few lines that stay at the bottom of a terminal while a log scrolls by above them.

Painted anew each time, no wider than the terminal is then, with the cursor left at their beginning: whatever a terminal
makes of them when it is resized stands after the cursor, and the next painting clears it. Knows nothing of runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TextIO

from tqdm.utils import disp_trim

_CLEAR = "\r\x1b[J"
"""To the line's beginning, and clear from there to the end of the screen (ECMA-48, ED)."""

Lines = Callable[[int], Sequence[str]]
"""The lines for a terminal of so many columns; longer ones are cut."""


class Footer:
    """The lines at the bottom of the terminal that is `stream`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: Lines | None = None

    def show(self, lines: Lines) -> None:
        """Show these lines from now on."""
        self._lines = lines
        self._write(_CLEAR + self._painted())

    def say(self, text: str) -> None:
        """Let a text scroll by above them."""
        self._write(f"{_CLEAR if self._lines else ''}{text}\n{self._painted()}")

    def close(self) -> None:
        """Take the lines away."""
        if self._lines is not None:
            self._lines = None
            self._write(_CLEAR)

    def _painted(self) -> str:
        if self._lines is None:
            return ""
        columns, rows = _size(self._stream)
        lines = [disp_trim(self._as_shown(line), columns) for line in self._lines(columns)][: max(1, rows - 1)]
        up = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
        return "\n".join(lines) + up + "\r"

    def _as_shown(self, line: str) -> str:
        """A line as the terminal will have it, whose letters may be fewer: what is escaped takes more columns."""
        encoding, errors = self._stream.encoding or "utf-8", self._stream.errors or "strict"
        return line.replace("\n", " ").encode(encoding, errors).decode(encoding, "replace")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _size(stream: TextIO) -> tuple[int, int]:
    """Columns and rows; the last column stays free, for in it terminals differ over when a line is full."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 79, 24
    return max(1, (size.columns or 80) - 1), size.lines or 24
