"""What DiffSynth prints goes to the log, line by line. Knows nothing of what is said."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator


class _Lines(io.TextIOBase):
    """A text stream that hands on whole lines."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        super().__init__()
        self._on_line = on_line
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._on_line(line.rstrip())
        return len(text)

    def finish(self) -> None:
        """Hand on what stands without a line's end."""
        self.write("\n")


@contextlib.contextmanager
def into_log(log: logging.Logger) -> Iterator[None]:
    """Send what is printed inside to `log` at level INFO."""
    lines = _Lines(lambda line: log.info("%s", line))
    with contextlib.redirect_stdout(lines):
        try:
            yield
        finally:
            lines.finish()
