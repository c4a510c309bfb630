"""What has been accepted, on the disk: `queue.jsonl` in the output folder, a line a picture, before anybody is told.

A line says what was asked for, who else asks for it or does no more, or how one of them ended that is not there: that
is known after a restart too. That one is done, its sidecar says: the file never does. Knows no workers and no order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from renderer.errors import DiskError
from renderer.job import Picture, Value
from renderer.system import files

HowEnded = Literal["failed", "cancelled"]

REMEMBERED = 4096
"""Pictures that did not come, of which it is known why: the last ones."""

LONG_BYTES = 16 * 2**20
"""A file that is shorter is not written anew while a server runs: it grows by as much in an hour or a week."""


class Wanting(Value):
    """One who asked for a picture: a client, and the batch (empty: a request of its own)."""

    client: str = ""
    batch: str = ""


class Asked(Value):
    """A picture that was accepted. `number` counts all that ever were; the picture's place has it as its line.

    `client` is whom it is fair to, `patient` says that it waits behind those that somebody waits for, and `batch` which
    batch it was asked for by (empty: a request of its own). `wanted_by` are all who want it, in a file that was written
    anew; where it is empty, that is the one who asked.
    """

    what: Literal["asked"] = "asked"
    number: int
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    fingerprint: str
    picture: Picture
    client: str = ""
    patient: bool = False
    batch: str = ""
    wanted_by: tuple[Wanting, ...] = ()

    @property
    def wanting(self) -> tuple[Wanting, ...]:
        """All who want it."""
        return self.wanted_by or (Wanting(client=self.client, batch=self.batch),)

    def after(self, line: Joined | Left) -> Asked:
        """The same, when one more wants it, or one wants it no more."""
        others = tuple(each for each in self.wanting if each != line.who)
        return self.model_copy(update={"wanted_by": (*others, line.who) if isinstance(line, Joined) else others})


class Joined(Value):
    """One more wants a picture that was accepted."""

    what: Literal["joined"] = "joined"
    number: int
    who: Wanting


class Left(Value):
    """One who asked for a picture wants it no more, and others do."""

    what: Literal["left"] = "left"
    number: int
    who: Wanting


class Ended(Value):
    """A picture that was accepted and will not come: which one (`key` is its id), and what is told of it from then on.

    `refused` says that it failed untried: it cannot be rendered here. Lines of earlier versions know no key.
    """

    what: Literal["ended"] = "ended"
    number: int = 0
    key: str = ""
    how: HowEnded
    message: str = ""
    hint: str = ""
    refused: bool = False
    step: int = 0
    steps: int | None = None


class _Counted(Value):
    """So many had been accepted when the file was written anew."""

    what: Literal["counted"] = "counted"
    number: int


QueueEntry = Asked | Joined | Left | Ended
QueueLine = QueueEntry | _Counted
_LINES: TypeAdapter[QueueLine] = TypeAdapter(Annotated[QueueLine, Field(discriminator="what")])


@dataclass(frozen=True, slots=True)
class WhatIsKnown:
    """What a file says: what is still to come, in order, and what will not, by its picture's id."""

    asked: Sequence[Asked] = ()
    ended: Mapping[str, Ended] = field(default_factory=dict)


@dataclass(slots=True)
class QueueFile:
    """The file. For one process, which holds the folder's lock; `last` is the number of the last picture accepted."""

    path: Path
    last: int = 0
    _kept_bytes: int = 0

    def read(self) -> WhatIsKnown:
        """What was accepted and has not been told to have ended; and what has, until it was asked for again.

        Lines that are none (the last one of a server that was killed) are passed over: nobody was told of them. Raises
        `DiskError` where the file cannot be read.
        """
        asked: dict[int, Asked] = {}
        ended: dict[str, Ended] = {}
        for line in self._lines():
            self.last = max(self.last, line.number)
            if isinstance(line, Asked):
                asked[line.number] = line
                ended.pop(line.picture.id, None)
            elif isinstance(line, Joined | Left):
                if (known := asked.get(line.number)) is not None:
                    asked[line.number] = known.after(line)
            elif isinstance(line, Ended):
                before = asked.pop(line.number, None)
                key = line.key or (before.picture.id if before else "")
                ended[key] = line.model_copy(update={"key": key})
        ended.pop("", None)
        return WhatIsKnown(list(asked.values()), dict(list(ended.items())[-REMEMBERED:]))

    def _lines(self) -> Iterator[QueueLine]:
        try:
            with self.path.open("rb") as stream:
                for text in stream:
                    with contextlib.suppress(ValidationError, ValueError):
                        yield _LINES.validate_json(text)
        except FileNotFoundError:
            return
        except OSError as error:
            raise files.disk_error(self.path, error, doing="read") from error

    @property
    def is_long(self) -> bool:
        """Whether it has grown to several times what was written anew. Raises `DiskError`."""
        return self._size() > max(LONG_BYTES, 4 * self._kept_bytes)

    def append(self, lines: Iterable[QueueEntry]) -> None:
        """Add lines, and have them on the disk before returning. Raises `DiskError`."""
        files.append_line(self.path, b"\n".join(line.model_dump_json().encode() for line in lines))

    def keep(self, known: WhatIsKnown) -> None:
        """Write the file anew with this alone. Raises `DiskError`."""
        lines: list[QueueLine] = [_Counted(number=self.last), *known.ended.values(), *known.asked]
        text = "".join(f"{line.model_dump_json()}\n" for line in lines).encode()
        if len(text) < self._size():
            files.write_whole(self.path, text)
        self._kept_bytes = len(text)

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise DiskError(f"cannot read {self.path}: {error.strerror}") from error
