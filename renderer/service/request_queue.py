"""Pictures that were asked for and wait: the dispatcher's second source, which others fill while it is emptied.

Those that somebody waits for come before batches; among each, clients take turns. What needs other weights than the
worker has open waits until its turn comes, and not for ever. For several threads. Knows no HTTP and no disk.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from renderer.dealing.parties import Fits
from renderer.job import Weights
from renderer.planning.pace import weight
from renderer.planning.plan import Planned

MOST_AHEAD, MOST_PATIENT_AHEAD = 12, 8
"""Pictures that a worker may have and not have begun, and how many of those may be of batches.

What comes later is behind no more than these, whoever asked for them; and what a worker has cannot be cancelled.
"""

_PATIENCE_S = 20.0
_HURRY_S = 2.0
"""For how long others wait for a worker that has other weights open; shorter where somebody waits for them alone."""

_COUNTED = 64
"""So many that wait are counted, to share them out among workers."""

MOST_A_SHIFT = 20_000
"""Pictures after which the counts of a shift are begun anew."""


@dataclass(slots=True, eq=False)
class QueuedItem:
    """A picture that waits, or that a worker has. `gone` ones are passed over when their turn comes."""

    item: Planned
    client: str
    patient: bool
    since_s: float = field(default_factory=time.monotonic)
    gone: bool = False
    begun: bool = False


class _Line:
    """Those that need the same weights: each client's in order, the clients in turn."""

    def __init__(self) -> None:
        self._of: tuple[dict[str, deque[QueuedItem]], dict[str, deque[QueuedItem]]] = ({}, {})

    def append(self, waiting: QueuedItem) -> None:
        self._of[waiting.patient].setdefault(waiting.client, deque()).append(waiting)

    def put_first(self, waiting: QueuedItem) -> None:
        clients = self._of[waiting.patient]
        clients.setdefault(waiting.client, deque()).appendleft(waiting)
        self._of = tuple(  # type: ignore[assignment]
            {waiting.client: each.pop(waiting.client), **each} if each is clients else each for each in self._of
        )

    def first(self, *, patient: bool) -> QueuedItem | None:
        """The one whose turn it is."""
        clients = self._of[patient]
        for client, waiting in list(clients.items()):
            while waiting and waiting[0].gone:
                waiting.popleft()
            if waiting:
                return waiting[0]
            del clients[client]
        return None

    def take(self, taken: QueuedItem) -> None:
        """It goes, and its client's next turn is after the others'."""
        clients = self._of[taken.patient]
        waiting = clients.pop(taken.client)
        waiting.remove(taken)  # nearly always the first
        if waiting:
            clients[taken.client] = waiting

    def __iter__(self) -> Iterator[QueuedItem]:
        return (each for clients in self._of for waiting in clients.values() for each in waiting if not each.gone)


class RequestQueue:
    """All that wait. A picture is known by its id."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._lines: dict[Weights, _Line] = {}
        self._waiting: dict[str, QueuedItem] = {}
        self._taken: dict[str, QueuedItem] = {}
        self._busy_at_s = time.monotonic()
        self._closed = False

    # -- for those who ask --

    def add(self, those: Iterable[QueuedItem]) -> None:
        """They wait from now on."""
        with self._changed:
            for each in those:
                self._append(each)
            self._changed.notify_all()

    def hurry(self, key: str) -> None:
        """Somebody waits for it now, who did not before."""
        with self._changed:
            if (waiting := self._waiting.get(key)) is not None and waiting.patient:
                waiting.gone = True
                self._append(QueuedItem(waiting.item, waiting.client, patient=False, since_s=waiting.since_s))
                self._changed.notify_all()

    def cancel(self, key: str) -> bool:
        """Nobody wants it any more; False where a worker has it, or it does not wait."""
        with self._changed:
            waiting = self._waiting.pop(key, None)
            if waiting is not None:
                waiting.gone = True
            return waiting is not None

    def count(self, *, patient: bool) -> int:
        """How many wait."""
        with self._changed:
            return sum(each.patient == patient for each in self._waiting.values())

    def has(self, key: str) -> bool:
        """Whether it waits, or a worker has it."""
        return key in self._waiting or key in self._taken

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def in_hand(self) -> int:
        """How many a worker has."""
        return len(self._taken)

    # -- for whoever renders --

    def wait(self, timeout_s: float) -> Weights | None:
        """The weights whose turn it is, as soon as anything waits; None where nothing does for so long, or any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout_s)
            return None if self._closed else self._whose_turn()

    def close(self) -> None:
        """Nobody is to wait for more. May be called by a signal's handler's thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def began(self, key: str) -> None:
        """A worker has begun it."""
        with self._changed:
            if (taken := self._taken.get(key)) is not None:
                taken.begun = True

    def ended(self, key: str) -> None:
        """It is there, or it will not come."""
        with self._changed:
            self._taken.pop(key, None)
            self._busy_at_s = time.monotonic()

    def give_up(self, weights: Weights) -> list[Planned]:
        """None that needs these weights will be rendered: which those are."""
        with self._changed:
            given_up = list(self._lines.pop(weights, ()))
            for each in given_up:
                self._waiting.pop(each.item.picture.id, None)
            return [each.item for each in given_up]

    # -- of one shift --

    def next_of(self, weights: Weights) -> Planned | None:
        """The one whose turn it is among those that need these weights."""
        with self._changed:
            ahead = [each.patient for each in self._taken.values() if not each.begun]
            line = self._line(weights)
            waiting = line.first(patient=False) if len(ahead) < MOST_AHEAD else None
            if waiting is None and len(ahead) < MOST_AHEAD and sum(ahead) < MOST_PATIENT_AHEAD:
                waiting = line.first(patient=True)
            return waiting.item if waiting is not None else None

    def waiting_for(self, weights: Weights, most: int) -> list[Planned]:
        """What waits for these weights, `most` at the most."""
        with self._changed:
            return [each.item for each in islice(self._line(weights), most)]

    def take(self, item: Planned) -> bool:
        """A worker is to have it; False where it was cancelled since its turn came."""
        with self._changed:
            waiting = self._waiting.pop(item.picture.id, None)
            if waiting is None:
                return False
            self._line(Weights.of(item.picture.job)).take(waiting)
            self._taken[item.picture.id] = waiting
            return True

    def give_back(self, item: Planned, *, first: bool) -> None:
        """A worker has it no more: it waits again, before or behind what its client has asked for besides."""
        with self._changed:
            waiting = replace(self._taken.pop(item.picture.id), item=item, begun=False)
            self._waiting[item.picture.id] = waiting
            line = self._line(Weights.of(item.picture.job))
            if first:
                line.put_first(waiting)
            else:
                line.append(waiting)

    def is_idle(self, idle_s: float, *, opening: bool = False) -> bool:
        """Whether nobody has asked for so long. While a worker is `opening`, nobody is idle."""
        with self._changed:
            now_s = time.monotonic()
            if opening:
                self._busy_at_s = now_s
            return not (self._waiting or self._taken or opening) and now_s - self._busy_at_s > idle_s

    def is_over(self, weights: Weights, idle_s: float, *, opening: bool = False) -> bool:
        """Whether a worker with these weights is to be let go: others have waited long enough, or nobody asks."""
        with self._changed:
            now_s = time.monotonic()
            others = [head for head in self._heads() if Weights.of(head.item.picture.job) != weights]
            if not others:
                return self.is_idle(idle_s, opening=opening)
            line = self._line(weights)
            urgent = line.first(patient=False) is not None
            if not urgent and line.first(patient=True) is None:
                return True
            in_a_hurry = not urgent and not all(head.patient for head in others)
            return max(now_s - head.since_s for head in others) > (_HURRY_S if in_a_hurry else _PATIENCE_S)

    def _line(self, weights: Weights) -> _Line:
        return self._lines.setdefault(weights, _Line())

    def _heads(self) -> Iterator[QueuedItem]:
        for line in self._lines.values():
            for patient in (False, True):
                if (head := line.first(patient=patient)) is not None:
                    yield head

    def recall(self) -> None:
        """No worker has any: what one was lost with waits again."""
        with self._changed:
            for key in reversed(list(self._taken)):  # each is put before those that wait
                self.give_back(self._taken[key].item, first=True)

    def _append(self, waiting: QueuedItem) -> None:
        self._waiting[waiting.item.picture.id] = waiting
        self._line(Weights.of(waiting.item.picture.job)).append(waiting)
        self._busy_at_s = time.monotonic()

    def _whose_turn(self) -> Weights | None:
        """Whoever is waited for longest comes first, and batches after all of those."""
        head = min(self._heads(), key=lambda head: (head.patient, head.since_s), default=None)
        return None if head is None else Weights.of(head.item.picture.job)


class RequestSource:
    """What of a queue is rendered with the weights that a worker has open: one shift.

    There is more to come until others have waited long enough for other weights, nobody has asked for `idle_s`, or
    the shift has had its number. `opening` says whether a worker is on its way. For the dispatcher's thread alone.
    """

    def __init__(
        self, queue: RequestQueue, weights: Weights, idle_s: float, opening: Callable[[], bool] = lambda: False
    ) -> None:
        self._queue = queue
        self._weights = weights
        self._idle_s = idle_s
        self._opening = opening
        self._given = 0
        self._over = False

    def __bool__(self) -> bool:
        self._over = self._over or self._given >= MOST_A_SHIFT or self._has_ended()
        return not self._over

    def _has_ended(self) -> bool:
        return self._queue.is_over(self._weights, self._idle_s, opening=self._opening())

    @property
    def waiting(self) -> int:
        return len(self._queue.waiting_for(self._weights, _COUNTED))

    @property
    def waiting_work(self) -> float:
        return sum(map(weight, self._queue.waiting_for(self._weights, _COUNTED)))

    def first(self, fits: Fits[Planned] | None = None) -> Planned | None:
        item = self._queue.next_of(self._weights) if self else None
        if item is None or fits is None or fits(item):
            return item
        return next(filter(fits, self._queue.waiting_for(self._weights, _COUNTED)), None)

    def take(self, item: Planned) -> bool:
        self._given += 1
        return self._queue.take(item)

    def put_back(self, item: Planned) -> None:
        self._queue.give_back(item, first=True)

    def try_again(self, items: Iterable[Planned]) -> None:
        """They wait behind what their clients have asked for besides: a server has no end at which to try them."""
        for item in items:
            self._queue.give_back(item, first=False)

    def join(self, items: Iterable[Planned]) -> None:
        """Other takes of pictures, behind what their clients have asked for besides."""
        self.try_again(items)

    def next_round(self) -> bool:
        return False

    def give_up(self) -> list[Planned]:
        return self._queue.give_up(self._weights)
