"""The page while a run is on, in a browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from renderer.job import Lora
from renderer.outputs import picks
from renderer.planning.plan import make_plan
from renderer.report import page as report
from renderer.service.watching import WatchServer
from tests import driving, tools
from tests.making import make_manifest
from tests.nights import make_night
from tests.report.live import Night

if TYPE_CHECKING:
    from playwright.sync_api import Browser


class Watched:
    """A served page that may say nothing on the console, and ask nobody but its server."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.context = browser.new_context(viewport={"width": 800, "height": 500})
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.trouble: list[str] = []
        root = url.rpartition("/test")[0] or url
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on(
            "request",
            lambda asked: None if asked.url.startswith((root, "data:,")) else self.trouble.append(asked.url),
        )
        self.page.goto(url)

    def state(self, name: str) -> str:
        """What a card shows, looked at in one go: it may change between two looks."""
        found: str = self.page.evaluate(
            """(name) => {
                const card = [...document.querySelectorAll(".card")].find(
                    (one) => one.querySelector(".name").textContent === name);
                return card.querySelector("img") ? "done" : card.querySelector(".missing").textContent;
            }""",
            name,
        )
        return found

    def wait(self, name: str, state: str) -> None:
        until = time.monotonic() + 60
        while self.state(name) != state:
            assert time.monotonic() < until, f"{name} is {self.state(name)}, not {state}"
            time.sleep(0.05)

    def until(self, true: str) -> None:
        """Wait for an expression. Playwright's own way evaluates in the page, which its policy forbids."""
        until = time.monotonic() + 60
        while not self.page.evaluate(true):
            assert time.monotonic() < until, true
            time.sleep(0.05)

    def close(self) -> None:
        self.context.close()
        assert self.trouble == []


@tools.needs("chromium")
class TestBrowser:
    def test_the_page_changes_in_place(self, browser: Browser, night: Night, server: WatchServer) -> None:
        """Steps count, pictures and failures appear; filter, scroll, focus and the large view stay as they were."""
        watched = Watched(browser, server.urls[0])
        page = watched.page
        assert page.inner_text("#counts") == "4 to do"
        watched.until("document.getElementById('live').textContent.trim() === 'No run is on.'")
        night.begin()
        night.stand(("p000", 3), ("p002", 1))
        watched.wait("p000", "step 3 of 8")
        assert "2 in flight, furthest p000 at step 3 of 8" in page.inner_text("#live")
        page.fill("#text", "picture")
        page.click(".open >> text=p001")
        page.mouse.wheel(0, 100)
        night.finish("p001")
        watched.until("document.getElementById('view-image').naturalWidth > 0")
        assert page.inner_text("#view-title") == "p001"
        page.keyboard.press("Escape")
        watched.until("document.activeElement.textContent.includes('p001')")  # where the large view gives it back
        page.locator(".open").nth(2).evaluate("(one) => one.focus({preventScroll: true})")
        top = page.evaluate("(scrollTo({top: 40, behavior: 'instant'}), scrollY)")  # no scrolling goes on after it
        night.write("failed", "p002", "one flat colour <b>")
        night.stand(("p000", 5), done=1)
        watched.wait("p002", "failed")
        assert page.evaluate("document.activeElement.querySelector('.name').textContent") == "p002"
        assert (page.input_value("#text"), page.evaluate("scrollY")) == ("picture", top)
        assert page.inner_text("#counts") == "1 done, 1 failed, 2 to do"
        assert page.locator("#state option").all_inner_texts() == ["all", "to do", "done", "failed"]
        watched.until("document.getElementById('happened').textContent.includes('one flat colour <b>')")
        page.select_option("#sort", "seconds")
        night.finish("p003")
        watched.wait("p003", "done")
        night.end()
        watched.until("document.getElementById('live').textContent.trim() === 'No run is on.'")
        watched.close()

    def test_a_page_of_another_time_is_loaded_anew(self, browser: Browser, server: WatchServer) -> None:
        """A server that was begun anew tells who has watched the one before that all may be otherwise."""
        watched = Watched(browser, server.urls[0])
        watched.until("document.getElementById('live').textContent.trim() === 'No run is on.'")
        watched.page.evaluate("document.body.dataset.old = 1")
        with watched.page.expect_navigation():
            watched.page.evaluate("setTimeout(() => update({ stale: true }), 0), null")
        watched.until("!document.body.dataset.old")
        watched.close()

    def test_a_page_from_disk_asks_nobody(self, browser: Browser, night: Night) -> None:
        """What is written into the folder has no line about a run, and no connection is opened."""
        make_night(night.manifest, night.outputs)
        watched = Watched(browser, report.write(make_plan(night.manifest, night.outputs)).as_uri())
        assert watched.page.locator("#live").count() == 0
        assert watched.page.evaluate(
            "performance.getEntriesByType('resource').every((one) => !one.name.includes('events'))"
        )
        watched.close()

    def test_pictures_are_filtered_by_their_loras(self, browser: Browser, night: Night) -> None:
        """One choice for each LoRA that some picture has; a picture with several is found by any of them."""
        ink, pen = (Lora(source=f"loras/{name}.safetensors", identity=name) for name in ("ink", "pen"))
        sets: list[tuple[Lora, ...]] = [(ink,), (ink, pen), ()]
        pictures = tuple(
            picture.model_copy(update={"job": picture.job.model_copy(update={"loras": loras})})
            for picture, loras in zip(make_manifest(name=night.manifest.name).pictures, sets, strict=True)
        )
        manifest = replace(night.manifest, pictures=pictures)
        watched = Watched(browser, report.write(make_plan(manifest, night.outputs)).as_uri())
        assert watched.page.locator("#lora option").all_inner_texts() == ["all", "ink", "pen"]
        for chosen, said in (("ink", "2 of 3 shown"), ("pen", "1 of 3 shown"), ("", "3 of 3 shown")):
            watched.page.select_option("#lora", chosen)
            assert watched.page.inner_text("#shown") == said
        watched.close()

    def test_a_real_run_is_watched_from_its_first_second(self, browser: Browser, tmp_path: Path) -> None:
        """`render --live`: opened before there is a picture, the page sees each one come, and how it ended."""
        path = tmp_path / "test.yaml"
        path.write_text(
            "defaults: {model: demo, size: 128x128, steps: 10, precision: bf16}\n"
            "jobs: [{id: a, prompt: a red circle, seeds: [1, 2, 3]}]\n"
        )
        run = subprocess.Popen(
            [sys.executable, "-m", "renderer", "render", path.name, "--live", "--log-format", "json"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(driving.ROOT)}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert run.stderr is not None
            serving = json.loads(run.stderr.readline())
            assert serving["event"] == "serving"
            watched = Watched(browser, serving["url"])
            assert watched.state("a-s1") == "to do"
            for name in ("a-s1", "a-s2", "a-s3"):
                watched.wait(name, "done")
            watched.until("document.getElementById('live').textContent.includes('how it ended')")
            assert watched.page.inner_text("#counts") == "3 done"
            watched.until("[...document.querySelectorAll('.card img')].every((each) => each.naturalWidth)")
            watched.close()
            assert run.wait(20) == 0
        finally:
            with suppress(ProcessLookupError):
                run.kill()
            run.wait(10)

    def test_pictures_are_marked_without_a_mouse(self, browser: Browser, night: Night, server: WatchServer) -> None:
        """Arrows and keys alone, in the gallery and in the large view; another window sees it. Or why not."""
        night.begin()
        for name in ("p000", "p001", "p002"):
            night.finish(name)
        watched, other = Watched(browser, server.urls[0]), Watched(browser, server.urls[0])
        for window in (watched, other):
            window.wait("p002", "done")
        keys = watched.page.keyboard
        for key in ("ArrowRight", "4", "ArrowRight", "x", "ArrowRight", "Enter", "5", "ArrowLeft", "u"):
            keys.press(key)
        badges = "[...document.querySelectorAll('.badge')].map((one) => one.textContent).join()"
        other.until(f"{badges} === '★★★★,★★★★★'")
        assert watched.page.evaluate(badges) == "★★★★,★★★★★"
        other.page.select_option("#mark", "★★★★★")
        assert other.page.evaluate("document.querySelectorAll('.card:not([hidden])').length") == 1
        assert len(picks.read(night.folder)) == 2
        night.folder.picks.write_text("{")
        keys.press("3")
        watched.until("document.getElementById('marked').textContent.includes('cannot read')")
        watched.trouble.clear()  # the browser itself says there that an answer was no good one
        night.end()
        watched.close()
        other.close()
