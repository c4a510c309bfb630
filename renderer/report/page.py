"""The page: frozen values ▶ `index.html` with its script and stylesheet beside it; Markdown for a CI job's summary.

Every word of a prompt goes through autoescaping or into a JSON block; a strict Content-Security-Policy lets nothing run
or load but what stands in the folder.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from renderer.errors import LeaseLostError, RendererError
from renderer.outputs.folder import Own
from renderer.planning.plan import Plan
from renderer.report import plots, thumbnails
from renderer.report.gather import Page, gather, hide_paths
from renderer.supervisor import events
from renderer.supervisor.busy import TELL_AFTER_S, LongWork
from renderer.supervisor.events import Watch
from renderer.supervisor.settings import AT_ONCE, StopRequests
from renderer.system.files import disk_error
from renderer.text import counted, duration

ASSETS = ("page.css", "page.js", "picks.js", "best.js", "live.js")
_HERE = Path(__file__).parent
_LOOK_S = 0.25

_LEAST_S = 10.0
"""For so long pages are written after the last picture, also where whoever asked to stop has waited long already."""

_ENDS = "the run was asked to end"


def write(plan: Plan, watch: Watch | None = None) -> Path:
    """Write the page of a plan's folder, thumbnails and contact sheet included; `watch` hears of what takes long.

    Raises `DiskError`, and nothing else: whatever stands in the way in the folder.
    """
    page = plan.folder.page
    try:
        busy = None if watch is None else LongWork(watch, plan.manifest.name, "making thumbnails")
        thumbnails.make_thumbnails(plan, busy.tell if busy else None)
        sheet = thumbnails.make_contact_sheet(plan)
        for name in ASSETS:
            plan.folder.write(plan.folder.assets / name, (_HERE / name).read_bytes())
        plan.folder.write(page, write_html(gather(plan), has_sheet=sheet is not None).encode())
    except OSError as error:
        raise disk_error(Path(error.filename or page), error) from error
    return page


class PageWriter:
    """A watcher that writes a manifest's page when it has ended, while others are rendered: on a thread of its own.

    All of them are there when the night ends, unless somebody asks to `stop`. What is not written `grace_s` seconds
    after that, and some seconds after the last picture, is left to the next run; asked twice, the rest is left at once.
    A page that cannot be written is a warning, which is told to `tell`: the pictures are there.
    """

    def __init__(self, tell: Watch, stop: StopRequests | None = None, grace_s: float = 0.0) -> None:
        self._tell = tell
        self._stop = stop or StopRequests()
        self._grace_s = grace_s
        self._least_until_s = math.inf
        self._pool = ThreadPoolExecutor(1, "page")
        self._going: dict[Future[Path], str] = {}
        self._busy: events.Event | None = None

    def watch(self, what: events.Event) -> None:
        """Hear what happens."""
        match what:
            case events.BatchEnded(summary=summary, plan=plan) if plan is not None:
                self._going[self._pool.submit(write, plan, self._is_busy)] = summary.name
                if plan.manifest.is_shared:  # its folder is this run's as long as this takes
                    self._finish()
            case events.NightEnded():
                self._finish()
            case events.Tick():
                self._take()

    def close(self) -> None:
        """Nothing more is to be written."""
        self._pool.shutdown()

    def _finish(self) -> None:
        total, began_s, is_told = len(self._going), time.monotonic(), False
        busy = LongWork(self._tell, counted(total, "manifest"), "writing pages")
        self._least_until_s = began_s + _LEAST_S
        while self._going:
            if self._left_s <= 0:
                self._give_up()
            elif not is_told and self._stop.requests and time.monotonic() >= began_s + TELL_AFTER_S:
                is_told = True
                what, most = counted(len(self._going), "page"), duration(self._left_s)
                self._tell(events.Remark(f"{what} left to write, for {most} at most; a second signal ends it at once"))
            wait(self._going, _LOOK_S, FIRST_COMPLETED)
            if total > 1:
                busy.tell(total - len(self._going), total)
            elif self._busy is not None:
                self._tell(self._busy)
            self._take()

    @property
    def _left_s(self) -> float:
        """For how many seconds more pages may be written."""
        if not self._stop.requests:
            return math.inf
        if self._stop.requests >= AT_ONCE:
            return 0.0
        return max(self._stop.asked_s + self._grace_s, self._least_until_s) - time.monotonic()

    def _is_busy(self, what: events.Event) -> None:
        """It takes long; this is said on the page's thread, and told on the other."""
        if self._left_s <= 0:
            raise RendererError(_ENDS)
        self._busy = what

    def _give_up(self) -> None:
        """Write none of those that have not been begun."""
        given_up = [page for page in self._going if page.cancel()]
        for page in given_up:
            del self._going[page]
        if given_up:
            told = f"{counted(len(given_up), 'page')} not written: {_ENDS}"
            self._tell(events.Remark(f"{told}; the next one writes what is missing"))

    def _take(self) -> None:
        """Say of those that were written what went wrong."""
        for page in [page for page in self._going if page.done()]:
            name, self._busy = self._going.pop(page), None
            try:
                page.result()
            except LeaseLostError:
                continue  # whoever has the folder now writes it
            except (OSError, ValueError, RendererError) as error:
                self._tell(events.Remark(f"the page of {name} could not be written: {error}"))


@dataclass(frozen=True, slots=True)
class Live:
    """What a page needs to be kept up to date by a server: `mark` says which changes it has seen already.

    `happened` changes with what stands under "What happened".
    """

    mark: str
    happened: str


def write_html(page: Page, *, has_sheet: bool = False, live: Live | None = None, form: str = "") -> str:
    """The page as HTML; with `live`, one that asks its server for what changes. Without, it asks nobody.

    `form` is where pictures are asked for, where no manifest does that: they go by their prompts then.
    """
    data = {"pictures": page.pictures, "groups": [asdict(group) for group in page.groups]}
    drawn = plots.draw(page.sidecars)
    return _template("page.html.j2").render(
        page=page, data=data, plots=drawn, geometry=plots, sheet=has_sheet, live=live, own=Own, form=form
    )


def write_happened(page: Page) -> str:
    """What stands under "What happened", alone: for a page that is open and has the rest."""
    return _template("page.happened.html.j2").render(page=page, plots=plots.draw(page.sidecars), geometry=plots)


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("renderer.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.lstrip_blocks = True
    environment.filters["hide_paths"] = hide_paths
    return environment.get_template(name)


def write_markdown(page: Page) -> str:
    """What happened, in a few lines of Markdown."""
    return "\n".join(_markdown(page)) + "\n"


def _markdown(page: Page) -> Iterator[str]:
    yield f"### {_plain(page.name)}"
    yield ""
    yield "| done | failed | set aside | to do |"
    yield "| ---: | ---: | ---: | ---: |"
    yield f"| {' | '.join(str(count) for count in page.counts.values())} |"
    if page.summary is not None and page.summary.pictures_per_hour:
        yield ""
        yield f"{page.summary.rendered} rendered, {page.summary.pictures_per_hour:.0f} pictures an hour."
    if page.trouble:
        yield ""
        yield "| picture | state | reason |"
        yield "| --- | --- | --- |"
    for item in page.trouble:
        yield f"| {_plain(item.picture.id)} | {item.state} | {_plain(hide_paths(item.note))} |"


def _plain(text: str) -> str:
    """A text that Markdown takes as nothing but text, in one cell."""
    line = " ".join(text.split())
    return "".join(f"&#{ord(letter)};" if letter in "|<>&`*_[]\\#~@!" else letter for letter in line)
