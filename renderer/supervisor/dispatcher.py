"""The pictures of groups on their way through a pool of workers: flights, retries, a deadline, an orderly stop.

One picture's failure does not stop the others, and a dead or stuck worker is replaced. What is asked to stop gives back
what has not begun and waits for what has. What has come is written elsewhere meanwhile, and what goes in read there:
the loop waits for the next word, and for nothing else. Knows no folders and no formats: what comes of it is `outcomes`'
business.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from renderer import protocol
from renderer.errors import DeviceLostError, DiskError, LeaseLostError, MachineError, PictureError
from renderer.outputs.encode import Pixels
from renderer.outputs.status import Phase
from renderer.outputs.summary import Ending
from renderer.planning.pace import Pace
from renderer.planning.plan import Planned
from renderer.supervisor import events, results
from renderer.supervisor.groups import Group, SeatDeal
from renderer.supervisor.heartbeat import TICK_S, Heart
from renderer.supervisor.night import Night
from renderer.supervisor.pool import Seat
from renderer.supervisor.rest import Grace, Resting
from renderer.supervisor.results import Result
from renderer.supervisor.settings import AT_ONCE
from renderer.supervisor.speeds import KnownSpeeds
from renderer.supervisor.timely import Timely
from renderer.supervisor.together import Together
from renderer.supervisor.vanishing import Vanishing
from renderer.supervisor.worker import Gone
from renderer.text import duration

MOST_LOSSES = 3
"""A device that loses this many workers, each with other pictures, and brings none is left out for a while."""

_LISTEN_ON = 9
"""So many times as long as all workers are looked at, they are listened to, where they are many."""

_GIVE_S = 0.012
"""Of giving pictures to many workers, before they are listened to again."""

_LOOK_S = 0.02
"""Between two looks for what has been written, while nobody says anything."""


class Dispatcher:
    """Gives the pictures of groups to whoever has room for them, and hears what becomes of them.

    `pace` says what pictures will take, and learns from those that come; `heart` says meanwhile how things stand. A
    group that can be opened nowhere, or not any more, is told to `cannot_open`, which takes what is left of it or
    raises. `longest_away_s` is the longest time for which it did neither wait for a word nor for room: what it does
    itself.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        outcomes: Together,
        night: Night,
        pace: Pace,
        heart: Heart,
        cannot_open: Callable[[Group, MachineError], None],
    ) -> None:
        self._outcomes = outcomes
        self._writing = outcomes.writing
        self._readings = outcomes.readings
        self._night = night
        self._settings = night.settings
        self._pool = night.pool
        self._pace = pace
        self._heart = heart
        self._cannot_open = cannot_open
        self._deal = SeatDeal(groups, night.pool.seats, KnownSpeeds(night.speeds, night.pool.seats, pace))
        self._timely = Timely(self._deal, night, pace, outcomes)
        self._first_in_line: Seat | None = None
        self._given: dict[int, Planned] = {}
        self._vanishing = Vanishing()
        self._rest = Resting(night, outcomes.tempo)
        self._grace = Grace(night)
        self._back_at: float | None = None
        self.longest_away_s = 0.0

    def run(self) -> Ending:
        """Render until nothing is left, or nothing more is to begin.

        Raises `DiskError` where nothing more can be written, `LeaseLostError` where another run does that now. What is
        in flight then has been given up; what had come is written all the same, unless nothing can be.
        """
        try:
            return self._run()
        finally:
            self._drop()
            self._outcomes.close()
            self._writing.finish(lambda: self._night.stop.requests >= AT_ONCE)

    def _run(self) -> Ending:
        while self._deal or self._pool.has_flights or self._writing:
            began_s = time.monotonic()
            if self._grace.is_over(self._pool):
                return "signal"
            self._join_retakes()
            self._deal.next_rounds()
            if not self._pool.has_flights and not self._writing and (ending := self._reason_to_end()):
                return ending
            self._staff()
            self._rest.look(self._pool, busy=self._pool.has_flights or bool(self._writing))
            if self._nothing_more():
                self._pool.ask_back()
            else:
                self._admit()
            self._outcomes.rewrite(more=not self._nothing_more())
            self._listen()
            self._listen_on(time.monotonic() - began_s)
        return next((group.ending for group in self._deal.groups if group.ending), "complete")

    def add(self, group: Group) -> None:
        """Have more rendered than was known at the beginning."""
        self._deal.add(group)

    def _join_retakes(self) -> None:
        """Have other takes of pictures, whose lettering was not read as it was wanted, wait behind the others."""
        for group in self._deal.groups:
            if group.ending is None and (retakes := self._outcomes.take_retakes(group.weights, group.priority)):
                group.source.join(retakes)

    def _staff(self) -> None:
        """Have a worker where there is something to do, unless nothing more is to begin."""
        nothing_more = self._nothing_more()
        if not nothing_more:
            self._deal.settle()
        until = time.monotonic() + _GIVE_S
        for seat, group in self._deal.at_work():
            if seat.setup is None and self._pool.is_crowded and time.monotonic() > until:
                break  # the next are hired when those have been heard that are there
            if seat.flights or not nothing_more:
                self._prepare(seat, group, self._given.get(seat.number) or group.source.first())

    def _prepare(self, seat: Seat, group: Group, item: Planned | None) -> None:
        """Have a worker on a seat, which prints into the log of the picture's manifest."""
        seat.prepare(group.deployment.setups[seat.number], self._outcomes.log_of(item, seat.number))

    # -- giving out work --

    def _reason_to_end(self) -> Ending | None:
        """Why nothing more is to begin, if so; asked when nothing is in flight, and all that came is written.

        A group of which nothing would be done before the deadline ends alone: the others have their turn.
        """
        if self._night.stop.requests:
            return "signal"
        if self._night.has_failed_enough:
            return "failures"
        for group in (each for each in self._deal.groups if each.has_pictures):
            seats = self._deal.able(group)
            self._refuse_homeless(group, seats)
            waits = group.source.first() is not None  # a source may have nothing at this moment
            if waits and not any(self._timely.first(group, seat) for seat in seats):
                group.ending = "deadline"
        return None

    def _refuse_homeless(self, group: Group, seats: Sequence[Seat]) -> None:
        """Refuse what fits on no device on which anything is tried any more."""
        while (item := group.source.first()) and not any(self._deal.may_have(group, each, item) for each in seats):
            if group.source.take(item):
                error = MachineError("the devices on which it fits were left out", hint="their messages say why")
                self._outcomes.refused(item, error)

    def _nothing_more(self) -> bool:
        """Whether nothing more is to begin now, whatever a worker has been given already."""
        return self._ends() or self._night.pause.is_on

    def _ends(self) -> bool:
        return self._night.asked_to_end() is not None or self._night.has_failed_enough

    def _admit(self) -> None:
        """Give the workers as much as they take, and what has nothing to do a part of what others have not begun."""
        until = time.monotonic() + _GIVE_S
        with self._pool.at_once(), self._outcomes.at_once():  # all are written down before any is sent
            served = self._first_in_line
            if served is not None and self._give(served):
                served = None
            serving = self._deal.serving(but=served)
            while self._first_in_line is None and (seat := serving.next()) is not None:
                if self._give(seat):
                    serving.again(seat)
                if self._pool.is_crowded and time.monotonic() > until:
                    break
        for seat in self._deal.to_level():
            seat.ask_back()

    def _give(self, seat: Seat) -> bool:
        """Give a seat its next picture, if it can have one now.

        They come in their order: while what goes into the next one is read, those behind it wait too, at all seats. A
        suspect that ends the machine leaves no other's writing open.
        """
        self._first_in_line = None
        group = self._deal.group_of(seat)
        if group is None or not seat.has_room or self._deal.is_called_away(seat):
            return False
        item = self._timely.first(group, seat, self._deal.is_worth(group, seat))
        if item is None or not seat.takes(item) or (item.suspect and self._writing):
            return False
        if not self._outcomes.is_ready(item, self._pool.wake):
            self._first_in_line = seat
            return False
        if not group.source.take(item):
            return True
        files = self._outcomes.inputs(item)
        flight = self._outcomes.attempted(item) if files is not None else None
        if flight is not None and files is not None:
            self._given[seat.number] = item
            self._prepare(seat, group, item)
            seat.give(flight, files)
        elif heir := self._outcomes.promote_twin(item):
            group.source.put_back(heir)
        return True

    # -- hearing what became of it --

    def _listen(self) -> None:
        """Wait for a word or a writing's end, and do what follows from it.

        While too much waits to be written, no worker is listened to, and none is given more.
        """
        heard = None
        if self._back_at is not None:
            self.longest_away_s = max(self.longest_away_s, time.monotonic() - self._back_at)
        if self._writing.is_full:
            self._writing.wait(TICK_S)
            self._pool.unheard()
        else:
            busy = self._writing or self._readings
            heard = self._pool.hear(0.0 if self._writing.has_ended_one else _LOOK_S if busy else TICK_S)
            if heard is None and not self._pool.has_flights:
                (self._writing or self._readings).wait(_LOOK_S)
        self._back_at = time.monotonic()
        if beats := self._heart.is_due():
            self._heart.beat(self._pool, self._phase())
        self._writing.tend()
        self._readings.tend()
        if heard is not None:
            self._take(*heard)
        if beats or not self._pool.is_crowded:
            self._end_stuck()

    def _listen_on(self, spent_s: float) -> None:
        """Hear more of many workers, before all of them are looked at again: that took so many seconds."""
        until = time.monotonic() + min(_LISTEN_ON * spent_s, TICK_S)
        while self._pool.is_crowded and time.monotonic() < until and not self._night.stop.requests:
            self._listen()

    def _end_stuck(self) -> None:
        for seat, silent_s in self._pool.stuck(self._settings.stuck_after_s):
            seat.kill()
            self._lost(seat, f"the worker said nothing for {silent_s:.0f} s and was ended")

    def _phase(self) -> Phase:
        if self._ends():
            return "stopping"
        return "paused" if self._night.pause.is_on else "rendering" if self._pool.is_open else "opening"

    def _take(self, seat: Seat, event: protocol.AnyEvent | Gone, payload: bytes) -> None:
        event = self._night.judged(event)
        match event:
            case protocol.Opening(what=what):
                self._night.watch(events.WorkerOpening(None, what, seat.label))
            case protocol.Opened():
                seat.has_opened(event)
                self._night.watch(events.WorkerOpened(event, seat.label))
            case protocol.OpenFailed(message=message, hint=hint):
                self._does_not_open(seat, MachineError(message, hint=hint))
            case protocol.Started(key=key):
                self._outcomes.began(seat.flights[key])
                self._night.speeds.began(seat, seat.flights[key])
            case protocol.Stepped(key=key, step=step, steps=steps):
                self._night.speeds.stepped(seat, seat.flights[key], step)
                self._outcomes.stepped(seat.flights[key], step, steps)
            case protocol.Previewed(key=key):
                shown = Pixels(event.width, event.height, payload)
                self._night.watch(events.PicturePreviewed(seat.flights[key].item, event.step, shown))
            case protocol.Rendered():
                self._keep(seat, event, payload)
            case protocol.Failed():
                self._failed(seat, event)
            case protocol.Withdrawn(keys=keys):
                self._given_back(seat, keys)
            case Gone() if event.vanished and not self._vanishing.is_their_doing(seat.flights):
                self._night.watch(events.Remark(f"{seat.label}: {event}; what it held goes on elsewhere"))
                self._given_back(seat, list(seat.flights))
                seat.lost(blameless=True)
            case Gone() if event.was_asked_to_stop and self._night.stop.comes():
                self._given_back(seat, list(seat.flights))  # it fell with the run: nothing that it held is to blame
                seat.lost(blameless=True)
            case Gone():
                self._lost(seat, str(event), event.hint)

    def _keep(self, seat: Seat, event: protocol.Rendered, payload: bytes) -> None:
        """A picture has come: it is to be written, unless it breaks what its job expects."""
        flight = seat.flights[event.key]
        assert seat.opened is not None
        if other := self._night.other_bits(event, self._group(seat).weights):
            self._does_not_open(seat, other)
            return
        result = Result(flight.item, flight.attempt, seat.opened, event, payload, seat.label)
        try:
            results.check(result)
        except PictureError as error:
            del seat.flights[event.key]
            failure = protocol.Failed(key=event.key, kind=type(error).__name__, message=error.message, hint=error.hint)
            self._outcomes.failed(flight.item, failure, again=False)
            return
        del seat.flights[event.key]
        seat.health.brought()
        self._night.speeds.learn(seat, flight.item, event)
        self._outcomes.came(result, self._pace.learn)

    def _failed(self, seat: Seat, event: protocol.Failed) -> None:
        """A picture failed; one that took its device along has another, however often it was tried."""
        flight, group = seat.flights.take(event.key), self._group(seat)
        again = self._outcomes.tries(flight.item) <= self._settings.retries
        if event.kind == DeviceLostError.__name__:
            seat.ends(event.message)
            group.crashed([flight], seat)
            again = self._deal.may_go_elsewhere(group, flight.item) or again
        self._outcomes.failed(flight.item, event, again=again)
        group.source.try_again([flight.item] * again)

    def _group(self, seat: Seat) -> Group:
        """What the worker on a seat is for."""
        group = self._deal.group_of(seat)
        assert group is not None
        return group

    def _given_back(self, seat: Seat, keys: Sequence[str]) -> None:
        """What a worker had not begun: nothing has happened to it, and it may wait, where it was."""
        with self._outcomes.at_once():
            for flight in reversed(seat.take_back(list(keys))):
                self._outcomes.dropped(flight.item)
                self._group(seat).source.put_back(flight.item)

    def _lost(self, seat: Seat, reason: str, hint: str = "") -> None:
        """A worker is gone. What it had begun is tried again alone, until it has brought down too many.

        Before anything was begun, the prompts of all were: then it may have been any of them.
        """
        if seat.is_ending or any(flight.since for flight in seat.flights.values()):
            self._given_back(seat, [key for key, flight in seat.flights.items() if flight.since is None])
        group, held = self._deal.group_of(seat), seat.take_back()
        if seat.opened is not None:  # one that does not open says nothing of the device: it may be the model
            seat.health.losses += group is None or not any(map(group.has_crashed, held))
        again = self._outcomes.crashed(held, reason, hint, seat.excerpt, seat.label)
        if group is not None:
            group.source.try_again(again)
            group.crashed(held, seat)
        try:
            seat.lost()
        except MachineError as error:
            self._does_not_open(seat, error)
        if seat.health.losses >= MOST_LOSSES and group is not None and len(self._deal.able(group)) > 1:
            why = f"{MOST_LOSSES} workers in a row were lost there ({seat.health.complaint or reason})"
            self._leave(seat, f"{why}, and nothing is tried on it for {duration(seat.health.leave_out())}")

    def _does_not_open(self, seat: Seat, error: MachineError) -> None:
        """A seat's group does not open there, or not any more: it goes on elsewhere, or ends if that was the last."""
        group = self._deal.group_of(seat)
        seat.dismiss(at_once=True)
        if group is None:  # it was opened for an earlier manifest
            return
        self._given_back(seat, list(seat.flights))
        group.barred.add(seat.number)
        if self._deal.able(group):
            self._leave(seat, f"{group.deployment.setup.weights} does not open there: {error.message}")
            return
        self._cannot_open(group, error)
        self._deal.leave(seat)

    def _leave(self, seat: Seat, why: str) -> None:
        """A device is left out: the others have what it was at."""
        self._deal.leave(seat)
        self._timely.forget()
        self._night.leaves(seat, why)

    # -- ending --

    def _drop(self) -> None:
        """Give up what is still in flight, and say so in the journal: it is not the pictures' fault."""
        if not self._pool.flights:
            return
        self._pool.dismiss(at_once=True)
        with contextlib.suppress(DiskError, LeaseLostError):
            for seat in self._pool.seats:
                for flight in seat.take_back():
                    self._outcomes.dropped(flight.item)
