"""A run that does what a test says, and who watches its page."""

from __future__ import annotations

import http.client
import json
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from renderer.outputs.folder import OutputFolder
from renderer.outputs.status import InFlight, RunStatus, StatusFile
from renderer.planning.plan import make_plan
from renderer.report.gallery import Change, Gallery
from renderer.service.watching import WatchServer
from tests.making import make_manifest
from tests.nights import make_night

if TYPE_CHECKING:
    from playwright.sync_api import Page

NOW = datetime(2026, 11, 21, 5, 0, tzinfo=UTC)


SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
PROMPTS = [f"picture {number}" for number in range(4)]


class Night:
    """A run that does what the test says: its folder is locked, and pictures come when they are told to."""

    def __init__(self, outputs: Path, held: ExitStack, prompts: list[str] = PROMPTS) -> None:
        self.outputs = outputs
        self.manifest = make_manifest(prompts)
        self.folder = OutputFolder(outputs / "test")
        self._held = held
        self._run = ExitStack()

    def begin(self) -> None:
        self._held.enter_context(self._run)
        self._run.enter_context(self.folder.locked())
        self.stand()

    def stand(self, *flying: tuple[str, int], done: int = 0) -> None:
        in_flight = tuple(InFlight(id=key, step=step, steps=8, attempt=1, since=NOW) for key, step in flying)
        StatusFile(self.folder).post(
            RunStatus(
                name="test", phase="rendering", began_at=NOW, at=datetime.now(UTC), pid=1,
                to_render=4, done=done, failed=0, in_flight=in_flight,
            )
        )  # fmt: skip

    def write(self, what: Any, name: str, message: str = "") -> None:
        plan = make_plan(self.manifest, self.outputs)
        (item,) = (item for item in plan.items if item.picture.id == name)
        plan.journal.write(what, name, item.fingerprint, message)

    def finish(self, name: str) -> None:
        make_night(self.manifest, self.outputs, without=[one.id for one in self.manifest.pictures if one.id != name])
        self.write("done", name)

    def end(self) -> None:
        StatusFile(self.folder).take_down()
        self._run.close()


def ask(server: WatchServer, path: str, host: str = "", method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """An answer to a request that is sent as it stands, without a browser's tidying."""
    port = int(server.urls[0].split(":")[2].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


def changed(gallery: Gallery, mark: str) -> Change:
    found = gallery.since(mark, 0.01)
    assert found is not None
    return found


def violations(page: Page) -> list[str]:
    """What axe-core has against the page as it is, in light and in dark."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415  # only where there is a browser

    found: list[str] = []
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        told = Axe().run(page).response["violations"]
        found += [f"{scheme} {each['id']}: {json.dumps(each['nodes'])[:600]}" for each in told]
    return found


class MainThread:
    """What a page's main thread has spent, in its own time: nobody else on the machine makes it longer."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self._before_s = 0.0
        self.spent_s()

    def spent_s(self) -> float:
        """Since it was asked last, with the frames that show it."""
        self._page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        before, self._before_s = (
            self._before_s,
            next(float(each["value"]) for each in metrics if each["name"] == "TaskDuration"),
        )
        return self._before_s - before
