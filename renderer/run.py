"""The night: plan ▶ workers ▶ events ▶ artifacts ▶ summary, with retries, a deadline, signals and a lock.

Unattended: one picture's failure does not stop the others, a dead or stuck worker is replaced, and whatever happens to
this process, what is on the disk is whole and the next run goes on from it. Imports no torch, prints nothing, and tells
whoever watches through `news`.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from renderer import artifacts, events, machine, metadata, news, plan, supplies
from renderer.artifacts import OutputFolder, Pixels
from renderer.bench import Bench
from renderer.errors import BadPictureError, DiskError, MachineError, PictureError
from renderer.events import Setup
from renderer.job import (
    Ending,
    Expect,
    Failure,
    FileFacts,
    Job,
    Memory,
    Profile,
    Sidecar,
    Summary,
)
from renderer.manifest import Manifest
from renderer.news import Watch
from renderer.plan import Pace, Plan, Planned
from renderer.report import page
from renderer.supplies import Terms
from renderer.weights.needs import Need
from renderer.workers import Gone, Hire, LocalWorker, Worker

_TICK_S = 0.25


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run behaves. Seconds; `deadline` is a moment with its time zone."""

    outputs: Path = Path("outputs")
    only: tuple[str, ...] = ()
    force: bool = False
    profile: Profile | None = None
    vram_bytes: int | None = None
    terms: Terms = field(default_factory=Terms)
    retries: int = 2
    max_failures: int = 10
    stuck_after_s: float = 900.0
    grace_s: float = 60.0
    deadline: datetime | None = None
    hire: Hire = LocalWorker


@dataclass(slots=True)
class Stop:
    """How often somebody has asked to stop: once to end well, twice to end now."""

    requests: int = 0

    def request(self) -> None:
        self.requests += 1


def render(manifests: Sequence[Manifest], settings: Settings, watch: Watch, stop: Stop) -> list[Summary]:
    """Render what is not done of each manifest, in order, and write each one's `summary.json`.

    Raises `LockedError` at once when another run holds one of the folders; `ModelError` and `MachineError` before
    anything is rendered when this machine cannot do it; `DiskError` when nothing more can be written.
    """
    with contextlib.ExitStack() as held:
        for manifest in manifests:
            folder = OutputFolder(settings.outputs / manifest.name)
            held.enter_context(folder.locked())
            folder.sweep()
        batches = [_plan(manifest, settings) for manifest in manifests]
        setups = _setups(batches, settings)
        _supply(setups.values(), settings, watch, stop)
        with Bench(settings.hire, watch) as bench:
            night = _Night(settings, setups, bench, watch, stop)
            return [_Batch(batch, night).render() for batch in batches]


def _plan(manifest: Manifest, settings: Settings) -> Plan:
    batch = plan.make_plan(manifest, settings.outputs, only=settings.only, force=settings.force, thorough=True)
    batch.journal.compact(item.fingerprint for item in batch.items if item.state != "done")
    return batch


def _setups(batches: Sequence[Plan], settings: Settings) -> dict[tuple[str, str], Setup]:
    """What each model and precision needs opened: found before anything is, so that what cannot run says so at once."""
    here = machine.look()
    setups: dict[tuple[str, str], Setup] = {}
    for item in (item for batch in batches for item in batch.to_render()):
        job = item.picture.job
        if (job.model, job.precision) not in setups:
            setup = plan.setup_for(job, here, settings.profile, settings.vram_bytes)
            setups[job.model, job.precision] = setup.model_copy(update={"offline": settings.terms.offline})
    return setups


def _supply(setups: Iterable[Setup], settings: Settings, watch: Watch, stop: Stop) -> None:
    """Fetch the models that are missing. Asked to stop, or out of time, it leaves; so will every batch at once."""

    def stopped() -> bool:
        watch(news.Tick())
        return stop.requests > 0 or (settings.deadline is not None and datetime.now(UTC) > settings.deadline)

    def tell(need: Need, what: supplies.News | None) -> None:
        watch(news.Supplying(need, what))

    supplies.obtain(supplies.needs_of(setups, settings.terms), settings.terms, tell, stopped)


# ---- one batch -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Night:
    """What all batches of one run share. `setups` is by model and precision."""

    settings: Settings
    setups: dict[tuple[str, str], Setup]
    bench: Bench
    watch: Watch
    stop: Stop


@dataclass(slots=True)
class _Flight:
    """A picture that a worker has been given, and has not answered."""

    item: Planned
    attempt: int
    began: float


@dataclass(slots=True)
class _Tally:
    """What has happened in this run so far."""

    rendered: list[Sidecar] = field(default_factory=list)
    rewritten: int = 0
    failures: dict[str, Failure] = field(default_factory=dict)
    in_a_row: int = 0
    tries: dict[str, int] = field(default_factory=dict)


class _Batch:
    """One manifest's pictures on their way through the workers."""

    def __init__(self, batch: Plan, night: _Night) -> None:
        self._plan = batch
        self._setups = night.setups
        self._settings = night.settings
        self._bench = night.bench
        self._watch = night.watch
        self._stop = night.stop
        self._tally = _Tally()
        self._pace = Pace(item.sidecar for item in batch.items if item.sidecar)
        self._waiting: deque[Planned] = deque()
        self._again: deque[Planned] = deque()
        self._flying: dict[str, _Flight] = {}
        self._heard_at = time.monotonic()
        self._grace_ends: float | None = None

    def render(self) -> Summary:
        """Render all there is to do, or as much as time allows."""
        began_at, began = datetime.now(UTC), time.monotonic()
        todo = [item for item in self._plan.to_render() if not self._rewrite(item)]
        self._watch(news.BatchBegan(self._plan, len(todo)))
        for item in self._plan.items:
            if item.state == "set aside":
                self._tally.failures[item.picture.id] = Failure(id=item.picture.id, message=item.note, set_aside=True)
        ending: Ending = "complete"
        try:
            for setup, items in self._groups(todo):
                ending = self._render_group(setup, items)
                if ending != "complete":
                    break
        finally:
            self._drop_flying()
        summary = self._summary(ending, began_at, time.monotonic() - began)
        artifacts.write_whole(
            self._plan.folder.path / "summary.json", summary.model_dump_json(indent=2).encode() + b"\n"
        )
        page.write(plan.make_plan(self._plan.manifest, self._settings.outputs))
        self._watch(news.BatchEnded(summary))
        return summary

    def _rewrite(self, item: Planned) -> bool:
        """Whether a picture that is only to be kept another way could be written anew from the file that is there."""
        folder, output, keep = self._plan.folder, item.picture.output, item.picture.keep
        before = None if self._settings.force else artifacts.finished(folder, output, item.fingerprint, thorough=True)
        if before is None or before.keep.format == "jpeg":
            return False
        origin = metadata.Origin(
            fingerprint=item.fingerprint, job=before.job, model=before.model, software=before.software
        )
        artifacts.rewrite(folder, output, before, keep, metadata.write_labels(origin, keep))
        self._tally.rewritten += 1
        return True

    def _groups(self, todo: list[Planned]) -> Iterator[tuple[Setup, list[Planned]]]:
        """The pictures by what has to be opened for them, so that nothing is opened twice."""
        groups: dict[Setup, list[Planned]] = {}
        for item in todo:
            groups.setdefault(self._setups[item.picture.job.model, item.picture.job.precision], []).append(item)
        yield from groups.items()

    def _render_group(self, setup: Setup, items: list[Planned]) -> Ending:
        self._waiting = deque(items)
        while self._waiting or self._again or self._flying:
            if self._must_drop():
                return "signal"
            if not self._waiting and not self._flying:
                self._waiting, self._again = self._again, deque()
            if not self._flying and (ending := self._reason_to_end(setup)):
                return ending
            worker = self._bench.worker(setup, self._plan.folder.path / "worker.log")
            self._admit(setup, worker)
            self._listen(worker)
        return "complete"

    # -- giving out work --

    def _reason_to_end(self, setup: Setup) -> Ending | None:
        """Why nothing more is to begin, if so; asked when nothing is in flight."""
        if self._stop.requests:
            return "signal"
        if self._tally.in_a_row >= self._settings.max_failures:
            return "failures"
        if self._next(setup) is None:
            return "deadline"
        return None

    def _next(self, setup: Setup) -> Planned | None:
        """The first waiting picture that would be done before the deadline."""
        if self._settings.deadline is None:
            return self._waiting[0] if self._waiting else None
        left_s = (self._settings.deadline - datetime.now(UTC)).total_seconds()
        for item in self._waiting:
            expected_s = self._pace.expect_s(item, setup.profile)
            if expected_s is None and self._flying:
                continue  # nothing like it was measured: one tells how long the others will take
            if left_s > (expected_s or 0.0) * (len(self._flying) + 1):  # it may have to wait for those before it
                return item
        return None

    def _admit(self, setup: Setup, worker: Worker) -> None:
        """Give the open worker as much as it takes, unless the run is to end. A suspect rides alone."""
        opened = self._bench.opened
        while opened and self._waiting and len(self._flying) < opened.capacity:
            if self._stop.requests or self._tally.in_a_row >= self._settings.max_failures:
                return
            item = self._next(setup)
            if item is None or any(flight.item.suspect or item.suspect for flight in self._flying.values()):
                return
            self._waiting.remove(item)
            self._begin(item, worker)

    def _begin(self, item: Planned, worker: Worker) -> None:
        self._plan.journal.write("attempt", item.picture.id, item.fingerprint)
        attempt = self._plan.journal.record(item.fingerprint).attempts
        self._tally.tries[item.picture.id] = self._tally.tries.get(item.picture.id, 0) + 1
        self._flying[item.picture.id] = _Flight(item, attempt, time.monotonic())
        self._heard_at = time.monotonic()
        worker.send(events.Render(key=item.picture.id, job=item.picture.job))

    # -- hearing what became of it --

    def _listen(self, worker: Worker) -> None:
        heard = worker.hear(_TICK_S)
        self._watch(news.Tick())
        if heard is None:
            silent_s = time.monotonic() - self._heard_at
            if silent_s > self._settings.stuck_after_s:
                worker.kill()
                self._lost(f"the worker said nothing for {silent_s:.0f} s and was ended")
            return
        self._heard_at = time.monotonic()
        self._take(*heard)

    def _take(self, event: events.AnyEvent | Gone, payload: bytes) -> None:
        match event:
            case events.Opening(what=what):
                self._watch(news.WorkerOpening(None, what))
            case events.Opened():
                self._bench.has_opened(event)
                self._watch(news.WorkerOpened(event))
            case events.OpenFailed(message=message, hint=hint):
                raise MachineError(message, hint=hint)
            case events.Started(key=key):
                self._watch(news.PictureBegan(self._flying[key].item, self._flying[key].attempt))
            case events.Stepped(key=key, step=step, steps=steps):
                self._watch(news.Stepped(self._flying[key].item, step, steps))
            case events.Rendered(key=key):
                self._keep(self._flying[key], event, payload)
            case events.Failed(key=key, message=message, hint=hint):
                self._failed(self._flying.pop(key).item, f"{message}", hint)
            case Gone():
                self._lost(str(event))

    def _keep(self, flight: _Flight, event: events.Rendered, payload: bytes) -> None:
        """A picture has come: write it down, unless it breaks what its job expects."""
        item = flight.item
        try:
            _check_expectations(item.picture.expect, event)
            if len(payload) != event.width * event.height * 3:
                raise BadPictureError(f"{len(payload)} bytes came for {event.width}x{event.height} pixels")
        except PictureError as error:
            del self._flying[item.picture.id]
            self._failed(item, error.message, error.hint, again=False)
            return

        def describe(file: FileFacts, save_s: float) -> Sidecar:
            return self._sidecar(flight, event, file, save_s)

        opened, keep = self._bench.opened, item.picture.keep
        assert opened is not None
        origin = metadata.Origin(
            fingerprint=item.fingerprint, job=_told(item), model=item.model, software=opened.software
        )
        sidecar = artifacts.save(
            self._plan.folder,
            item.picture.output,
            Pixels(event.width, event.height, payload),
            describe,
            file_format=keep.format,
            labels=metadata.write_labels(origin, keep),
        )
        del self._flying[item.picture.id]
        self._plan.journal.write("done", item.picture.id, item.fingerprint)
        self._tally.in_a_row = 0
        self._tally.rendered.append(sidecar)
        self._tally.failures.pop(item.picture.id, None)
        self._pace.learn(sidecar)
        self._watch(news.PictureDone(item, sidecar))

    def _sidecar(self, flight: _Flight, event: events.Rendered, file: FileFacts, save_s: float) -> Sidecar:
        opened, picture = self._bench.opened, flight.item.picture
        assert opened is not None
        known = (event.timing.encode_s, event.timing.denoise_s, event.timing.decode_s, save_s)
        timing = event.timing.model_copy(
            update={
                "load_s": opened.load_s,
                "save_s": save_s,
                "total_s": sum(seconds or 0.0 for seconds in known),
            }
        )
        return Sidecar(
            fingerprint=flight.item.fingerprint,
            id=picture.id,
            place=picture.place,
            job=_told(flight.item),
            model=flight.item.model,
            engine=opened.engine,
            software=opened.software,
            gpu=opened.gpu,
            timing=timing,
            memory=event.memory,
            sharing=event.sharing,
            keep=picture.keep,
            file=file,
            attempt=flight.attempt,
            warnings=event.warnings,
        )

    def _failed(self, item: Planned, message: str, hint: str, *, again: bool = True) -> None:
        self._plan.journal.write("failed", item.picture.id, item.fingerprint, message)
        self._tally.in_a_row += 1
        self._tally.failures[item.picture.id] = Failure(id=item.picture.id, message=message, hint=hint)
        again = again and self._tally.tries[item.picture.id] <= self._settings.retries
        if again:
            self._again.append(item)
        self._watch(news.PictureFailed(item, message, hint, again=again))

    def _lost(self, reason: str) -> None:
        """The worker is gone. What it held is tried again alone, until it has brought down too many."""
        flying, self._flying = list(self._flying.values()), {}
        for flight in flying:
            self._plan.journal.write("crashed", flight.item.picture.id, flight.item.fingerprint, reason)
        self._watch(news.WorkerLost(reason, tuple(flight.item for flight in flying)))
        self._heard_at = time.monotonic()
        for flight in flying:
            set_aside = self._plan.journal.record(flight.item.fingerprint).set_aside
            picture_id = flight.item.picture.id
            self._tally.in_a_row += 1
            self._tally.failures[picture_id] = Failure(id=picture_id, message=reason, set_aside=set_aside)
            if not set_aside:
                self._again.append(_suspected(flight.item))
            self._watch(news.PictureFailed(flight.item, reason, "", again=not set_aside))
        self._bench.lost()

    # -- ending --

    def _must_drop(self) -> bool:
        """Whether what is in flight has to be given up: asked twice to stop, or asked once and the grace is over."""
        if self._stop.requests == 0:
            return False
        now = time.monotonic()
        if self._grace_ends is None:
            self._grace_ends = now + self._settings.grace_s
            self._watch(news.Stopping(len(self._flying), self._settings.grace_s))
        return self._stop.requests > 1 or now > self._grace_ends

    def _drop_flying(self) -> None:
        """Give up what is still in flight, and say so in the journal: it is not the pictures' fault."""
        if not self._flying:
            return
        self._bench.dismiss(at_once=True)
        with contextlib.suppress(DiskError):
            for flight in self._flying.values():
                self._plan.journal.write("dropped", flight.item.picture.id, flight.item.fingerprint)
        self._flying.clear()

    def _summary(self, ending: Ending, began_at: datetime, elapsed_s: float) -> Summary:
        tally = self._tally
        rendering_s = sum(sidecar.timing.total_s or 0.0 for sidecar in tally.rendered)
        skipped = self._plan.count("done") + tally.rewritten
        return Summary(
            name=self._plan.manifest.name,
            manifest=self._plan.manifest.file,
            ending=ending,
            began_at=began_at,
            ended_at=datetime.now(UTC),
            pictures=len(self._plan.items),
            rendered=len(tally.rendered),
            skipped=skipped,
            failed=len(tally.failures),
            left=len(self._plan.items) - len(tally.rendered) - skipped - len(tally.failures),
            elapsed_s=elapsed_s,
            rendering_s=rendering_s,
            pictures_per_hour=len(tally.rendered) * 3600 / elapsed_s if tally.rendered else None,
            memory=_peaks(tally.rendered),
            failures=tuple(tally.failures.values()),
        )


def _told(item: Planned) -> Job:
    """A picture's job as it may be told: never with a folder's path."""
    return item.picture.job.model_copy(update={"model": item.model.id})


def _suspected(item: Planned) -> Planned:
    return Planned(item.picture, item.model, item.fingerprint, item.state, item.note, suspect=True)


def _check_expectations(expect: Expect | None, event: events.Rendered) -> None:
    """Raise `PictureError` when a picture took more than its job allows, or when what it limits was not measured."""
    if expect is None:
        return
    timing, memory = event.timing, event.memory
    seconds = sum(part or 0.0 for part in (timing.encode_s, timing.denoise_s, timing.decode_s))
    limits = (
        ("seconds", expect.seconds, seconds),
        ("bytes of GPU memory", expect.vram_bytes, memory.peak_reserved_bytes),
        ("bytes of host memory", expect.ram_bytes, memory.peak_rss_bytes),
    )
    over = [
        f"{found:,.0f} {what} where {limit:,.0f} were expected at most"
        for what, limit, found in limits
        if limit is not None and found is not None and found > limit
    ]
    if over:
        raise PictureError("; ".join(over), hint="the limits stand under expect: in the manifest")


def _peaks(sidecars: Sequence[Sidecar]) -> Memory:
    """The largest of each figure over all pictures; None where none has it."""
    peaks = {
        name: max(found)
        for name in Memory.model_fields
        if (found := [value for sidecar in sidecars if (value := getattr(sidecar.memory, name)) is not None])
    }
    return Memory(**peaks)
