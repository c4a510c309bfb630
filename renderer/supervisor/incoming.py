"""What goes into pictures, on its way to a worker: read, and kept beside the pictures, on a thread of its own.

A file may have 200 MiB, and its disk may be slow, or dead: the loop goes on hearing workers meanwhile. It asks for the
next picture's, and gives nobody a later one before, so that the order stays. What was read last is held until something
else is wanted: pictures of one file read it once. Knows no workers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from renderer.errors import PictureError
from renderer.job import InputFile
from renderer.outputs import input_files
from renderer.outputs.folder import OutputFolder
from renderer.planning.plan import Planned
from renderer.protocol import MAX_PAYLOAD_BYTES
from renderer.text import MIB

_PATIENCE_S = 5.0
"""How long a reading is waited for when nobody wants it any more."""

_SMALLER = f"export the pictures smaller: up to {MAX_PAYLOAD_BYTES // MIB:,} MiB go to a worker at once"

Sources = tuple[InputFile, ...]
"""What goes into a picture, in its job's order."""

InputBytes = Mapping[InputFile, bytes]


@dataclass(frozen=True, slots=True)
class GoingIn:
    """What goes with a picture's order: its files, one behind the other, in its job's order; how long each is."""

    sizes: tuple[int, ...] = ()
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One picture's files, as they are read."""

    wanted: Sources
    files: Future[InputBytes] = field(default_factory=Future)


class Incoming:
    """The files of what goes in, of one picture at a time. For one loop; only reading runs elsewhere."""

    def __init__(self, folder: OutputFolder) -> None:
        """They are kept in `folder`."""
        self._folder = folder
        self._there: InputBytes = {}
        self._reading: _Reading | None = None

    def is_ready(self, item: Planned, wake: Callable[[], None]) -> bool:
        """Whether `of` need not wait. If not, they are read from now on, and `wake` is called when something was."""
        wanted = _sources(item)
        if self._has(wanted):
            return True
        if self._reading is None or (self._reading.wanted != wanted and self._reading.files.done()):
            self._begin(wanted, wake)
            return False
        return self._reading.wanted == wanted and self._reading.files.done()

    def of(self, item: Planned) -> GoingIn:
        """A picture's files, which are ready. Raises what `input_files.keep` raises, once: then they are read anew.

        `PictureError` also where there is no memory left for all of them in one piece.
        """
        wanted = _sources(item)
        if not self._has(wanted):
            assert self._reading is not None
            assert self._reading.wanted == wanted
            reading, self._reading = self._reading, None
            self._there = reading.files.result()
        files = [self._there[source] for source in wanted]
        try:
            return GoingIn(tuple(map(len, files)), b"".join(files))
        except MemoryError as error:
            raise _no_memory() from error

    def close(self) -> None:
        """Nothing more is wanted. What is being read is waited for a moment, and then left to itself."""
        if self._reading is not None:
            wait([self._reading.files], _PATIENCE_S)
        self._there, self._reading = {}, None

    def _has(self, wanted: Sources) -> bool:
        return all(source in self._there for source in wanted)

    def _begin(self, wanted: Sources, wake: Callable[[], None]) -> None:
        """Have them read. Nobody waits for that thread at the end: a dead disk would never let it go."""
        self._there = {source: data for source, data in self._there.items() if source in wanted}
        self._reading = reading = _Reading(wanted)
        reading.files.add_done_callback(lambda _: wake())
        threading.Thread(target=_read, args=(self._folder, reading, self._there), name="incoming", daemon=True).start()


def _read(folder: OutputFolder, reading: _Reading, there: InputBytes) -> None:
    files = dict(there)
    try:
        for source in reading.wanted:
            if source not in files:
                files[source] = input_files.keep(folder, source)
        _refuse_too_much(sum(len(files[source]) for source in reading.wanted))
    except MemoryError:
        reading.files.set_exception(_no_memory())
    except BaseException as error:  # noqa: BLE001  # it is raised again where somebody asks for them
        reading.files.set_exception(error)
    else:
        reading.files.set_result(files)


def _no_memory() -> PictureError:
    return PictureError("there is no memory left for what goes in", hint=_SMALLER)


def _refuse_too_much(total: int) -> None:
    """Raise `PictureError` for more than an order may bring: it would end the worker, and the next."""
    if total > MAX_PAYLOAD_BYTES:
        raise PictureError(f"what goes in has {total // MIB:,} MiB together", hint=_SMALLER)


def _sources(item: Planned) -> Sources:
    by_pixels = {source.sha256: source for source in item.picture.inputs}
    return tuple(by_pixels[each.sha256] for each in item.picture.job.inputs)
