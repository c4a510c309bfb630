"""A reader as its owner sees it: a process of its own that is asked for one picture after the other.

It may die or hang; then it is ended, and another is started for the next picture. For one thread, whose child it is.
Imports no OCR.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from renderer.errors import PictureError
from renderer.job import ReadLine, Value
from renderer.system.children import Child

COMMAND: tuple[str, ...] = (sys.executable, "-m", "renderer.lettering.ocr")
ANSWER_S = 120.0
"""For one picture, and the start before the first."""


class ReadingError(PictureError):
    """What is written in a picture could not be read."""


class Answer(Value):
    """What was read in a picture, and by which reader; or why nothing was."""

    lines: tuple[ReadLine, ...] = ()
    error: str = ""
    reader: str = Field(default="")


class LetterReader:
    """Reads pictures, one at a time."""

    def __init__(self, command: Sequence[str] = COMMAND, patience_s: float = ANSWER_S) -> None:
        """`patience_s` is how many seconds a picture is waited for. Nothing is started yet."""
        self._command = command
        self._patience_s = patience_s
        self._child: Child | None = None
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read(self, path: Path) -> Answer:
        """The lines in a picture's file. Raises `ReadingError`, and the next call begins with a new process."""
        try:
            answer = Answer.model_validate_json(self._ask(path))
        except (OSError, ValidationError, queue.Empty) as error:
            self.close()
            why = f"no answer within {self._patience_s:.0f} s" if isinstance(error, queue.Empty) else "the reader ended"
            raise ReadingError(f"the lettering of {path.name} could not be read: {why}") from error
        if answer.error:
            raise ReadingError(f"the lettering of {path.name} could not be read: {answer.error}")
        return answer

    def close(self) -> None:
        """End it, at once. For any thread: whoever waits for an answer hears that it has ended."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()

    def _ask(self, path: Path) -> bytes:
        if self._child is None:
            self._child = Child(self._command, stderr=subprocess.DEVNULL, pass_fds=())
            self._answers = queue.SimpleQueue()
            threading.Thread(target=_listen, args=(self._child, self._answers), name="reader", daemon=True).start()
        self._child.stdin.write(json.dumps(str(path.absolute())).encode() + b"\n")
        self._child.stdin.flush()
        return self._answers.get(timeout=self._patience_s)


def _listen(child: Child, answers: queue.SimpleQueue[bytes]) -> None:
    """Hand on what a reader says, and at its end an empty line, which is no answer."""
    with child.stdout as said:
        for line in said:
            answers.put(line)
    answers.put(b"")
