"""Who asked for what, and what became of it: accepts pictures, lets those know who wait, and knows what is done.

A picture is accepted when its line is on the disk, and that it will not come is told when that is. One that is there is
not rendered again; one that is under way is shared by all who ask for it. Lives on the event loop's thread; what is
rendered is told from another (`heard`).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from renderer.errors import DiskError, ModelError
from renderer.job import Sidecar
from renderer.outputs import done
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import MAX_CRASHES, Journal
from renderer.outputs.picture_files import read_sidecar
from renderer.planning import takes
from renderer.planning.plan import Planned
from renderer.service import queue_file
from renderer.service.intake import Intake, Requested
from renderer.service.queue_file import Ended, HowEnded, Joined, Left, QueueFile, WhatIsKnown
from renderer.service.queue_writer import QueueWriter
from renderer.service.request_queue import QueuedItem, RequestQueue
from renderer.service.standing import BusyError, Fate, Standing, StoppingError, Whose
from renderer.supervisor import events
from renderer.supervisor.settings import StopRequests

_RATE_OF = 64
"""Pictures by which it is reckoned how long others will wait."""


@dataclass(slots=True)
class Counts:
    """What has happened since the server began: pictures, steps, seconds of rendering and of waiting."""

    accepted: int = 0
    found: int = 0
    refused: int = 0
    rendered: int = 0
    failed: int = 0
    cancelled: int = 0
    steps: int = 0
    rendering_s: float = 0.0
    waiting_s: float = 0.0
    peak_bytes: int = 0


class Desk:
    """Accepts and knows. `wake` lets the rendering side look; so many may wait at most that somebody waits for.

    Nothing is accepted once `stop` says that the server is to stop: what has begun is all that is finished.
    """

    def __init__(
        self,
        folder: OutputFolder,
        journal: Journal,
        queue: RequestQueue,
        intake: Intake,
        *,
        most_waiting: int,
        wake: Callable[[], None],
        stop: StopRequests,
    ) -> None:
        self._folder = folder
        self._journal = journal
        self._queue = queue
        self._intake = intake
        self._most_waiting = most_waiting
        self._wake = wake
        self._file = QueueFile(folder.queue)
        self._standing: dict[str, Standing] = {}
        self._lost: OrderedDict[str, Ended] = OrderedDict()
        self._writer = QueueWriter(self._file, self._known)
        self._came_at: deque[float] = deque(maxlen=_RATE_OF)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.counts = Counts()
        self._stop = stop
        self._stopped = False

    # -- beginning and ending --

    def restore(self) -> int:
        """Take up what was accepted before and is not there yet; how many. Before anybody asks. Raises `DiskError`."""
        known = self._file.read()
        self._lost.update(known.ended)
        for asked in known.asked:
            try:
                item = self._intake.again(asked.picture)
            except ModelError as error:
                self._remember(Ended(key=asked.picture.id, how="failed", message=error.message, hint=error.hint))
                continue
            if self.find(item) is not None:
                continue
            whose = Whose(asked.client, asked.batch)
            standing = Standing(self._suspected(item), whose, number=asked.number, at=asked.at)
            standing.wanted_by.update(Whose(each.client, each.batch) for each in asked.wanting)
            self._standing[standing.key] = standing
        self._file.keep(self._known())
        self._queue.add(map(_waiting, self._standing.values()))
        return len(self._standing)

    def _known(self) -> WhatIsKnown:
        """All that the file has to say: what is on its way to the disk is not there yet."""
        asked = [each.asked() for each in self._standing.values() if each.written is None]
        return WhatIsKnown(asked, dict(self._lost))

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Live on this loop from now on."""
        self._loop = loop

    def stop(self) -> None:
        """Nothing is rendered any more; those who wait are told so, and what they wait for will come another time."""
        self._stopped = True
        for standing in self._standing.values():
            standing.over.set()
            standing.moved()

    async def end(self) -> None:
        """Stop, and wait until what was decided before is on the disk. Raises `DiskError`."""
        self.stop()
        await self.kept()

    @property
    def stopping(self) -> bool:
        """Whether nothing more is accepted: somebody has asked the server to stop."""
        return self._stopped or self._stop.requests > 0

    # -- what there is --

    def find(self, item: Planned) -> Sidecar | None:
        """The sidecar of a picture that is there, whole, and of which no other take will come."""
        found = done.find(self._folder, item.picture.output)
        if found is None or not takes.is_through(item.picture, item.identity, found):
            return None
        if not found.is_whole(self._folder, thorough=False):
            return None
        return read_sidecar(self._folder.sidecar(item.picture.output))

    def look(self, key: str) -> Standing | Ended | Sidecar | None:
        """How a picture stands that was asked for, how it ended, or its sidecar; None for one that nobody knows."""
        if (known := self._standing.get(key) or self._lost.get(key)) is not None:
            return known
        sidecar = read_sidecar(self._folder.sidecar(key))
        if sidecar is None or sidecar.id != key:
            return None
        told = sidecar.lettering
        if told is None or not (message := takes.complaint(told.expected, told)):
            return sidecar
        steps = sidecar.job.num_inference_steps
        return Ended(key=key, how="failed", message=message, hint=takes.KEPT_HINT, step=steps, steps=steps)

    @property
    def standing(self) -> Sequence[Standing]:
        """All that were accepted and are not decided."""
        return list(self._standing.values())

    # -- asking --

    async def accept(self, wanted: Sequence[Requested], whose: Whose) -> list[Standing | Sidecar]:
        """Have these rendered that are not there. On return all of them are on the disk as accepted.

        Each is the sidecar of one that is there, or how it stands. Raises `BusyError`, `StoppingError`, and `DiskError`
        where the disk takes no more.
        """
        if self.stopping:
            raise _stopping()
        found: list[Standing | Sidecar | None] = [
            self._standing.get(each.key) or self._there(each.item) or self._barred(each.item) for each in wanted
        ]
        fresh = {each.key: each for each, known in zip(wanted, found, strict=True) if known is None}
        self._check_room(len(fresh), whose)
        entered = self._enter(list(fresh.values()), whose)
        known = [each or entered[one.key] for each, one in zip(found, wanted, strict=True)]
        unwritten = {each.written for each in known if isinstance(each, Standing) and each.written is not None}
        joined = [each for each in known if isinstance(each, Standing) and self._join(each, whose)]
        unwritten |= {self._write_joined(joined, whose)} if joined else set()
        for written in unwritten:
            await asyncio.shield(written)
        self.counts.found += sum(isinstance(each, Sidecar) for each in known)
        return known

    def cancel(self, key: str, whose: Whose) -> bool:
        """One who asked wants it no more. True where nobody else does and it had not begun: it will not be rendered.

        Whoever is told waits for `kept` first. Raises `StoppingError` where nothing is written down any more.
        """
        if self._stopped:
            raise _stopping()
        standing = self._standing.get(key)
        if standing is None:
            return False
        if standing.wanted_by - {whose}:
            if whose in standing.wanted_by:
                standing.wanted_by.discard(whose)
                self._writer.write([Left(number=standing.number, who=whose.wanting)])
            return False
        standing.wanted_by.discard(whose)
        if not self._queue.cancel(key):
            return False
        self._end(standing, "cancelled", "it was cancelled before its turn came")
        self.counts.cancelled += 1
        return True

    async def kept(self) -> None:
        """Until what was decided so far is on the disk. Raises `DiskError`."""
        await asyncio.shield(self._writer.write(()))

    def retry_s(self) -> float:
        """In how many seconds a quarter of what waits will be through, by how fast pictures came lately."""
        if len(self._came_at) < 2:  # noqa: PLR2004
            return 5.0
        each_s = (self._came_at[-1] - self._came_at[0]) / (len(self._came_at) - 1)
        return min(600.0, max(1.0, each_s * len(self._queue) / 4))

    def _check_room(self, count: int, whose: Whose) -> None:
        unwritten = sum(each.written is not None and not each.patient for each in self._standing.values())
        waiting = self._queue.count(patient=False) + unwritten
        if count and not whose.batch and waiting + count > self._most_waiting:
            self.counts.refused += count
            raise BusyError(f"{waiting} pictures wait already, and {self._most_waiting} may", self.retry_s())

    def _barred(self, item: Planned) -> Standing | None:
        """A picture that brought down too many workers: it has failed before it is asked for."""
        record = self._journal.record(item.fingerprint)
        if not record.set_aside:
            return None
        return _failed(item, f"brought down {MAX_CRASHES} workers: {record.failure}", "another seed or size may do")

    def _there(self, item: Planned) -> Sidecar | Standing | None:
        """A picture that is there; one whose lettering is less than its job expects has failed, and stays so."""
        sidecar = self.find(item)
        told = sidecar.lettering if sidecar else None
        message = takes.complaint(takes.expected_of(item.picture), told) if told else ""
        return _failed(item, message, takes.KEPT_HINT) if message else sidecar

    def _enter(self, fresh: Sequence[Requested], whose: Whose) -> dict[str, Standing]:
        """Begin to write down that these are accepted."""
        if not fresh:
            return {}
        entered: dict[str, Standing] = {}
        for each in fresh:
            self._file.last += 1
            number, picture = self._file.last, each.item.picture
            place = picture.place.model_copy(update={"line": number, "manifest": self._folder.queue.name})
            item = replace(each.item, picture=picture.model_copy(update={"place": place}))
            standing = Standing(self._suspected(item), whose, number=number)
            standing.wanted_by.add(whose)
            entered[each.key] = self._standing[each.key] = standing
        lines = [standing.asked() for standing in entered.values()]
        written = self._writer.write(lines, partial(self._were_written, list(entered.values())))
        for standing in entered.values():
            standing.written = written
        return entered

    def _join(self, standing: Standing, whose: Whose) -> bool:
        """One more wants it; False where that is known, or nothing will come of it any more."""
        if whose in standing.wanted_by or standing.over.is_set():
            return False
        was_patient = standing.patient
        standing.wanted_by.add(whose)
        if was_patient and not standing.patient:
            self._queue.hurry(standing.key)
        return True

    def _write_joined(self, joined: Sequence[Standing], whose: Whose) -> asyncio.Future[None]:
        """Begin to write down that one more wants these: else, after a restart, they went with whoever came first."""

        def then(error: DiskError | None) -> None:
            for standing in joined if error is not None else ():
                standing.wanted_by.discard(whose)

        return self._writer.write([Joined(number=each.number, who=whose.wanting) for each in joined], then)

    def _suspected(self, item: Planned) -> Planned:
        """The picture, and whether it may have brought something down: then it rides alone."""
        record = self._journal.record(item.fingerprint)
        return replace(item, suspect=record.crashes > 0 or record.left_open)

    def _were_written(self, standing: Sequence[Standing], error: DiskError | None) -> None:
        """They are accepted, or are not."""
        for each in standing:
            each.written = None
            (self._lost if error is None else self._standing).pop(each.key, None)
        if error is None:
            self._queue.add(map(_waiting, standing))
            self.counts.accepted += len(standing)
            self._wake()

    # -- what becomes of it --

    def heard(self, what: events.Event) -> None:
        """Something has happened. For the rendering thread."""
        if self._loop is not None and isinstance(what, _OF_PICTURES) and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, what)

    def _take(self, what: events.Event) -> None:
        match what:
            case events.PictureBegan(item=item):
                self._moves(item, "rendering")
            case events.PictureStepped(item=item, step=step):
                self.counts.steps += 1
                self._moves(item, "rendering", step)
            case events.PicturePreviewed(item=item, pixels=pixels):
                if (standing := self._standing.get(item.picture.id)) is not None:
                    standing.preview = pixels
                    standing.moved()
            case events.PictureDone(item=item, sidecar=sidecar):
                self._came(item, sidecar)
            case events.PictureFailed(item=item, message=message, hint=hint, again=again, refused=refused):
                standing = self._standing.get(item.picture.id)
                if standing is None or self._stopped:  # what the end of a server costs is still wanted
                    return
                if again:
                    standing.state, standing.step = "waiting", 0
                    return
                self.counts.failed += 1
                standing.refused = refused
                self._end(standing, "failed", message, hint)

    def _moves(self, item: Planned, state: Fate, step: int = 0) -> None:
        if (standing := self._standing.get(item.picture.id)) is not None:
            if standing.state == "waiting":
                self.counts.waiting_s += time.monotonic() - standing.asked_s
            standing.state, standing.step = state, step
            standing.moved()

    def _came(self, item: Planned, sidecar: Sidecar) -> None:
        self._came_at.append(time.monotonic())
        self.counts.rendered += 1
        self.counts.rendering_s += sidecar.timing.total_s or 0.0
        peak = sidecar.memory.peak_reserved_bytes or sidecar.memory.peak_rss_bytes or 0
        self.counts.peak_bytes = max(self.counts.peak_bytes, peak)
        if (standing := self._standing.pop(item.picture.id, None)) is not None:
            standing.state = "done"
            standing.over.set()
            standing.moved()

    def _end(self, standing: Standing, how: HowEnded, message: str, hint: str = "") -> None:
        """It will not come: that is remembered, written down, and then told."""
        standing.state, standing.message, standing.hint, standing.preview = how, message, hint, None
        self._standing.pop(standing.key, None)
        ended = standing.ended(how)
        self._remember(ended)

        def then(_error: DiskError | None) -> None:  # what the disk does not take is told all the same
            standing.over.set()
            standing.moved()

        self._writer.write([ended], then)

    def _remember(self, ended: Ended) -> None:
        self._lost[ended.key] = ended
        if len(self._lost) > queue_file.REMEMBERED:
            self._lost.popitem(last=False)


_OF_PICTURES = (
    events.PictureBegan, events.PictureStepped, events.PicturePreviewed, events.PictureDone, events.PictureFailed,
)  # fmt: skip


def _stopping() -> StoppingError:
    return StoppingError("the server is stopping", hint="ask again when it runs")


def _failed(item: Planned, message: str, hint: str) -> Standing:
    """How a picture stands of which it is known that it will not come."""
    standing = Standing(item, Whose(""), "failed", message=message, hint=hint)
    standing.over.set()
    return standing


def _waiting(standing: Standing) -> QueuedItem:
    return QueuedItem(standing.item, standing.whose.client, standing.patient)
