"""A card that computes nothing: torch.cuda's streams and events, which write down what waits for what, and how long.

Every stream, and every thread of the host, is a line of things done. Each knows how far it has waited for each of the
others (a vector clock), so that two uses of one memory are in order only if somebody saw to it: whether a real card
would have got them wrong on that day does not matter. Times are the card's own, without a wait in the world.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self, TypeVar

import pytest
import torch

from renderer.engine import meter, pinned, slots
from renderer.engine.slots import Slots

Found = TypeVar("Found")

LAUNCH_S = 1e-6
"""Of the host, for anything that it asks of the card."""


class Line:
    """Things done one after the other: a stream's, or a thread's of the host."""

    def __init__(self, card: Card, name: str) -> None:
        self._card = card
        self.name = name
        self.known = {name: 0}
        self.at_s = 0.0

    def wait_event(self, event: Event) -> None:
        self._card.asked(self)
        self.follow(event.known, event.at_s)

    def synchronize(self) -> None:
        self._card.host.follow(self.known, self.at_s)

    def follow(self, known: dict[str, int], at_s: float) -> None:
        """What comes next here comes after all of that."""
        for name, done in known.items():
            self.known[name] = max(done, self.known.get(name, 0))
        self.at_s = max(self.at_s, at_s)


class Event:
    """A point in a stream's work; before it is recorded, nothing waits for it."""

    def __init__(self, card: Card, *, enable_timing: bool = False) -> None:
        self._card = card
        self._timed = enable_timing
        self.known: dict[str, int] = {}
        self.at_s = 0.0

    def record(self, stream: Line | None = None) -> None:
        line = self._card.asked(stream or self._card.current)
        self.known, self.at_s = dict(line.known), line.at_s

    def synchronize(self) -> None:
        self._card.host.follow(self.known, self.at_s)

    def query(self) -> bool:
        """Whether it is over, as far as the host knows."""
        return self._card.host.at_s >= self.at_s

    def elapsed_time(self, other: Event) -> float:
        assert self._timed
        assert other._timed
        assert self._card.host.at_s >= other.at_s, "it is not over, as far as the host knows"
        return (other.at_s - self.at_s) * 1e3


class Memory(torch.Tensor):  # type: ignore[misc]  # torch is not typed here
    """Memory of the card."""

    card: Card

    def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> Memory:  # noqa: FBT001, FBT002  # torch's own signature
        card = self.card
        card.launch(source.nbytes / card.bytes_per_s, reads=[source], writes=[self])
        if not non_blocking:
            card.current.synchronize()
        torch.Tensor.copy_(self.as_subclass(torch.Tensor), source)
        return self


class Card:
    """One card and its host. `torn` names every use of memory that may come too early."""

    def __init__(self, bytes_per_s: float = 5e4) -> None:
        self.bytes_per_s = bytes_per_s
        self.host = Line(self, "host")
        self.current = self.computation = Line(self, "computation")
        self._lines = [self.computation]
        self._uses: dict[int, list[tuple[str, str, int]]] = {}
        self.torn: list[str] = []

    # -- what is asked of it --

    def stream(self) -> Line:
        self._lines.append(Line(self, f"stream {len(self._lines)}"))
        return self._lines[-1]

    @contextmanager
    def on(self, stream: Line | None) -> Iterator[None]:
        before, self.current = self.current, stream or self.current
        try:
            yield
        finally:
            self.current = before

    def synchronize(self) -> None:
        for line in self._lines:
            line.synchronize()

    def asked(self, line: Line) -> Line:
        """The host asks something of a stream: it comes after what the host has done, and the host goes on."""
        self._did(self.host, LAUNCH_S)
        line.follow(self.host.known, self.host.at_s)
        return line

    def launch(
        self, seconds: float, *, reads: Iterable[torch.Tensor] = (), writes: Iterable[torch.Tensor] = ()
    ) -> None:
        """Work on the current stream."""
        line = self.asked(self.current)
        self._did(line, seconds)
        self._used(line, reads, writes)

    def fill(self, memory: torch.Tensor) -> None:
        """A thread of the host writes into memory."""
        self._did(self.host, LAUNCH_S)
        self._used(self.host, (), [memory])

    def unmap(self, place: int) -> None:
        """The host gives memory back to the system."""
        self._did(self.host, LAUNCH_S)
        self._use(self.host, "writes", place)
        self._uses.pop(place, None)

    def memory(self, size: int) -> torch.Tensor:
        """Memory on the card, which the computation may have again once nobody holds it."""
        found = torch.empty(size, dtype=torch.uint8).as_subclass(Memory)
        found.card = self
        weakref.finalize(found, self._let_go, found.data_ptr()).atexit = False
        return found

    def clock_s(self) -> float:
        """The host's own clock."""
        self.host.at_s += LAUNCH_S
        return self.host.at_s

    # -- what it writes down --

    def _did(self, line: Line, seconds: float) -> None:
        line.known[line.name] += 1
        line.at_s += seconds

    def _used(self, line: Line, reads: Iterable[torch.Tensor], writes: Iterable[torch.Tensor]) -> None:
        for kind, memories in (("reads", reads), ("writes", writes)):
            for memory in memories:
                self._use(line, kind, memory.data_ptr())

    def _use(self, line: Line, kind: str, place: int) -> None:
        for name, before, done in self._uses.get(place, []):
            if "writes" in (kind, before) and line.known.get(name, 0) < done:
                self.torn.append(f"{line.name} {kind} what {name} {before}")
        self._uses.setdefault(place, []).append((line.name, kind, line.known[line.name]))

    def _let_go(self, place: int) -> None:
        self._used_by_others(place)
        self._uses.pop(place, None)

    def _used_by_others(self, place: int) -> None:
        line = self.asked(self.computation)
        self._did(line, 0.0)
        self._use(line, "writes", place)


class Readers:
    """Threads of the host: what one of them does, nobody else knows of before he has asked for its result."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._made = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        self._made += 1
        reader = Line(self._card, f"reader {self._made}")
        reader.follow(self._card.host.known, self._card.host.at_s)
        asking, self._card.host = self._card.host, reader
        found: Future[Any] = Reading(self._card, reader)
        try:
            found.set_result(work())
        except Exception as error:  # noqa: BLE001  # whoever asks for the result is told
            found.set_exception(error)
        finally:
            self._card.host = asking
        return found

    def shutdown(self, **_: bool) -> None:
        pass

    def map(self, work: Callable[[Any], Found], each: Iterable[Any]) -> Iterator[Found]:
        made = [self.submit(lambda one=one: work(one)) for one in each]  # type: ignore[misc]
        return iter([future.result() for future in made])


class Reading(Future[Any]):
    """What a reader does; whoever asks for its result has waited for it."""

    def __init__(self, card: Card, reader: Line) -> None:
        super().__init__()
        self._card, self._reader = card, reader

    def result(self, timeout: float | None = None) -> Any:
        self._card.host.follow(self._reader.known, self._reader.at_s)
        return super().result(timeout)


def install(patch: pytest.MonkeyPatch) -> Card:
    """Put a card into torch's place, for slots and meters."""
    card = Card()
    patch.setattr(torch.cuda, "Stream", card.stream)
    patch.setattr(torch.cuda, "Event", lambda **options: Event(card, **options))
    patch.setattr(torch.cuda, "stream", card.on)
    patch.setattr(torch.cuda, "current_stream", lambda: card.current)
    patch.setattr(torch.cuda, "synchronize", card.synchronize)
    patch.setattr(pinned._Memory, "pin", lambda *_: 0)  # and nothing to unpin, when the card is gone
    patch.setattr(Slots, "_buffer", lambda self: card.memory(self._source.block_bytes))
    patch.setattr(slots, "ThreadPoolExecutor", lambda _: Readers(card))
    patch.setattr(slots, "wait", lambda readings: [reading.result() for reading in readings])
    for module in (slots, meter):
        patch.setattr(module, "time", SimpleNamespace(perf_counter=card.clock_s))
    return card
