"""What a person, a log or a machine reads while a batch runs: bars on a terminal, plain lines, or JSON.

Each is a watcher of `news`; none of them knows how rendering works. The words go to standard error, so that standard
output stays free for what a command is asked for.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import Literal, NoReturn, Protocol

from tqdm import tqdm

from renderer import news, supplies
from renderer.errors import RendererError
from renderer.job import Sidecar, Summary
from renderer.weights.needs import Bill, Need, Progress, Supplied, gb

LogFormat = Literal["auto", "plain", "json"]

_HEARTBEAT_S = 60.0
GIB = 2**30


class Console(Protocol):
    """Watches a run. `close` puts the terminal back in order, however the run ended."""

    def watch(self, what: news.News) -> None: ...

    def close(self) -> None: ...


def open_console(log_format: LogFormat) -> Console:
    """The console for where standard error goes."""
    if log_format == "json":
        return Json()
    if log_format == "auto" and os.environ.get("GITHUB_ACTIONS") == "true":
        return Actions()
    return Terminal() if log_format == "auto" and sys.stderr.isatty() else Plain()


def print_error(error: RendererError) -> None:
    """An error and what helps, for people."""
    print(f"error: {error.message}" if str(error) else "error", file=sys.stderr)
    if error.hint:
        print(f"  try: {error.hint}", file=sys.stderr)


# ---- words -----------------------------------------------------------------------------------------------------------


def describe_done(sidecar: Sidecar) -> str:
    """One line on a finished picture."""
    job, memory = sidecar.job, sidecar.memory
    peak = memory.peak_reserved_bytes
    where = f"{gib(peak)} GPU" if peak is not None else f"{gib(memory.peak_rss_bytes)} RAM"
    took = f"{sidecar.timing.total_s or 0.0:.1f} s"
    size = f"{job.width}x{job.height}"
    return f"{sidecar.id}  {size}, {job.num_inference_steps} steps, seed {job.seed}: {took}, {where}"


def describe_summary(summary: Summary) -> list[str]:
    """A run in a few lines."""
    first = (
        f"{summary.name}: {summary.rendered} rendered, {summary.skipped} already done, {summary.failed} failed, "
        f"{summary.left} left of {summary.pictures}, in {duration(summary.elapsed_s)}"
    )
    if summary.pictures_per_hour:
        first += f" ({summary.pictures_per_hour:.0f} pictures an hour)"
    lines = [first]
    for failure in summary.failures:
        kind = "set aside" if failure.set_aside else "failed"
        lines.append(f"  {kind}: {failure.id}: {failure.message}" + (f" ({failure.hint})" if failure.hint else ""))
    reasons = {
        "deadline": "  stopped: the time is up; the same command goes on from here",
        "signal": "  stopped on request; the same command goes on from here",
        "failures": "  stopped: too many failures in a row (--max-failures)",
    }
    if summary.ending in reasons:
        lines.append(reasons[summary.ending])
    return lines


def describe_supply(need: Need, answer: supplies.News | None) -> str | None:
    """What fetching or packing a model costs, or that it is done; None for its progress."""
    match answer:
        case None:
            what = f"not packed in {need.store}" if need.store else "not all here"
            return f"{need.model} is {what}: asking what it takes"
        case Bill(download_bytes=download, store_bytes=store):
            parts = [f"{gb(download)} to download from {answer.source}"] if download else []
            parts += [f"{gb(store)} to pack"] if store else []
            took = f"about {duration(answer.seconds)}" if answer.seconds is not None else "no time measured yet"
            room = f"  into {answer.folder}, {gb(answer.free_bytes)} free; {took}"
            return f"{answer.model}: {', '.join(parts) or 'nothing to fetch'}\n{room}"
        case Supplied(note=note):
            return note or f"{need.model} is here"
    return None


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 20 s, 7 h 05 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def gib(count: int | None) -> str:
    """Bytes in GiB, or that they are not known."""
    return "?" if count is None else f"{count / GIB:.1f} GiB"


def sentence(what: news.News) -> str | None:
    """What happened, in a line; None for what a bar shows better, or nobody needs to read."""
    match what:
        case news.BatchBegan(plan=plan, to_render=count):
            return f"{plan.manifest.name}: {count} to render, {plan.count('done')} done, into {plan.folder.path}"
        case news.Supplying(need=need, what=answer):
            return describe_supply(need, answer)
        case news.WorkerOpened(opened=opened):
            where = f"{opened.gpu.name}, {gib(opened.gpu.total_bytes)}" if opened.gpu else "the CPU"
            engine = f"engine {opened.engine.name}, profile {opened.engine.profile}"
            return f"model open after {duration(opened.load_s)}: {engine}, {where}"
        case news.PictureDone(sidecar=sidecar):
            return "\n".join([describe_done(sidecar), *(f"  warning: {warning}" for warning in sidecar.warnings)])
        case news.PictureFailed():
            hint = f" ({what.hint})" if what.hint else ""
            return f"FAILED {what.item.picture.id}: {what.message}{hint}{'; trying again later' if what.again else ''}"
        case news.WorkerLost(reason=reason):
            return f"{reason}; starting another"
        case news.Stopping(in_flight=0):
            return "stopping"
        case news.Stopping(in_flight=count, grace_s=grace_s):
            return f"stopping: {count} in flight may finish within {grace_s:.0f} s; ask again to stop at once"
    return None


def _opening(what: news.WorkerOpening) -> str:
    setup = what.setup
    return f"opening {setup.model} in {setup.precision}, profile {setup.profile}" if setup else f"loading {what.what}"


# ---- the three consoles ----------------------------------------------------------------------------------------------


class Plain:
    """One line a picture and a heartbeat: for cron mails, CI logs and files."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._current = "opening the model"
        self._spoke_at = time.monotonic()

    def watch(self, what: news.News) -> None:
        match what:
            case news.BatchBegan(to_render=count):
                self._done, self._total = 0, count
            case news.WorkerOpening(setup=setup) if setup is not None:
                self._say(_opening(what))
            case news.Supplying(what=Progress() as progress):
                self._current = f"{progress.what} {gb(progress.done_bytes)} of {gb(progress.total_bytes)}"
            case news.PictureBegan(item=item):
                self._current = item.picture.id
            case news.Stepped(item=item, step=step, steps=steps):
                self._current = f"{item.picture.id}, step {step} of {steps}"
            case news.PictureDone():
                self._done += 1
            case news.Tick() if time.monotonic() - self._spoke_at > _HEARTBEAT_S:
                self._say(f"[{self._done}/{self._total}] at {self._current}")
            case news.BatchEnded(summary=summary):
                for part in describe_summary(summary):
                    self._say(part)
        if line := sentence(what):
            self._say(f"[{self._done}/{self._total}] {line}" if isinstance(what, news.PictureDone) else line)

    def close(self) -> None:
        """Nothing to put back."""

    def _say(self, line: str) -> None:
        self._spoke_at = time.monotonic()
        print(f"{datetime.now(UTC).astimezone():%H:%M:%S} {line}", file=sys.stderr, flush=True)


class Actions(Plain):
    """Plain lines for GitHub Actions: a group a batch, and each failure as an annotation at its manifest's line."""

    def watch(self, what: news.News) -> None:
        match what:
            case news.BatchBegan(plan=plan):
                self._command("group", plan.manifest.name)
            case news.BatchEnded():
                self._command("endgroup")
            case news.PictureFailed(item=item, message=message, again=again):
                place = item.picture.place
                told = {"file": place.manifest, "line": str(place.line), "title": item.picture.id}
                self._command("warning" if again else "error", message, **told)
        super().watch(what)

    def _say(self, line: str) -> None:
        super()._say(line.replace("\n::", "\n ::"))  # a line of ours is never taken for a command

    def _command(self, name: str, message: str = "", **properties: str) -> None:
        told = ",".join(f"{key}={_escape(value, ':,')}" for key, value in properties.items())
        print(f"::{name}{' ' if told else ''}{told}::{_escape(message)}", file=sys.stderr, flush=True)


def _escape(text: str, more: str = "") -> str:
    """A text within one of GitHub's workflow commands."""
    return "".join(f"%{ord(letter):02X}" if letter in f"%\r\n{more}" else letter for letter in text)


class Terminal:
    """Two bars: the batch, and the picture at hand; everything else scrolls by above them."""

    def __init__(self) -> None:
        self._batch: tqdm[NoReturn] | None = None
        self._steps: tqdm[NoReturn] | None = None
        self._supply = SupplyBar()

    def watch(self, what: news.News) -> None:
        if line := sentence(what):
            tqdm.write(line, file=sys.stderr)
        match what:
            case news.BatchBegan() if what.to_render:
                self._open_bars(what)
            case news.Supplying(what=answer):
                self._supply.show(answer)
            case news.WorkerOpening():
                self._at(_opening(what))
            case news.PictureBegan(item=item):
                self._at(item.picture.id)
            case news.Stepped():
                self._step(what)
            case news.PictureDone() if self._batch is not None:
                self._batch.update()
            case news.Tick() if self._batch is not None:
                self._batch.refresh()
            case news.BatchEnded(summary=summary):
                self.close()
                print("\n".join(describe_summary(summary)), file=sys.stderr)

    def close(self) -> None:
        self._supply.close()
        for bar in (self._steps, self._batch):
            if bar is not None:
                bar.close()
        self._batch = self._steps = None

    def _open_bars(self, what: news.BatchBegan) -> None:
        name = what.plan.manifest.name
        self._batch = tqdm(total=what.to_render, desc=name, unit="picture", dynamic_ncols=True, file=sys.stderr)
        self._steps = tqdm(total=1, desc="waiting", unit="step", dynamic_ncols=True, leave=False, file=sys.stderr)

    def _at(self, text: str) -> None:
        if self._steps is not None:
            self._steps.set_description_str(text)

    def _step(self, what: news.Stepped) -> None:
        if self._steps is None:
            return
        if what.step <= 1 or self._steps.total != what.steps:
            self._steps.reset(total=what.steps)
        self._steps.n = what.step
        self._steps.set_description_str(what.item.picture.id, refresh=True)


class SupplyBar:
    """A bar for a model that is being fetched or packed."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None

    def show(self, answer: supplies.News | None) -> None:
        """Move the bar; anything but progress takes it away."""
        if not isinstance(answer, Progress):
            self.close()
            return
        if self._bar is not None and self._bar.desc != f"{answer.what}: ":
            self.close()
        if self._bar is None:
            total, what = answer.total_bytes, answer.what
            self._bar = tqdm(total=total, desc=what, unit="B", unit_scale=True, dynamic_ncols=True, file=sys.stderr)
        self._bar.n = answer.done_bytes
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


class Json:
    """One JSON object a line: time, event, and what belongs to it."""

    def watch(self, what: news.News) -> None:
        match what:
            case news.BatchBegan():
                self._say("batch-began", name=what.plan.manifest.name, to_render=what.to_render)
            case news.Supplying(need=need, what=answer):
                told = answer.model_dump(mode="json") if answer else {"kind": "asking"}
                self._say("supplying", need=need.model_dump(mode="json"), answer=told)
            case news.WorkerOpening():
                self._say("worker-opening", what=what.what)
            case news.WorkerOpened():
                self._say("worker-opened", **what.opened.model_dump(mode="json", exclude={"event"}))
            case news.PictureBegan():
                self._say("picture-began", id=what.item.picture.id, attempt=what.attempt)
            case news.Stepped():
                self._say("stepped", id=what.item.picture.id, step=what.step, steps=what.steps)
            case news.PictureDone():
                self._say("picture-done", id=what.sidecar.id, sidecar=what.sidecar.model_dump(mode="json"))
            case news.PictureFailed():
                self._say("picture-failed", id=what.item.picture.id, message=what.message, again=what.again)
            case news.WorkerLost():
                self._say("worker-lost", reason=what.reason, ids=[item.picture.id for item in what.items])
            case news.Stopping():
                self._say("stopping", in_flight=what.in_flight, grace_s=what.grace_s)
            case news.BatchEnded():
                self._say("batch-ended", summary=what.summary.model_dump(mode="json"))
            case news.Tick():
                pass

    def close(self) -> None:
        """Nothing to put back."""

    def _say(self, event: str, **fields: object) -> None:
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
        print(json.dumps(line, ensure_ascii=False), file=sys.stderr, flush=True)
