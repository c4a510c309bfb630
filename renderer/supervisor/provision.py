"""Models that a run lacks: priced, agreed to, and brought by a process of its own, before a worker is hired.

That process can be ended at any moment, in the middle of a download too; what has come stays, and the next one goes on
from it. Imports no torch and no hub's client.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO

from pydantic import ValidationError

from renderer import catalog
from renderer.errors import MachineError, ModelError, RendererError
from renderer.job import Stored
from renderer.machine import hardware
from renderer.protocol import Setup
from renderer.supervisor.settings import Terms
from renderer.system.children import Child
from renderer.text import gb
from renderer.weights import needs, places, soundness
from renderer.weights.needs import ANSWERS, Bill, Need, Progress, Refused, Supplied

SUPPLIER_COMMAND = (sys.executable, "-m", "renderer.engine.supplier")

_TICK_S = 0.2
_EXCERPT_BYTES = 2000

SupplyEvent = Bill | Progress | Supplied
OnSupply = Callable[[Need, SupplyEvent | None], None]
"""Hears the bill, how it goes, and that it is done; None where a hub is about to be asked."""


def needs_of(setups: Iterable[Setup], terms: Terms) -> list[Need]:
    """What the setups need, each once: a store where the engine streams from one, or where one is here already.

    Elsewhere it is the model's own files.
    """
    found: dict[Need, None] = {}
    for setup in setups:
        packed = setup.store is not None or places.has_store(catalog.find(setup.model), setup.stored)
        store: Stored | None = setup.stored if packed else None
        found[Need(model=setup.model, store=store, source=terms.source, offline=terms.offline)] = None
    return list(found)


def needs_of_extra(source: str, terms: Terms) -> list[Need]:
    """What a LoRA or ControlNet needs, by its source: its file, where it is the catalogue's; else nothing."""
    if source not in catalog.MODELS:
        return []
    return [Need(model=source, source=terms.source, offline=terms.offline)]


def obtain(wanted: Sequence[Need], terms: Terms, tell: OnSupply, stopped: Callable[[], bool]) -> bool:
    """Have every need met; False when `stopped` said so before that.

    Raises `ModelError` when something is missing and may not or cannot be fetched, `MachineError` when the disk has no
    room or nobody has consented to the download, `DiskError` when the disk does not take it.
    """
    lacking = [need for need in wanted if not needs.is_met(need)]
    for need in lacking:
        soundness.check(catalog.find(need.model))
        if terms.offline:
            needs.refuse_offline(need)
    return all(_Errand(need, terms, tell, stopped).run() for need in lacking)


def verify(need: Need, tell: OnSupply) -> None:
    """Have every file of a model read and held against its hash. Raises `ModelError`, which names those that differ."""
    _Errand(need.model_copy(update={"verify": True}), Terms(), tell, lambda: False).run()


class _Errand:
    """One need on its way through a supplier."""

    def __init__(self, need: Need, terms: Terms, tell: OnSupply, stopped: Callable[[], bool]) -> None:
        self._need = need
        self._terms = terms
        self._tell = tell
        self._stopped = stopped

    def run(self) -> bool:
        self._tell(self._need, None)
        with tempfile.TemporaryFile() as log, _supplier(log) as (stdin, stdout):
            lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
            threading.Thread(target=_listen, args=(stdout, lines), daemon=True).start()
            _say(stdin, self._need.model_copy(update={"gpu": hardware.look().visible}).model_dump_json())
            while not self._stopped():
                with contextlib.suppress(queue.Empty):
                    line = lines.get(timeout=_TICK_S)
                    if line is None:
                        raise _gone(log)
                    if self._answer(line, stdin):
                        return True
        return False

    def _answer(self, line: str, stdin: IO[str]) -> bool:
        """Deal with one line; True when the need is met."""
        try:
            answer = ANSWERS.validate_json(line)
        except ValidationError as error:
            raise ModelError(f"the supplier said what nobody understands: {line[:100]}") from error
        if isinstance(answer, Refused):
            raise answer.as_error()
        self._tell(self._need, answer)
        if isinstance(answer, Bill):
            answer.check_room()
            self._check_consent(answer)
            _say(stdin, "go")
        return isinstance(answer, Supplied)

    def _check_consent(self, bill: Bill) -> None:
        most = self._terms.most_bytes
        if most is not None and bill.download_bytes > most:
            message = f"{bill.model} takes a download of {gb(bill.download_bytes)}, and nobody is here to agree"
            raise MachineError(message, hint=f"--yes agrees; or, beforehand: renderer models pull {self._need.model}")


@contextlib.contextmanager
def _supplier(log: IO[bytes]) -> Iterator[tuple[IO[str], IO[str]]]:
    """A supplier's process, which does not outlive this: what it reads, and what it says."""
    process = Child(SUPPLIER_COMMAND, stderr=log, pass_fds=())
    stdin, stdout = (io.TextIOWrapper(stream, encoding="utf-8") for stream in (process.stdin, process.stdout))
    try:
        yield stdin, stdout
    finally:
        process.kill()
        for stream in (stdin, stdout):
            with contextlib.suppress(OSError):  # what was still to be written; nobody reads it any more
                stream.close()


def _say(stream: IO[str], line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        stream.write(line + "\n")
        stream.flush()


def _listen(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed while it was read
        for line in stream:
            lines.put(line)
    lines.put(None)


def _gone(log: IO[bytes]) -> RendererError:
    """The supplier ended without a last word."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - _EXCERPT_BYTES))
    last = log.read().decode(errors="replace").strip().splitlines()[-3:]
    return ModelError("the model's supplier died: " + (" ".join(last) or "it said nothing"))
