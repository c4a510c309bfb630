"""Where a manifest's bytes come from: a file, standard input (`-`), or a pipe that a shell made (`<(…)`).

Says what each is called: in messages, and as the name of its output folder where the manifest gives none. No more is
read than a manifest may have. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from renderer.errors import UnreadableError
from renderer.manifest.decoding import MAX_BYTES

STANDARD_INPUT = Path("-")


@dataclass(frozen=True, slots=True)
class ManifestSource:
    """A manifest's bytes; `file` is what messages call it, `stem` its name where it gives none.

    `file` is a path relative to the working folder when inside it, else just the file's name. `folder` is where the
    paths in it are from: the file's own folder, the working folder where there is no file. `path` is the file, if any.
    `is_made_up`: nobody wrote them, the command line stands for them.
    """

    data: bytes
    file: str
    stem: str
    folder: Path = Path()
    path: Path | None = None
    is_made_up: bool = False


def read(path: Path, what: str = "manifest") -> ManifestSource:
    """What stands in the file at `path`, or comes from standard input where that is `-`.

    Reads one byte more than is allowed of what is larger. Raises `UnreadableError`, which calls it `what`.
    """
    if path == STANDARD_INPUT:
        return _read_standard_input()
    file = show(path)
    try:
        if path.is_dir():
            hint = f"name the manifests in it: {file}/*.yaml"
            raise UnreadableError(file, f"{file} is a folder, not a manifest", hint=hint)
        # A pipe that nobody writes into is not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            kind = os.fstat(descriptor).st_mode
            if stat.S_ISFIFO(kind):
                return ManifestSource(_read_pipe(stream), "pipe", "pipe")
            if not stat.S_ISREG(kind):
                raise UnreadableError(file, f"{file} is not a regular file")
            return ManifestSource(stream.read(MAX_BYTES + 1), file, path.stem, path.parent, path)
    except FileNotFoundError as error:
        raise UnreadableError(file, f"there is no {what} {file}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnreadableError(file, f"{file} cannot be read: {reason}") from error


def _read_standard_input() -> ManifestSource:
    name = "stdin"
    if sys.stdin is None:  # closed by whoever started this
        raise UnreadableError(name, "standard input is closed")
    try:
        return ManifestSource(sys.stdin.buffer.read(MAX_BYTES + 1), name, name)
    except OSError as error:
        raise UnreadableError(name, f"standard input cannot be read: {error.strerror}") from error


def _read_pipe(stream: BinaryIO) -> bytes:
    """All that comes through a pipe, until whoever writes closes it."""
    os.set_blocking(stream.fileno(), True)
    return stream.read(MAX_BYTES + 1)


def show(path: Path) -> str:
    """The path as people see it; no folder outside the working folder is told."""
    shown = path.name
    try:
        here = Path.cwd()
        for whole in (Path(os.path.abspath(path)), path.resolve()):  # noqa: PTH100 - absolute() leaves .. in place
            if whole.is_relative_to(here):
                shown = whole.relative_to(here).as_posix()
                break
    except (OSError, RuntimeError, ValueError):
        pass  # It cannot be read either, and then that is what is said.
    printable = shown.encode(errors="replace").decode()
    return "".join(letter if letter.isprintable() else "?" for letter in printable)
