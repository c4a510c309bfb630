r"""What is printed gets out or is lost, and nothing else is lost with it.

A letter that a stream's encoding lacks is escaped, and never an error. The escape is that of JSON (`\u4f60`), so that
JSON stays JSON; names of files that are not UTF-8 are printed so too. A stream that takes nothing more (its reader has
gone, its disk is full, its terminal was closed, it was never open) is written to no more, and whoever prints does not
notice; nor does a log wait for long for a reader that has stopped. What somebody else wrote cannot pass for a command
of ours.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import re
import select
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from renderer.errors import EXIT_FAILED

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_ERRORS = "renderer.escaped"
_PATIENCE_S = 2.0
_STDERR = 2
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_saying = threading.RLock()
_COMMAND = re.compile(r"^(\s*):(?=:)", re.MULTILINE)


def settle() -> None:
    """Let what this process prints be escaped where its streams cannot say it, and lost where they take nothing."""
    codecs.register_error(_ERRORS, _escape)
    _open_what_is_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)
        if type(stream) is io.TextIOWrapper and type(_raw(stream)) is io.FileIO:
            setattr(sys, name, _unbreakable(stream, None if name == "stdout" else _PATIENCE_S))


def finish(code: int) -> int:
    """The code to leave with, once all that was printed is out: whether the results were is told by it.

    A reader that had enough (`| head`) is no failure.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    raw = _raw(sys.stdout)
    error = raw.error if isinstance(raw, _Unbreakable) else None
    if error is None or error.errno == errno.EPIPE:
        return code
    say(f"error: cannot write to standard output: {error.strerror}")
    return code or EXIT_FAILED


def say(text: str) -> None:
    """Print to standard error what may hold anybody's words, as whole lines, whichever threads do."""
    with _saying:
        print(harmless(text), file=sys.stderr, flush=True)  # noqa: T201


def harmless(text: str) -> str:
    """A text that may be printed wherever it comes from: lines stay lines, and nothing else in it moves a terminal.

    No line of it is a command to GitHub Actions, which takes `::name::` for one at a line's beginning, spaces before it
    or not, and `##[name]` anywhere (actions/runner, ActionCommand.cs).
    """
    text = text.replace("\r\n", "\n")
    text = _CONTROLS.sub(lambda found: found[0].encode("unicode-escape").decode(), text)
    return _COMMAND.sub(r"\1: ", text).replace("##[", "## [")


class _Unbreakable(io.FileIO):
    """A file descriptor that takes everything; what it could not write is lost. `error` is why, from then on.

    With `patience_s`, nobody waits longer than that for a reader that has stopped reading (a terminal after Ctrl-S, a
    pager that nobody turns): what comes meanwhile is lost, and not what comes once it reads again.
    """

    error: OSError | None = None
    patience_s: float | None = None
    instead_of: io.TextIOWrapper | None = None
    """The stream that had the descriptor, and closes it when nobody has it any more."""

    _stalled = False

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data).cast("B")
        count = len(view)
        try:
            while view and self.error is None and self._has_room():
                view = view[super().write(view[: select.PIPE_BUF]) or 0 :]
        except OSError as error:
            self.error = error
        return count

    def _has_room(self) -> bool:
        """Whether it takes some bytes now; waits for that, but not for long, and not twice for the same reader."""
        self._stalled = not select.select([], [self], [], 0.0 if self._stalled else self.patience_s)[1]
        return not self._stalled


def _unbreakable(stream: io.TextIOWrapper, patience_s: float | None) -> io.TextIOWrapper:
    """The same stream, and one that never fails."""
    stream.flush()
    raw = _Unbreakable(stream.fileno(), "w", closefd=False)
    raw.instead_of, raw.patience_s = stream, patience_s
    is_buffered = isinstance(stream.buffer, io.BufferedWriter)  # not under PYTHONUNBUFFERED
    return io.TextIOWrapper(
        io.BufferedWriter(raw) if is_buffered else raw,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _raw(stream: object) -> object:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _open_what_is_closed() -> None:
    """Give this process the three streams that it was started without, or its next file would take their place."""
    for number in _closed():
        os.set_inheritable(number, True)  # noqa: FBT003
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  # as long as we live


def _closed() -> Iterator[int]:
    """Open the descriptors of the standard streams that are closed, and name them."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        yield number
    os.close(number)


def _escape(error: UnicodeError) -> tuple[str, int]:
    """The letters that cannot be encoded, as UTF-16 has them: what JSON writes, also of halves of a letter."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    found = (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
    return "".join(f"\\u{unit:04x}" for unit in found), error.end
