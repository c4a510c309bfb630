"""Messages to people who are not watching: at a run's first failure and at its end, through Apprise.

An optional extra. Each address has a thread of its own, so that a target that does not answer is in nobody's way; what
could not be sent is a warning and no more. Addresses hold secrets: they are told to nobody, only their number is.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from renderer.errors import MachineError, RendererError, UsageError
from renderer.outputs.describe import describe_summary
from renderer.outputs.summary import Summary
from renderer.supervisor import events
from renderer.supervisor.events import Watch

if TYPE_CHECKING:
    import apprise

VARIABLE = "RENDERER_NOTIFY"
INSTALL = ".venv/bin/python -m pip install -c constraints.txt -e '.[notify]'"
PATIENCE_S = 20.0
_MOST_FAILURES = 20


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent. `good` says whether it is good news."""

    title: str
    body: str
    good: bool


def addresses(given: Sequence[str]) -> list[str]:
    """The addresses that are given, and those in RENDERER_NOTIFY, which no process that is started here gets to see."""
    return [*given, *os.environ.pop(VARIABLE, "").split()]


class Notifier:
    """Tells every address of a run's first failure and of its end."""

    def __init__(self, urls: Sequence[str], patience_s: float = PATIENCE_S) -> None:
        """Raises `MachineError` when Apprise is not installed, `UsageError` for what is no address of it."""
        self._troubles: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._targets = _targets(urls, self._troubles.put)
        self._patience_s = patience_s
        self._summaries: list[Summary] = []
        self._refused: list[str] = []
        self._told_of_failure = False
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
        self._send(_at_the_end(self._summaries, self._refused, error))
        until = time.monotonic() + self._patience_s
        for target in self._targets:
            target.end(until - time.monotonic())
        self._complain()

    def _hear(self, what: events.Event) -> None:
        match what:
            case events.PictureFailed() if not self._told_of_failure:
                self._told_of_failure = True
                again = "; it will be tried again" if what.again else ""
                body = f"{what.item.picture.id} failed: {_reason(what.message, what.hint)}{again}"
                self._send(
                    Message(f"renderer: the first failure, in {what.item.picture.place.manifest}", body, good=False)
                )
            case events.ManifestProblem(problem=problem) if not problem.warning:
                self._refused.append(str(problem))
            case events.BatchEnded(summary=summary):
                self._summaries.append(summary)

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
                text = apprise.NotifyFormat.TEXT  # ids and prompts are no markup
                sent = self._service.notify(message.body, message.title, kind, body_format=text)
            except Exception as error:  # noqa: BLE001  # somebody else's plugin; its text may hold the address
                self._complain(f"{self._name} could not be notified: {type(error).__name__}")
            else:
                if not sent:
                    self._complain(f"{self._name} could not be notified")


def _targets(urls: Sequence[str], complain: Callable[[str], None]) -> list[_Target]:
    if not urls:
        return []
    try:
        import apprise  # noqa: PLC0415
    except ImportError as error:
        raise MachineError("--notify needs Apprise, which is not installed", hint=INSTALL) from error
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
    told = [line for summary in summaries for line in _in_short(summary)]
    told += [f"not rendered: {problem}" for problem in refused[:_MOST_FAILURES]]
    if isinstance(error, RendererError):
        told.append(_reason(error.message, error.hint))
    elif error is not None:
        told.append(f"a fault of the renderer's own: {type(error).__name__}: {error}")
    title = f"renderer: {rendered} rendered, {failed} failed{', and then it had to end' if error else ''}"
    as_asked = all(summary.ending in ("complete", "deadline") for summary in summaries)
    return Message(title, "\n".join(told), good=as_asked and not failed and not refused and error is None)


def _in_short(summary: Summary) -> list[str]:
    """A summary in a few lines, however much failed."""
    more = len(summary.failures) - _MOST_FAILURES
    lines = describe_summary(summary.model_copy(update={"failures": summary.failures[:_MOST_FAILURES]}))
    return [*lines, f"  and {more} failures more"] if more > 0 else lines


def _reason(message: str, hint: str) -> str:
    return f"{message} ({hint})" if hint else message
