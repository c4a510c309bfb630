"""The form and the page of what was rendered, in a browser and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.report.live import violations
from tests.service.running import Server, serving
from tests.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("outputs"), fake="") as served:
        yield served


@pytest.fixture
def form(server: Server, browser: Browser) -> Iterator[Page]:
    """The form, which may say nothing on the console, and ask nobody but its server."""
    trouble: list[str] = []
    page = browser.new_context(bypass_csp=True).new_page()
    page.set_default_timeout(15_000)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda said: trouble.append(said.text) if "422" not in said.text else None)
    page.on("request", lambda asked: None if asked.url.startswith((server.url, "data:")) else trouble.append(asked.url))
    page.goto(server.url)
    yield page
    page.context.close()
    assert trouble == []


class TestBrowser:
    def test_a_prompt_becomes_a_picture(self, form: Page) -> None:
        """Sent, followed and shown; what it says is taken as text, whatever stands in it."""
        form.locator("#model option").first.wait_for(state="attached")
        form.fill("#prompt", "slow <img src=x onerror=alert(1)>")
        form.fill("#size", "64x64")
        form.fill("#steps", "4")
        form.click("#one button:first-of-type")
        form.locator("#picture").wait_for()
        until(lambda: form.evaluate("document.getElementById('picture').naturalWidth") == 64)
        assert form.inner_text("#told") == "done"
        until(lambda: form.inner_text("#facts").startswith("64x64, 4 steps, seed "))
        assert form.inner_text("#facts").endswith(", demo")
        form.fill("#size", "65x64")
        form.click("#one button:first-of-type")
        until(lambda: "not a multiple of 16" in form.inner_text("#problems"))
        assert not form.is_visible("#picture"), "it is not the one that was asked for"

    def test_a_seed_is_the_one_that_was_written(self, form: Page, server: Server) -> None:
        """Also one of more digits than a number of the browser's has."""
        form.locator("#model option").first.wait_for(state="attached")
        for field, value in {"prompt": "a seed", "size": "64x64", "steps": "2", "seed": "9223372036854775807"}.items():
            form.fill(f"#{field}", value)
        with form.expect_response("**/generate") as answer:
            form.click("#one button:first-of-type")
        key = answer.value.json()["id"]
        assert server.until_done(key)["seed"] == 2**63 - 1

    def test_it_is_read_by_everybody(self, form: Page, server: Server) -> None:
        """By axe, which finds nothing in light and in dark; at 360 pixels nothing stands out of its card."""
        key = server.generate("narrow").json()["id"]
        form.set_viewport_size({"width": 360, "height": 800})
        form.fill("#manifest", "jobs: [{prompt: x, " + "long" * 40 + ": 3}]")
        form.click("#many button")
        form.locator("#batch-problems li").wait_for()
        form.evaluate(f"asked = '{key}'; show('{key}', {{state: 'done'}})")
        until(lambda: form.inner_text("#facts") != "")
        form.evaluate("say('problems', 'word'.repeat(50)); find('cancel').hidden = false")
        wide = "[...document.querySelectorAll('form *')].filter((one) => one.getBoundingClientRect().right > 340)"
        assert form.evaluate(f"{wide}.map((one) => one.outerHTML)") == []
        assert form.evaluate("document.documentElement.scrollWidth") == 360
        assert violations(form) == []

    def test_what_is_wrong_is_said_beside_it(self, form: Page) -> None:
        form.locator("#model option").first.wait_for(state="attached")
        form.fill("#prompt", "x")
        form.fill("#size", "65x64")
        form.click("#one button:first-of-type")
        until(lambda: "not a multiple of 16" in form.inner_text("#problems"))

    def test_a_manifest_is_checked_and_rendered(self, form: Page) -> None:
        """Its problems come with their lines; once they are mended, it is rendered."""
        form.fill("#manifest", "jobs:\n  - {prompt: x, stpes: 3}\n")
        form.click("#many button")
        until(
            lambda: form.inner_text("#batch-problems").startswith(
                'line 2: jobs[0].stpes: unknown key (did you mean "steps"?)'
            )
        )
        form.fill("#manifest", "jobs:\n  - {prompt: x, steps: 3, size: 64x64}\n")
        form.click("#many button")
        until(lambda: form.inner_text("#batch-told") == "completed: 1 of 1 are there, 0 failed")
        assert form.locator("#batch-problems li").count() == 0

    def test_what_was_rendered_is_on_the_page(self, form: Page, server: Server) -> None:
        server.generate("on the page")
        until(lambda: "on the page" in server.client.get("/pictures/").text)
        form.click("text=what was rendered")
        form.locator(".card").first.wait_for()
        until(lambda: "on the page" in form.inner_text("#gallery"))  # by its prompt: nobody has given it a name
        until(lambda: form.evaluate("[...document.querySelectorAll('.card img')].some((one) => one.naturalWidth > 0)"))


def test_the_page_serves_its_own_files_and_no_other(server: Server) -> None:
    told = server.generate("a file").json()
    until(lambda: told["id"] in server.client.get("/pictures/").text)
    assert server.client.get(f"/pictures/{told['id']}.png").content.startswith(b"\x89PNG")
    for name in ("queue.jsonl", "journal.jsonl", f"{told['id']}.json", "..%2f..%2fetc%2fpasswd", ".lock", "worker.log"):
        assert server.client.get(f"/pictures/{name}").status_code == 404


def test_steps_are_told_as_they_are_done(server: Server) -> None:
    """Server-sent events, up to the end; of a picture that is there, at once."""
    key = server.accept("slow", num_inference_steps=5).json()["id"]

    def events() -> list[dict[str, object]]:
        with server.client.stream("GET", f"/api/v1/images/{key}/events") as answer:
            return [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]

    told = events()
    assert {each["state"] for each in told} >= {"rendering", "done"}
    assert [each["step"] for each in told if each["state"] == "rendering"] == sorted(
        each["step"]
        for each in told
        if each["state"] == "rendering"  # type: ignore[type-var]
    )
    assert events() == [{"state": "done"}]
