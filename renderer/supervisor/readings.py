"""What is written in pictures, read beside the next sweeps: one picture at a time, by a process of its own.

A picture lies on the disk, whole and unread, until it is read; then its sidecar says what was. Of several takes of one
picture the best comes to its place, and the others go; each of these writes leaves a folder from which a later run goes
on. The loop asks, and hears of the end; it waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Self

from renderer.errors import DiskError
from renderer.job import LetteringRead, Sidecar, Take, Weights
from renderer.lettering import scores
from renderer.lettering.asking import Answer, LetterReader, ReadingError
from renderer.outputs import done, picture_files
from renderer.outputs.folder import OutputFolder, Own
from renderer.planning import takes
from renderer.planning.plan import Planned

_TRIES = 2
_PATIENCE_S = 10.0
"""A picture that is being read when all ends is waited for so long: it can be read another time."""

_TellRead = Callable[[Future[Sidecar]], None]


class Readings:
    """Pictures that are to be read, of one folder or several. For one loop; only reading runs elsewhere.

    A context: what is being read when it ends is waited for a while, and nothing else is begun.
    """

    def __init__(self, reader: LetterReader | None = None) -> None:
        self._reader = reader or LetterReader()
        self._pool = ThreadPoolExecutor(1, "reading")  # and its thread is the reader's owner
        self._going: dict[Future[Sidecar], tuple[Weights, _TellRead]] = {}
        self._ends = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        wait([future for future in self._going if not future.cancelled()], _PATIENCE_S)
        self._reader.close()
        self._pool.shutdown()

    def __len__(self) -> int:
        """How many have been begun whose end has not been told."""
        return len(self._going)

    def waits_for(self, weights: Weights) -> bool:
        """Whether a picture of these weights is to be read, after which another take of it may be due."""
        return any(its == weights for its, _ in self._going.values())

    def begin(self, folder: OutputFolder, item: Planned, output: str, tell: _TellRead) -> None:
        """Have a picture read that lies under an output name; `tend` then tells `tell` what is in its place."""
        future = self._pool.submit(partial(self._read, folder, item, output))
        self._going[future] = (Weights.of(item.picture.job), tell)

    def wait(self, timeout_s: float) -> None:
        """Until one has ended, or for so long."""
        wait(self._going, timeout_s, FIRST_COMPLETED)

    def tend(self) -> None:
        """Tell of one that has ended, if there is one. What telling raises is raised."""
        if (future := next((each for each in self._going if each.done()), None)) is not None:
            _, tell = self._going.pop(future)
            tell(future)

    def _read(self, folder: OutputFolder, item: Planned, output: str) -> Sidecar:
        """Raises `ReadingError`, and `DiskError`."""
        sidecar = picture_files.read_sidecar(folder.sidecar(output))
        if sidecar is None:
            raise DiskError(f"cannot read {folder.sidecar(output)}, which was there a moment ago")
        path = folder.picture(output, sidecar.keep.format)
        for again in reversed(range(_TRIES)):
            try:
                answer = self._reader.read(path)
            except ReadingError:
                if self._ends or not again:
                    raise
            else:
                break
        return settle(folder, item, output, sidecar, answer)


def settle(folder: OutputFolder, item: Planned, output: str, sidecar: Sidecar, answer: Answer) -> Sidecar:
    """Write down what was read in the picture at `output`, and have the best of its takes in its place: its sidecar.

    The takes are known before one of them goes, and it goes only when the other is whole. Raises `DiskError`.
    """
    lettering, place = item.picture.lettering, item.picture.output
    assert lettering is not None
    read = scores.compare(lettering, answer.lines, answer.reader)
    told: dict[str, object] = {"expected": takes.expected_of(item.picture)}
    best = None if output == place else _best(folder, item)
    if lettering.seeds:
        before = best.lettering.takes if best and best.lettering else ()
        take = Take(seed=sidecar.job.seed, score=read.score)
        told["takes"] = (*(one for one in before if one.seed != take.seed), take)
    read = read.model_copy(update=told)
    passing = item.retake and output == item.output
    if best is not None and best.lettering is not None and best.lettering.score >= read.score:
        now = _written(folder, place, best, best.lettering.model_copy(update=told))
        if passing:
            picture_files.remove(folder, output, sidecar.keep.format)
        return now
    if output == place or passing:
        sidecar = _written(folder, output, sidecar, read)
    if output == place:
        return sidecar

    def describe(found: Sidecar) -> Sidecar:
        return found.model_copy(update={"id": item.picture.id, "place": item.picture.place, "lettering": read})

    return picture_files.carry(folder, output, place, describe, leaves=passing)


def clear(folder: OutputFolder, staying: set[str]) -> None:
    """Remove takes that nothing is to come of, but for those at these output names. Raises `DiskError`."""
    if folder.takes.is_dir():
        for found in list(done.find_all(folder, staying, below=Own.TAKES)):
            picture_files.remove(folder, found.output, found.keep.format)
        tidy(folder)


def tidy(folder: OutputFolder) -> None:
    """No folder of takes where there are none. To be called while none is on its way."""
    folder.remove_empty(folder.takes)


def _best(folder: OutputFolder, item: Planned) -> Sidecar | None:
    """The best of a picture's takes so far, in its place; None where what is there is none of them."""
    found = picture_files.read_sidecar(folder.sidecar(item.picture.output))
    if found is None or takes.take_of(item.picture, item.identity, found.fingerprint) is None:
        return None
    assert item.picture.lettering is not None
    return found if takes.is_read(found.lettering, item.picture.lettering) else None


def _written(folder: OutputFolder, output: str, sidecar: Sidecar, read: LetteringRead) -> Sidecar:
    told = sidecar.model_copy(update={"lettering": read})
    picture_files.write_sidecar(folder, output, told)
    return told
