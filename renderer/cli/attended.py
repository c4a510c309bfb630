"""A run with everybody who watches it: console, page, people who get messages, a browser; and what asks it to stop.

None of them can end it, hold it back or change its exit code: the pictures are what it is for. Called by the doors of
commands that render; knows no arguments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from renderer.cli import console, problems
from renderer.cli.console import LogFormat
from renderer.cli.manifests import Loaded
from renderer.cli.notify import Notifier
from renderer.cli.ping import Pinger
from renderer.cli.refusals import Refusals
from renderer.errors import RendererError, UsageError
from renderer.manifest.manifest import Manifest
from renderer.outputs.describe import describe_night
from renderer.outputs.summary import Summary
from renderer.report import page
from renderer.report.gallery import Gallery
from renderer.supervisor import events, run
from renderer.supervisor.events import Watchers
from renderer.supervisor.settings import Settings, StopRequests
from renderer.system import signals
from renderer.text import duration

_LONG_S = 12 * 3600.0


def render(
    loaded: Loaded,
    settings: Settings,
    *,
    log_format: LogFormat = "auto",
    notify: Sequence[str] = (),
    ping: Sequence[str] = (),
    live_port: int | None = None,
    refusals: Refusals | None = None,
) -> list[Summary]:
    """Render what is not done of the manifests that are well, and tell of it; each one's summary.

    `refusals` hear of those that are not well, also of such as are found later. `notify` are Apprise's addresses,
    `ping` those of a dead man's switch. With `live_port` the pages are served meanwhile, at that port (0: any). Raises
    as `run.render` does; `UsageError` and `MachineError` for an address that is none, before anything is rendered.
    """
    notifier, pinger = Notifier(notify), Pinger(ping)
    stop = StopRequests()
    refusals = refusals or Refusals()
    with contextlib.ExitStack() as held:
        held.enter_context(signals.heard(stop.request))
        watchers = held.enter_context(Watchers())
        watchers.add("the exit code", refusals.watch)
        screen = console.open_console(log_format)
        watchers.add("the console", screen.watch, screen.close)
        watchers.add("--notify", notifier.watch)
        watchers.add("--ping", pinger.watch)
        pages = page.PageWriter(watchers, stop, settings.grace_s)
        watchers.add("the page", pages.watch, pages.close)
        notifier.complain_to(watchers)
        if live_port is not None:
            _serve(loaded.manifests, settings, live_port, watchers)
        for problem in (*loaded.problems, *loaded.warnings[: problems.MOST_WARNINGS]):
            watchers(events.ManifestProblem(problem))
        if left := len(loaded.warnings[problems.MOST_WARNINGS :]):
            watchers(events.Remark(problems.more_warnings(left)))
        if warning := _long_way_off(settings.left_s):
            watchers(events.Remark(warning))
        pinger.begin(watchers)
        try:
            summaries = run.render(loaded.manifests, settings, watchers, stop)
        except BaseException as error:  # told, and raised again
            pinger.end(f"ended by an error: {type(error).__name__}", failed=True)
            notifier.end(error)
            raise
        pinger.end(describe_night(summaries) if summaries else "", failed=_has_failed(summaries, refusals))
        notifier.end(None)
    return summaries


def _has_failed(summaries: Sequence[Summary], refusals: Refusals) -> bool:
    """Whether something is wrong; that there is more to do, because the time was up or somebody asked, is not."""
    bad = (each.failed or each.refused or each.set_aside or each.ending in ("error", "failures") for each in summaries)
    return any(bad) or bool(refusals.problems)


def _serve(manifests: Sequence[Manifest], settings: Settings, port: int, watchers: Watchers) -> None:
    """Serve the manifests' pages while the run is on, also of those that join it.

    At another port where that one is taken, or not, and say so.
    """
    from renderer.service.watching import WatchServer  # noqa: PLC0415  (a run that nobody watches needs none of it)

    try:
        galleries = [Gallery(manifest, settings.outputs) for manifest in manifests]
        try:
            server = WatchServer(galleries, port)
        except UsageError as error:
            watchers(events.Remark(f"{error.message}; the page is served on another one"))
            server = WatchServer(galleries)
        server.__enter__()
    except (RendererError, OSError, RuntimeError) as error:  # RuntimeError: no thread is to be had
        watchers(events.Remark(f"the page is not served: {error}"))
        return

    def watch(what: events.Event) -> None:
        if isinstance(what, events.BatchBegan):
            server.follow(what.plan.manifest, settings.outputs)
        for url in server.take_new_urls() if isinstance(what, events.Tick) else ():
            watchers(events.Serving(url))

    watchers.add("the live page", watch, lambda: server.__exit__(None, None, None))
    for url in server.urls:
        watchers(events.Serving(url))


def _long_way_off(left_s: float | None) -> str:
    """A warning where a deadline is much further away than a night: one that begins late may have missed its own."""
    if left_s is None or left_s < _LONG_S:
        return ""
    end = f"{datetime.now().astimezone() + timedelta(seconds=left_s):%H:%M on %A}"
    return f"this run may go on for {duration(left_s)}, until {end}; --max-hours sets a limit from now"
