"""Messages to people who are not watching: when a picture first fails, a device is first left out, and at a run's end.

They go through Apprise. The last one has a contact sheet of what was rendered, where the address takes pictures.

An optional extra. Each address has a thread of its own, so that a target that does not answer is in nobody's way; what
could not be sent is a warning and no more. Addresses hold secrets: they are told to nobody, only their number is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from renderer.cli.refusals import Refusals
from renderer.errors import MachineError, RendererError, UsageError
from renderer.outputs.describe import describe_night, describe_summary
from renderer.outputs.summary import Summary, left_out
from renderer.planning.plan import Plan
from renderer.supervisor import events
from renderer.supervisor.events import Watch
from renderer.text import counted, installing

if TYPE_CHECKING:
    import apprise

VARIABLE = "RENDERER_NOTIFY"
PATIENCE_S = 20.0
_MOST_FAILURES = 20


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent. `good` says whether it is good news; `picture` goes along where a target takes one."""

    title: str
    body: str
    good: bool
    picture: Path | None = None


def addresses(given: Sequence[str]) -> list[str]:
    """The addresses that are given, and those in RENDERER_NOTIFY, which no process that is started here gets to see."""
    return [*given, *os.environ.pop(VARIABLE, "").split()]


class Notifier:
    """Tells every address of a run's first failure, of its first device that is left out, and of its end."""

    def __init__(self, urls: Sequence[str], patience_s: float = PATIENCE_S) -> None:
        """Raises `MachineError` when Apprise is not installed, `UsageError` for what is no address of it."""
        self._troubles: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._targets = _targets(urls, self._troubles.put)
        self._patience_s = patience_s
        self._summaries: dict[str, Summary] = {}
        self._plans: dict[str, Plan] = {}
        self._rendered: dict[str, set[str]] = {}
        self._refused = Refusals()
        self._told_of_failure = self._told_of_device = False
        self._tell: Watch = lambda _: None

    def complain_to(self, watch: Watch) -> None:
        """Tell `watch` from now on what could not be sent."""
        self._tell = watch

    def watch(self, what: events.Event) -> None:
        """Hear what happens, and tell the addresses what concerns them."""
        self._hear(what)
        if not isinstance(what, events.Remark):
            self._complain()

    def end(self, error: BaseException | None) -> None:
        """Tell how the run ended, and wait a little for what is on its way. `error` is what ended it, if anything."""
        message = _at_the_end(list(self._summaries.values()), [str(each) for each in self._refused.problems], error)
        with contextlib.ExitStack() as held:
            self._send(replace(message, picture=self._draw(held)))
            until = time.monotonic() + self._patience_s
            for target in self._targets:
                target.end(until - time.monotonic())
        self._complain()

    def _draw(self, held: contextlib.ExitStack) -> Path | None:
        """The best of what was rendered, as one picture, which goes with `held`; None where nobody would get it."""
        if not self._rendered or not any(target.takes_pictures for target in self._targets):
            return None
        from renderer.report import best  # noqa: PLC0415  (it takes Pillow, and most runs tell nobody)

        known = [(plan, self._rendered[name]) for name, plan in self._plans.items() if name in self._rendered]
        try:
            folder = tempfile.TemporaryDirectory(prefix="renderer-", ignore_cleanup_errors=True)
            path = Path(held.enter_context(folder)) / "contact-sheet.jpg"
            return path if best.write_sheet(path, known) else None
        except Exception as error:  # noqa: BLE001  # whatever it is: the message is what matters
            self._tell(events.Remark(f"the message goes without its contact sheet: {error}"))
            return None

    def _hear(self, what: events.Event) -> None:
        self._refused.watch(what)
        match what:
            case events.PictureFailed() if not self._told_of_failure:
                self._told_of_failure = True
                again = "; it will be tried again" if what.again else ""
                body = f"{what.item.picture.id} failed: {_reason(what.message, what.hint)}{again}"
                self._send(
                    Message(f"renderer: the first failure, in {what.item.picture.place.manifest}", body, good=False)
                )
            case events.DeviceLeft(text=text, where=where) if not self._told_of_device:
                self._told_of_device = True
                self._send(Message(f"renderer: {where} is left out", f"{text}; the others go on", good=False))
            case events.PictureDone(item=item):
                self._rendered.setdefault(item.batch, set()).add(item.picture.id)
            case events.BatchEnded(summary=summary, plan=plan):
                self._summaries[summary.name] = summary
                if plan is not None and summary.name in self._rendered:
                    self._plans[summary.name] = plan

    def _send(self, message: Message) -> None:
        for target in self._targets:
            target.send(message)

    def _complain(self) -> None:
        while not self._troubles.empty():
            self._tell(events.Remark(self._troubles.get()))


class _Target:
    """One address and the thread that sends to it."""

    def __init__(self, name: str, service: apprise.Apprise, complain: Callable[[str], None]) -> None:
        self._name = name
        self._service = service
        self._complain = complain
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def takes_pictures(self) -> bool:
        """Whether a picture may go along with a message."""
        return all(getattr(server, "attachment_support", False) for server in self._service)

    def send(self, message: Message) -> None:
        self._messages.put(message)

    def end(self, patience_s: float) -> None:
        """Wait at most so long for what is still to be sent."""
        self._messages.put(None)
        self._thread.join(max(0.0, patience_s))
        if self._thread.is_alive():
            self._complain(f"{self._name} does not answer, and is not waited for")

    def _work(self) -> None:
        import apprise  # noqa: PLC0415

        while (message := self._messages.get()) is not None:
            kind = apprise.NotifyType.SUCCESS if message.good else apprise.NotifyType.FAILURE
            try:
                sent = self._send(message, kind, message.picture if self.takes_pictures else None)
                if not sent and message.picture is not None and self.takes_pictures:
                    sent = self._send(message, kind, None)  # it may have been too large
            except Exception as error:  # noqa: BLE001  # somebody else's plugin; its text may hold the address
                self._complain(f"{self._name} could not be notified: {type(error).__name__}")
            else:
                if not sent:
                    self._complain(f"{self._name} could not be notified")

    def _send(self, message: Message, kind: apprise.NotifyType, picture: Path | None) -> bool:
        from apprise import NotifyFormat  # noqa: PLC0415

        text, along = NotifyFormat.TEXT, str(picture) if picture is not None else None  # ids and prompts are no markup
        return bool(self._service.notify(message.body, message.title, kind, body_format=text, attach=along))


def _targets(urls: Sequence[str], complain: Callable[[str], None]) -> list[_Target]:
    if not urls:
        return []
    try:
        import apprise  # noqa: PLC0415
    except ImportError as error:
        raise MachineError("--notify needs Apprise, which is not installed", hint=installing("notify")) from error
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # it writes addresses down
    services = []
    for number, url in enumerate(urls, start=1):
        service = apprise.Apprise()
        if not service.add(url):
            hint = "https://github.com/caronc/apprise/wiki lists what there is, like mailto:// and ntfy://"
            raise UsageError(f"address {number} of --notify is none that Apprise knows", hint=hint)
        services.append(service)
    return [_Target(f"address {number} of --notify", each, complain) for number, each in enumerate(services, start=1)]


def _at_the_end(summaries: Sequence[Summary], refused: Sequence[str], error: BaseException | None) -> Message:
    rendered = sum(each.rendered for each in summaries)
    failed = sum(each.failed + each.refused + each.set_aside for each in summaries)
    told = [describe_night(summaries)] if len(summaries) > 1 else []
    told += [line for summary in summaries for line in _in_short(summary)]
    told += [f"not rendered: {problem}" for problem in refused[:_MOST_FAILURES]]
    if isinstance(error, RendererError):
        told.append(_reason(error.message, error.hint))
    elif error is not None:
        told.append(f"a fault of the renderer's own: {type(error).__name__}: {error}")
    gone = left_out(summaries)
    title = f"renderer: {rendered} rendered, {failed} failed"
    title += f", {', '.join(gone)} left out" if gone else ""
    title += ", and then it had to end" if error else ""
    as_asked = all(summary.ending in ("complete", "deadline") for summary in summaries)
    return Message(title, "\n".join(told), good=as_asked and not failed and not refused and not gone and error is None)


def _in_short(summary: Summary) -> list[str]:
    """A summary in a few lines, however much failed."""
    more = len(summary.failures) - _MOST_FAILURES
    lines = describe_summary(summary.model_copy(update={"failures": summary.failures[:_MOST_FAILURES]}))
    return [*lines, f"  and {counted(more, 'failure')} more"] if more > 0 else lines


def _reason(message: str, hint: str) -> str:
    return f"{message} ({hint})" if hint else message
