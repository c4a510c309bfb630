"""What a person, a log or a machine reads while a batch runs: bars on a terminal, plain lines, or JSON.

Each watches `events`; none of them knows how rendering works. The words go to standard error, so that standard
output stays free for what a command is asked for.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Literal, NoReturn, Protocol

from tqdm import tqdm

from renderer.cli import sentences
from renderer.cli.footer import Footer
from renderer.outputs.describe import describe_facts, describe_flight, describe_night, describe_status, describe_summary
from renderer.outputs.status import RunStatus
from renderer.outputs.summary import total
from renderer.planning.plan import Planned
from renderer.supervisor import events, provision
from renderer.system import streams
from renderer.text import gb
from renderer.weights.needs import Progress

LogFormat = Literal["auto", "plain", "json"]

HEARTBEAT_S = 60.0


class Console(Protocol):
    """Watches a run. `close` puts the terminal back in order, however the run ended."""

    def watch(self, what: events.Event) -> None: ...

    def close(self) -> None: ...


def open_console(log_format: LogFormat) -> Console:
    """The console for where standard error goes."""
    if log_format == "json":
        return Json()
    if log_format == "auto" and os.environ.get("GITHUB_ACTIONS") == "true":
        return Actions()
    lively = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return Terminal() if log_format == "auto" and lively else Plain()


# ---- the consoles ----------------------------------------------------------------------------------------------------


class Plain:
    """One line a picture and a heartbeat: for cron mails, CI logs and files."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._names: set[str] = set()
        self._current = "opening the model"
        self._spoke_at = time.monotonic()

    def watch(self, what: events.Event) -> None:
        match what:
            case events.NightBegan(names=names):
                self._names.update(names)
            case events.BatchBegan(plan=plan, to_render=count):
                self._names.add(plan.manifest.name)
                self._total += count
            case events.WorkerOpening(setup=setup) if setup is not None:
                self._say(sentences.opening(what))
            case events.Supplying(what=Progress() as progress):
                self._current = f"{progress.what} {gb(progress.done_bytes)} of {gb(progress.total_bytes)}"
            case events.PictureDone():
                self._done += 1
            case events.Busy():
                self._busy(what)
            case events.Tick(status=status):
                self._heartbeat(status)
            case events.BatchEnded(summary=summary):
                for part in describe_summary(summary):
                    self._say(part)
            case events.NightEnded(summaries=summaries) if len(self._names) > 1:
                self._say(describe_night(summaries))
        if line := sentences.sentence(what, several=len(self._names) > 1):
            self._say(f"[{self._done}/{self._total}] {line}" if isinstance(what, events.PictureDone) else line)

    def close(self) -> None:
        """Nothing to put back."""

    def _busy(self, what: events.Busy) -> None:
        if self._current != what.what or time.monotonic() - self._spoke_at > HEARTBEAT_S:
            self._current = what.what
            self._say(sentences.busy(what))

    def _heartbeat(self, status: RunStatus | None) -> None:
        if time.monotonic() - self._spoke_at > HEARTBEAT_S:
            self._say(describe_status(status) if status else f"at {self._current}")

    def _say(self, line: str) -> None:
        self._spoke_at = time.monotonic()
        streams.say(f"{datetime.now(UTC).astimezone():%H:%M:%S} {line}")


class Actions(Plain):
    """Plain lines for GitHub Actions: a group a night, and each failure as an annotation at its manifest's line."""

    def __init__(self) -> None:
        super().__init__()
        self._on_their_way: set[str] = set()

    def watch(self, what: events.Event) -> None:
        match what:
            case events.ManifestProblem(problem=problem):
                told = {"file": problem.file, "line": str(problem.line), "col": str(problem.column)}
                self._command("warning" if problem.warning else "error", str(problem), **told)
            case events.NightBegan(names=names) if names:
                self._command("group", ", ".join(names))
                self._on_their_way = set(names)
            case events.BatchEnded(summary=summary) if summary.name in self._on_their_way:
                self._on_their_way.remove(summary.name)
                if not self._on_their_way:
                    self._command("endgroup")
            case events.PictureFailed(item=item, message=message, again=again):
                place = item.picture.place
                told = {"file": place.manifest, "line": str(place.line), "title": item.picture.id}
                self._command("warning" if again else "error", message, **told)
        super().watch(what)

    def _command(self, name: str, message: str = "", **properties: str) -> None:
        told = ",".join(f"{key}={_escape(value, ':,')}" for key, value in properties.items())
        print(f"::{name}{' ' if told else ''}{told}::{_escape(message)}", file=sys.stderr, flush=True)


def _escape(text: str, more: str = "") -> str:
    """A text within one of GitHub's workflow commands."""
    return "".join(f"%{ord(letter):02X}" if letter in f"%\r\n{more}" else letter for letter in text)


class Terminal:
    """Two lines at the bottom, the batch and what is in flight; everything else scrolls by above them."""

    def __init__(self) -> None:
        self._footer = Footer(sys.stderr)
        self._supply = SupplyBar()
        self._opening = ""
        self._names: set[str] = set()

    def watch(self, what: events.Event) -> None:
        if line := sentences.sentence(what, several=len(self._names) > 1):
            self._footer.say(streams.harmless(line))
        match what:
            case events.Supplying(what=answer):
                self._supply.show(answer)
            case events.WorkerOpening():
                self._opening = sentences.opening(what)
            case events.Busy():
                self._footer.show(lambda columns: [_busy_line(what, columns)])
            case events.Tick(status=status) if status is not None:
                self._footer.show(lambda columns: [_batch_line(status, columns), self._flight_line(status, columns)])
            case events.NightBegan(names=names):
                self._names.update(names)
            case events.BatchBegan(plan=plan):
                self._names.add(plan.manifest.name)
            case events.BatchEnded(summary=summary):
                self._footer.say(streams.harmless("\n".join(describe_summary(summary))))
            case events.NightEnded(summaries=summaries):
                self._footer.close()
                if len(self._names) > 1:
                    streams.say(describe_night(summaries))

    def close(self) -> None:
        self._supply.close()
        self._footer.close()

    def _flight_line(self, status: RunStatus, columns: int) -> str:
        furthest = status.furthest
        told = self._opening if status.phase == "opening" else describe_flight(status) or "waiting"
        if status.phase in ("stopping", "paused"):
            told = f"{status.phase}; {told}"
        if furthest is None:
            return told
        bar = "{desc}: step {n_fmt} of {total_fmt} |{bar}|"
        return tqdm.format_meter(
            furthest.step, furthest.steps, 0.0, ncols=columns, prefix=told, bar_format=bar, ascii=_lacks_blocks()
        )


def _busy_line(what: events.Busy, columns: int) -> str:
    bar = "{desc}: {n_fmt} of {total_fmt} |{bar}|"
    prefix = f"{what.name}: {what.what}"
    return tqdm.format_meter(what.done, what.total, 0.0, ncols=columns, prefix=prefix, bar_format=bar)


def _batch_line(status: RunStatus, columns: int) -> str:
    done, total = status.done, status.to_render
    facts = ", ".join(describe_facts(status))
    bar = "{desc}: {n_fmt} of {total_fmt} done |{bar}|{postfix}"
    return tqdm.format_meter(
        done, total, 0.0, ncols=columns, prefix=status.name, postfix=facts, bar_format=bar, ascii=_lacks_blocks()
    )


def _lacks_blocks() -> bool:
    """Whether the letters of a bar are to be had in the terminal's encoding only by others."""
    try:
        "\u2588\u258f".encode(sys.stderr.encoding or "utf-8")
    except UnicodeEncodeError:
        return True
    return False


class SupplyBar:
    """A bar for a model that is being fetched or packed."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None

    def show(self, answer: provision.SupplyEvent | None) -> None:
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

    def __init__(self) -> None:
        self._stood_at = time.monotonic()

    def watch(self, what: events.Event) -> None:
        if isinstance(what, events.Tick):
            if what.status is None or time.monotonic() - self._stood_at < HEARTBEAT_S:
                return
            self._stood_at = time.monotonic()
        event, fields = _of_picture(what) or _of_work(what) or _of_batches(what) or _of_run(what)
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
        told = json.dumps(line, ensure_ascii=False).replace("##[", "##\\u005b")  # which is no command in a CI job's log
        print(told, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing to put back."""


_Line = tuple[str, dict[str, object]]


def _of_picture(what: events.Event) -> _Line | None:
    """What a line says of news of one picture; None for other news."""
    match what:
        case events.PictureBegan():
            return "picture-began", {**_which(what.item), "attempt": what.attempt}
        case events.PictureStepped():
            return "stepped", {**_which(what.item), "step": what.step, "steps": what.steps}
        case events.PictureDone():
            return "picture-done", {**_which(what.item), "sidecar": what.sidecar.model_dump(mode="json")}
        case events.PictureFailed():
            names = ("message", "hint", "kind", "detail", "again")
            return "picture-failed", {**_which(what.item), **{name: getattr(what, name) for name in names}}
        case _:
            return None


def _which(item: Planned) -> dict[str, object]:
    """A picture, and the manifest that it is of: two may have pictures of one id."""
    return {"id": item.picture.id, "name": item.batch}


def _of_work(what: events.Event) -> _Line | None:
    """What a line says of work that is no rendering; None for other news."""
    match what:
        case events.Busy():
            return "busy", {"name": what.name, "what": what.what, "done": what.done, "total": what.total}
        case events.Supplying(need=need, what=answer):
            told = answer.model_dump(mode="json") if answer else {"kind": "asking"}
            return "supplying", {"need": need.model_dump(mode="json"), "answer": told}
        case _:
            return None


def _of_batches(what: events.Event) -> _Line | None:
    """What a line says of manifests; None for other news."""
    match what:
        case events.Note():
            return "note", {"text": what.text}
        case events.Waiting():
            return "waiting", {"folder": what.folder}
        case events.NightBegan():
            return "night-began", {"names": what.names}
        case events.NightEnded():
            return "night-ended", {"manifests": len(what.summaries), **total(what.summaries)}
        case events.BatchBegan():
            return "batch-began", {"name": what.plan.manifest.name, "to_render": what.to_render}
        case events.BatchEnded():
            return "batch-ended", {"summary": what.summary.model_dump(mode="json")}
        case _:
            return None


def _where(where: str) -> dict[str, str]:
    """Which of several workers it is of."""
    return {"where": where} if where else {}


def _of_run(what: events.Event) -> _Line:
    """What a line says of all other news."""
    match what:
        case events.ManifestProblem(problem=problem):
            return "manifest-doubted" if problem.warning else "manifest-refused", asdict(problem)
        case events.Serving():
            return "serving", {"url": what.url}
        case events.WorkerOpening():
            return "worker-opening", {"what": what.what, **_where(what.where)}
        case events.WorkerOpened():
            return "worker-opened", {**what.opened.model_dump(mode="json", exclude={"event"}), **_where(what.where)}
        case events.WorkerLost():
            ids = [item.picture.id for item in what.items]
            told = {"reason": what.reason, "hint": what.hint, "excerpt": what.excerpt, "ids": ids}
            return "worker-lost", {**told, **_where(what.where)}
        case events.Pausing():
            return "pausing", {"paused": what.paused, "let_go": what.let_go}
        case events.Stopping():
            return "stopping", {"in_flight": what.in_flight, "grace_s": what.grace_s}
        case events.DeviceLeft():
            return "warning", {"text": what.text, **_where(what.where)}
        case events.Remark():
            return "warning", {"text": what.text}
        case events.Tick(status=status) if status is not None:
            return "standing", {"standing": status.model_dump(mode="json")}
        case _:
            raise AssertionError(what)
