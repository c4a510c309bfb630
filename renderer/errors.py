"""The tree of errors. Each says when it is raised, ends the command with its exit code, and may carry a hint.

    RendererError                   1
    ├── UsageError                  2   the command line asks for what cannot be
    │   └── UnreadableError         2   a file that it names cannot be read; carries its name
    ├── ManifestError               2   one manifest has problems; carries all of them
    ├── MachineError                3   this machine cannot run it; says what is missing
    │   ├── ModelError              3   a model is missing, incomplete, or not what its name says
    │   └── ClusterLostError        3   the cluster that renders answers no more; what is there stays
    ├── PictureError                1   one picture failed; the others go on
    │   ├── BadPictureError         1   the model's values are not finite, or the picture is one flat colour
    │   ├── OutOfMemoryError        1   the picture did not fit; the worker can go on
    │   └── DeviceLostError         1   the GPU took an error that only a new worker gets rid of
    ├── DiskError                   1   a file could not be written whole; nothing half-written was left
    └── LockedError                 75  another run holds this output folder
        └── LeaseLostError          75  another run has taken over what this one had, for nobody renewed that

Besides: 0, all is done; 4, stopped early, by a signal or a deadline, and the same command goes on from there; 70, a
fault of the program's own, whose traceback is in a file that it names; 130, Ctrl-C in a command that renders nothing.

Knows nothing of manifests, engines or files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_MACHINE = 3
EXIT_STOPPED = 4
EXIT_CRASHED = 70
EXIT_LOCKED = 75
EXIT_INTERRUPTED = 130


def shorten(text: str, length: int = 60) -> str:
    """A text as it can stand in a message: on one line, not long, and without what would trick a terminal or an eye."""
    line = re.sub(r"\s+", " ", text)
    line = line if len(line) <= length else line[: length - 1] + "…"
    return line if line.isprintable() else "".join(each if each.isprintable() else "\ufffd" for each in line)


class RendererError(Exception):
    """Anything this program knows how to explain. `hint` says what helps, or is empty.

    `ends_the_night` says that nothing at all can be rendered any more, or written.
    """

    exit_code = EXIT_FAILED
    ends_the_night = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(RendererError):
    """The command line asks for what cannot be: a file that is not there, an id nobody has, two flags that exclude."""

    exit_code = EXIT_USAGE


class UnreadableError(UsageError):
    """A file that the command line names is not there, or cannot be read. `file` is its name as people see it."""

    def __init__(self, file: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.file = file


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a manifest, or, as a `warning`, one that is valid and was hardly meant.

    `line` and `column` count from 1; `path` is like `jobs[0].size`, or empty.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    hint: str = ""
    warning: bool = False

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}{': warning:' * self.warning}"
        what = f"{place} {self.path}: {self.message}" if self.path else f"{place.removesuffix(':')}: {self.message}"
        return f"{what} ({self.hint})" if self.hint else what


class ManifestError(RendererError):
    """A manifest has problems. All that could be found are in `problems`, in the order of their lines."""

    exit_code = EXIT_USAGE

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class MachineError(RendererError):
    """This machine cannot run it: no GPU, too little memory, a library that does not work here."""

    exit_code = EXIT_MACHINE


class ModelError(MachineError):
    """A model is missing, incomplete, or not what its name says."""


class ClusterLostError(MachineError):
    """The cluster that renders answers no more. What is on the disk stays, and the same command goes on from it."""

    ends_the_night = True


class PictureError(RendererError):
    """One picture failed. The batch goes on, and the picture is tried again after the others."""


class BadPictureError(PictureError):
    """The model gave values that are not finite, or one flat colour: saved, it would look like a picture."""


class OutOfMemoryError(PictureError):
    """The picture did not fit into the device's memory; the memory was given back, and the worker can go on."""


class DeviceLostError(PictureError):
    """The GPU took an error that stays with its process (an illegal access, a card that fell off); the worker ends."""


class DiskError(RendererError):
    """A file could not be written whole. What stood there before still stands; nothing half-written was left.

    `ends_the_night` says what it is about: the disk, which takes nothing more (it is full, read-only, gone), for all
    manifests whose folders lie on it; or, where it is false, one path alone, whose picture fails and the others go on.
    """

    def __init__(self, message: str, *, hint: str = "", ends_the_night: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.ends_the_night = ends_the_night


class LockedError(RendererError):
    """Another run holds this output folder."""

    exit_code = EXIT_LOCKED


class LeaseLostError(LockedError):
    """Another run has taken over a part of a shared manifest: its lease was not renewed in time."""
