"""The workers at hand, a seat for each: which has what, who has room, and whom one has not heard of for long.

A seat is a device's. It is for one setup at a time; a worker is hired where none sits, and replaced when the setup
changes or it is gone. Knows nothing of what becomes of pictures.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from renderer import protocol
from renderer.errors import DiskError, MachineError
from renderer.job import Gpu
from renderer.outputs.status import WorkerState, WorkerStatus
from renderer.planning.plan import Planned
from renderer.protocol import AnyEvent, Opened, Opening, Setup
from renderer.supervisor import events
from renderer.supervisor.events import Watch
from renderer.supervisor.holdings import DeviceHealth, Flights, Silence
from renderer.supervisor.host_copies import HostCopies
from renderer.supervisor.incoming import GoingIn
from renderer.supervisor.progress import Flight
from renderer.supervisor.worker import Gone, Hire, Worker

_MAX_OPENINGS = 3
"""A worker that dies this many times while opening will not open."""

_OPENING_S = 60.0
"""For so long at least a worker may say nothing before it takes orders: it imports, and reads, as others may."""

_MANY = 16

_MOST_UNSENT_BYTES = 256 * 2**20
"""Of files that wait to be written to a worker, besides one picture's."""


class Seat:
    """A place for one worker, and the pictures that it holds. `opened` is what it said when it was ready.

    `number` counts seats, from 0; `label` tells it from others, and is empty where there are none. `health` is its
    device's; `is_placed` says that its worker does not wait for a device, `is_ending` that it has said it is lost.
    """

    def __init__(self, hire: Hire, watch: Watch, number: int = 0, label: str = "") -> None:
        self._hire = hire
        self._watch = watch
        self._shared: Callable[[Setup], Setup] = lambda setup: setup
        self._left: Callable[[], None] = lambda: None
        self._bell: Callable[[], None] | None = None
        self.number = number
        self.label = label
        self.health = DeviceHealth()
        self.is_placed, self.is_ending = True, False
        self._worker: Worker | None = None
        self._setup: Setup | None = None
        self._log = Path(os.devnull)
        self._openings = 0
        self._asked_back = self.is_ending = False
        self._silence = Silence(time.monotonic())
        self.flights = Flights()
        self._card: Gpu | None = None
        self._unsent: list[tuple[protocol.Render, bytes]] = []
        self._gathers = False
        self.opened: Opened | None = None

    # -- who sits there --

    @property
    def is_out(self) -> bool:
        """Whether nothing is tried with its device at this moment."""
        return self.health.is_out

    @property
    def pid(self) -> int | None:
        """Its worker's process on this machine, if there is one."""
        return self._worker.pid if self._worker is not None else None

    @property
    def setup(self) -> Setup | None:
        """What its worker has open, or opens."""
        return self._setup if self._worker is not None else None

    @property
    def excerpt(self) -> str:
        """What the worker printed last."""
        return self._worker.excerpt() if self._worker is not None else ""

    def status(self) -> WorkerStatus:
        """How it is, for others to read."""
        setup = self.setup
        state: WorkerState = "open" if self.opened else "opening" if setup is not None else "none"
        return WorkerStatus(
            where=self.label,
            state="left out" if self.is_out or (self.health.trouble and setup is None) else state,
            pid=self.pid,
            gpu=setup.gpu if setup is not None else None,
            card=self._card.described if self._card is not None else "",
            model=str(setup.weights) if setup is not None else None,
            pictures=len(self.flights),
            rendered=self.health.rendered,
            trouble=self.health.trouble,
        )

    def prepare(self, setup: Setup, log: Path) -> None:
        """Have a worker for `setup`, which prints into `log`; one that is hired says `Opened` when it takes orders.

        A log that cannot be written is told, once, and goes without.
        """
        if self._setup != setup:
            self.dismiss()
            self._openings = 0
        if self._worker is None:
            self._worker = self._hired(log)
            self.is_placed = True
            if self._bell is not None:
                self._worker.ring(self._bell)
            self._setup = setup
            self._silence = Silence(time.monotonic())
            self._worker.send(protocol.Open(setup=self._shared(setup)))
            self._watch(events.WorkerOpening(setup, "starting", self.label))
        elif log != self._log:  # another manifest's pictures
            try:
                self._worker.log_into(log)
            except DiskError as error:
                self._complain(error)
        self._log = log

    def _hired(self, log: Path) -> Worker:
        try:
            return self._hire(log)
        except DiskError as error:
            self._complain(error)
            return self._hire(Path(os.devnull))

    def _complain(self, error: DiskError) -> None:
        self._watch(events.Remark(f"the worker's log is lost: {error.message}"))

    def rings(self, bell: Callable[[], None]) -> None:
        """Its workers are to call this when they say something."""
        self._bell = bell

    def shares(self, shared: Callable[[Setup], Setup], left: Callable[[], None]) -> None:
        """What its workers open is told by `shared`; `left` hears whenever one has gone."""
        self._shared, self._left = shared, left

    def has_opened(self, event: Opened) -> None:
        self.opened = event
        self._card = event.gpu
        self._openings = 0

    def ends(self, why: str) -> None:
        """Its worker has said that its device is lost, and ends: it is given nothing more."""
        self.is_ending, self.health.complaint = True, why

    def lost(self, *, blameless: bool = False) -> None:
        """The worker is gone; what it held is somebody else's business. Raises `MachineError` when it never opens.

        `blameless` says that somebody ended it, and that it might have opened.
        """
        excerpt = self.excerpt
        if self.opened is None and not blameless:
            self._openings += 1
        self.dismiss(at_once=True)
        if self._openings >= _MAX_OPENINGS:
            last = "\n".join(excerpt.splitlines()[-12:])
            raise MachineError(f"the worker died {self._openings} times while opening the model:\n{last}")

    def dismiss(self, *, at_once: bool = False) -> None:
        """Let the worker go: by itself, or `at_once`."""
        worker, self._worker, self.opened = self._worker, None, None
        self._unsent.clear()
        self._asked_back = self.is_ending = False
        if worker is not None:
            if at_once:
                worker.kill()
            else:
                worker.end()
            self._left()

    def kill(self) -> None:
        """End a worker that says nothing more; what it printed is still to be had."""
        if self._worker is not None:
            self._worker.kill()

    # -- what it holds --

    def takes(self, item: Planned) -> bool:
        """Whether it has room for a picture. A suspect rides alone."""
        company = [flight.item for flight in self.flights.values()]
        return self.has_room and not any(other.suspect or item.suspect for other in company)

    @property
    def has_room(self) -> bool:
        """It has not, while much that was given to its worker waits to be read there: a file may have 200 MiB."""
        if self.opened is None or self._worker is None or self.is_ending:
            return False
        kept = sum(len(payload) for _, payload in self._unsent)
        return len(self.flights) < self.opened.capacity and self._worker.unsent_bytes + kept < _MOST_UNSENT_BYTES

    def give(self, flight: Flight, goes_in: GoingIn) -> None:
        """Have the worker render a picture, with the files of what goes in."""
        assert self._worker is not None
        picture = flight.item.picture
        self.flights[flight.key], flight.where = flight, self.label
        self._silence.broken()
        order = protocol.Render(key=flight.key, job=picture.job, files=goes_in.sizes, previews=flight.item.previews)
        self._unsent.append((order, goes_in.payload))
        if not self._gathers:
            self.send_on()

    def gathers(self, *, gathers: bool) -> None:
        """Keep what is given until it is to be sent; or no more."""
        self._gathers = gathers

    def send_on(self) -> None:
        """Send what has been given."""
        unsent, self._unsent = self._unsent, []
        for order, payload in unsent:
            if self._worker is not None:
                self._worker.send(order, payload)

    def ask_back(self) -> None:
        """Ask the worker, once, for what it has been given and not begun."""
        if not self._asked_back and self._worker and any(flight.since is None for flight in self.flights.values()):
            self._asked_back = True
            self._worker.send(protocol.Withdraw())

    def take_back(self, keys: list[str] | None = None) -> list[Flight]:
        """What it holds, or what has these keys, is not its business any more."""
        self._asked_back = False
        return [self.flights.take(key) for key in (list(self.flights) if keys is None else keys)]

    # -- what it says --

    def hear(self, timeout_s: float) -> tuple[AnyEvent | Gone, bytes] | None:
        heard = self._worker.hear(timeout_s) if self._worker is not None else None
        if heard is not None:
            self._silence.look(time.monotonic())
            self._silence.broken()
            if isinstance(heard[0], Opening):
                self.is_placed = heard[0].placed
        return heard

    def wake(self) -> None:
        """Let whoever waits for its worker's word look up."""
        if (worker := self._worker) is not None:
            worker.wake()

    def unheard(self) -> None:
        """Nobody listens to it for a moment, and it is not blamed for that."""
        self._silence.skip(time.monotonic())

    def silent_s(self) -> float:
        """For how long it has said nothing; nobody is silent where nobody sits, or has anything to do."""
        if self._worker is None or (self.opened and not self.flights and not self.is_ending):
            self._silence = Silence(time.monotonic())
        return self._silence.look(time.monotonic())


class WorkerPool:
    """The seats. As a context, it lets all workers go at its end."""

    def __init__(self, hire: Hire, watch: Watch, labels: Sequence[str] = ("",)) -> None:
        """There is a seat for each of `labels`, which say where it is; empty where there is but one."""
        self.seats = tuple(Seat(hire, watch, number, label) for number, label in enumerate(labels))
        self._turns = list(self.seats)
        self._bell = threading.Event()
        self._rung: deque[Seat] = deque()
        if len(self.seats) > 1:
            self._copies = HostCopies(len(self.seats))
            for seat in self.seats:
                seat.rings(partial(self._rings, seat))
                seat.shares(self._copies.shared, self._keep_copies)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()

    def dismiss(self, *, at_once: bool = False) -> None:
        """Let all workers go: by themselves, or `at_once`."""
        for seat in self.seats:
            seat.dismiss(at_once=at_once)

    def _keep_copies(self) -> None:
        self._copies.keep(seat.setup for seat in self.seats if seat.setup is not None)

    @property
    def is_open(self) -> bool:
        """Whether somebody takes orders."""
        return any(seat.opened for seat in self.seats)

    @property
    def is_opening(self) -> bool:
        """Whether somebody is on the way to taking orders."""
        return any(seat.setup is not None and seat.opened is None for seat in self.seats)

    @property
    def is_crowded(self) -> bool:
        """Whether there are so many that looking at each takes time."""
        return len(self.seats) > _MANY

    @property
    def has_flights(self) -> bool:
        """Whether any worker holds a picture."""
        return any(seat.flights for seat in self.seats)

    def workers(self) -> list[WorkerStatus]:
        """How each seat is, for others to read."""
        return [seat.status() for seat in self.seats]

    # -- which worker has what --

    @property
    def flights(self) -> list[Flight]:
        """All pictures that workers have been given and have not answered."""
        return [flight for seat in self.seats for flight in seat.flights.values()]

    def ask_back(self) -> None:
        """Ask all workers, once, for what they have been given and not begun."""
        for seat in self.seats:
            seat.ask_back()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """What seats are given in here is sent at its end; if it ends well."""
        for seat in self.seats:
            seat.gathers(gathers=True)
        try:
            yield
        finally:
            for seat in self.seats:
                seat.gathers(gathers=False)
        for seat in self.seats:
            seat.send_on()

    # -- what workers say --

    def hear(self, timeout_s: float) -> tuple[Seat, AnyEvent | Gone, bytes] | None:
        """What somebody says, with its payload; None when nobody does within `timeout_s` seconds."""
        if len(self.seats) == 1:
            return self._heard(timeout_s)
        if (heard := self._heard_of_ringers()) is not None:
            return heard
        if not self.is_crowded and (heard := self._heard(0.0)) is not None:
            return heard
        self._bell.wait(timeout_s)  # it may have rung already: somebody wakes whoever is about to wait
        self._bell.clear()  # before anybody is asked: what comes later rings
        return self._heard_of_ringers() or self._heard(0.0)

    def _rings(self, seat: Seat) -> None:
        """A seat has something to say. For any thread."""
        self._rung.append(seat)
        self._bell.set()

    def _heard_of_ringers(self) -> tuple[Seat, AnyEvent | Gone, bytes] | None:
        """What the first says of those that have rung: of a thousand, not each is asked for each word."""
        while self._rung:
            seat = self._rung.popleft()
            if (heard := seat.hear(0.0)) is not None:
                return seat, *heard
        return None

    def _heard(self, timeout_s: float) -> tuple[Seat, AnyEvent | Gone, bytes] | None:
        for seat in self._turns:
            if (heard := seat.hear(timeout_s)) is not None:
                self._turns.sort(key=lambda other: other is seat)  # the others are asked first next time
                return seat, *heard
        return None

    def wake(self) -> None:
        """Let whoever waits in `hear` look up: something has come that workers may be given. For any thread."""
        self._bell.set()
        if len(self.seats) == 1:  # which is not waited for by the bell
            self.seats[0].wake()

    def unheard(self) -> None:
        """Nobody listens for a moment, and no worker is blamed for that."""
        for seat in self.seats:
            seat.unheard()

    def stuck(self, after_s: float) -> Iterator[tuple[Seat, float]]:
        """Whose workers have said nothing for more than `after_s` seconds, and for how long."""
        for seat in self.seats:
            patience_s = after_s if seat.opened else max(after_s, _OPENING_S)
            if (silent_s := seat.silent_s()) > patience_s:
                yield seat, silent_s
