"""The page in a browser: what people do with it in the morning. Needs Chromium, which CI need not have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from renderer.manifest.manifest import load
from renderer.planning.plan import make_plan
from renderer.report import page as report
from renderer.report.gallery import Gallery
from renderer.service.watching import WatchServer
from tests import tools
from tests.nights import make_night
from tests.report.live import violations

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = tools.needs("chromium")

MARKUP = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\"> {{ 7*7 }} </script>"
CHOICE = " \\{{red|blue}}"
"""Text, by its backslash."""

NIGHT = f"""\
name: night
defaults: {{model: demo, precision: bf16, size: 64x64, steps: 2}}
jobs:
  - {{id: plain, prompt: a red circle, seed: 1}}
  - {{id: markup, prompt: {json.dumps(MARKUP)}, negative_prompt: {json.dumps(MARKUP + CHOICE)}, seed: 9007199254740993}}
  - {{id: 你好, prompt: 白色背景上的一个红色大圆形, size: 96x64, seed: 1}}
  - id: "{{colour}}-{{shape}}"
    prompt: a {{colour}} {{shape}}
    matrix: {{colour: [green, pink], shape: [ring, star]}}
    seed: 5
  - {{id: broken, prompt: a picture that fails, seed: 1}}
"""


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("night")
    path = folder / "night.yaml"
    path.write_text(NIGHT)
    manifest = load(path)
    make_night(manifest, folder / "outputs", without=["broken"])
    plan = make_plan(manifest, folder / "outputs")
    (broken,) = (item for item in plan.items if item.picture.id == "broken")
    plan.journal.write("failed", "broken", broken.fingerprint, f"no: {MARKUP}")
    return report.write(make_plan(manifest, folder / "outputs"))


class Watched:
    """A page that may say nothing on the console, and ask for nothing but files of its folder."""

    def __init__(self, browser: Browser, index: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.trouble: list[str] = []
        folder = index.parent.as_uri()
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on(
            "request",
            lambda request: None if request.url.startswith((folder, "data:,")) else self.trouble.append(request.url),
        )
        self.page.on("requestfailed", lambda request: self.trouble.append(f"failed: {request.url}"))
        self.page.goto(index.as_uri())

    def shown(self) -> list[str]:
        return self.page.locator(".card:not([hidden]) .name").all_text_contents()

    def close(self) -> None:
        self.context.close()
        assert self.trouble == []


@pytest.fixture
def watched(browser: Browser, night: Path) -> Iterator[Watched]:
    page = Watched(browser, night, viewport={"width": 1280, "height": 1600})
    yield page
    page.close()


ALL = ["plain", "markup", "你好", "green-ring", "green-star", "pink-ring", "pink-star", "broken"]


class TestGallery:
    def test_all_pictures_stand_there_in_order(self, watched: Watched) -> None:
        """Every picture of the manifest has a card, done or not, and the done ones have their thumbnails."""
        assert watched.shown() == ALL
        watched.page.wait_for_function("[...document.querySelectorAll('.card img')].every((each) => each.naturalWidth)")

    def test_a_matrix_is_a_grid(self, watched: Watched) -> None:
        """Rows and columns are the matrix's, and each picture stands where they cross."""
        table = watched.page.locator("table.matrix")
        assert table.locator("thead th").all_inner_texts()[1:] == ["ring", "star"]
        assert table.locator("tbody th").all_inner_texts() == ["green", "pink"]
        assert "pink-star" in table.locator("tbody tr").nth(1).locator("td").nth(1).inner_text()

    @pytest.mark.parametrize(
        ("control", "value", "shown"),
        [
            ("#text", "PINK star", ["pink-star"]),
            ("#text", "红色", ["你好"]),
            ("#text", "nobody has this", []),
            ("#job", "plain", ["plain"]),
            ("#size", "96x64", ["你好"]),
            ("#seed", "9007199254740993", ["markup"]),
            ("#state", "failed", ["broken"]),
        ],
    )
    def test_filters(self, watched: Watched, control: str, value: str, shown: list[str]) -> None:
        """Text, job, size, seed and state each leave what fits, and the count says so."""
        if control == "#text":
            watched.page.fill(control, value)
        else:
            watched.page.select_option(control, value)
        assert watched.shown() == shown
        assert watched.page.inner_text("#shown") == f"{len(shown)} of 8 shown"

    def test_sorting(self, watched: Watched) -> None:
        """By name, by time and by memory; back in the manifest's order when asked."""
        watched.page.select_option("#sort", "id")
        assert watched.shown()[:2] == ["broken", "green-ring"]
        watched.page.select_option("#sort", "seconds")
        assert watched.shown()[0] == "pink-star"
        watched.page.select_option("#sort", "memory")
        assert watched.shown()[0] == "你好"
        watched.page.select_option("#sort", "")
        assert watched.shown() == ALL

    def test_markup_is_text(self, watched: Watched) -> None:
        """A prompt full of markup and scripts is shown as it was written, everywhere, and nothing of it runs."""
        watched.page.click(".name >> text=markup")
        assert watched.page.inner_text("#view-prompt") == MARKUP
        assert watched.page.get_attribute("#view-image", "alt") == MARKUP
        assert MARKUP in watched.page.inner_text("#happened")
        assert watched.page.title() == "night: 7 pictures"
        assert watched.page.locator("script").count() == 1 + sum(name.endswith(".js") for name in report.ASSETS)


class TestView:
    def test_keyboard(self, watched: Watched) -> None:
        """Enter opens, arrows turn, Escape closes and gives the focus back."""
        page = watched.page
        page.locator(".open").first.focus()
        page.keyboard.press("Enter")
        assert page.inner_text("#view-title") == "plain"
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#view-title") == "markup"
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert page.inner_text("#view-title") == "broken"
        page.keyboard.press("Escape")
        assert not page.locator("#view").is_visible()
        page.wait_for_function("document.activeElement.textContent.startsWith('failedbroken')")

    def test_only_what_is_shown_is_turned_through(self, watched: Watched) -> None:
        """The large view follows the filter."""
        watched.page.fill("#text", "star")
        watched.page.click(".name >> text=green-star")
        watched.page.keyboard.press("ArrowRight")
        assert watched.page.inner_text("#view-title") == "pink-star"
        watched.page.keyboard.press("ArrowRight")
        assert watched.page.inner_text("#view-title") == "green-star"

    def test_touch(self, browser: Browser, night: Path) -> None:
        """On a phone, a stroke to the left turns to the next picture, and nothing is wider than the screen."""
        phone = Watched(browser, night, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
        assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
        phone.page.locator(".open").first.tap()
        phone.page.evaluate("""() => {
            const target = document.getElementById("view-image");
            const touch = (x) => new Touch({identifier: 1, target, clientX: x, clientY: 300});
            const send = (kind, touches, changed) => target.dispatchEvent(
                new TouchEvent(kind, {touches, changedTouches: changed, bubbles: true}));
            send("touchstart", [touch(300)], [touch(300)]); send("touchend", [], [touch(100)]);
        }""")
        assert phone.page.inner_text("#view-title") == "markup"
        phone.close()

    def test_copying(self, browser: Browser, night: Path, tmp_path: Path) -> None:
        """The copied prompt is the prompt, and the copied entry makes the very same job in another manifest."""
        allowed = ["clipboard-read", "clipboard-write"]
        watched = Watched(browser, night, permissions=allowed)
        watched.page.click(".name >> text=markup")
        watched.page.click("#copy-prompt")
        assert watched.page.evaluate("navigator.clipboard.readText()") == MARKUP
        watched.page.click("#copy-entry")
        watched.page.wait_for_function("document.getElementById('copied').textContent.startsWith('entry')")
        entry = watched.page.evaluate("navigator.clipboard.readText()")
        watched.close()
        path = tmp_path / "copied.yaml"
        path.write_text(f"jobs:\n{entry}")
        (copied,) = load(path).pictures
        (original,) = (each for each in load(night.parents[2] / "night.yaml").pictures if each.id == "markup")
        assert (copied.id, copied.job) == (original.id, original.job)


class TestComparison:
    def test_side_by_side_and_with_a_slider(self, watched: Watched) -> None:
        """Two chosen pictures stand beside each other; the slider uncovers one or the other; a third takes a place."""
        page = watched.page
        for name in ("plain", "green-ring", "pink-star"):
            page.check(f'input[aria-label="choose {name} for comparison"]')
        assert page.locator(".card.chosen").count() == 2
        page.click("#compare-open")
        assert page.inner_text("#compare-left-name") == "green-ring"
        assert page.inner_text("#compare-right-name") == "pink-star"
        left, right = (page.locator(f"#compare-{side}").bounding_box() for side in ("left", "right"))
        assert left is not None
        assert right is not None
        assert left["x"] + left["width"] <= right["x"]
        page.check("#compare-slide")
        left, right = (page.locator(f"#compare-{side}").bounding_box() for side in ("left", "right"))
        assert left == right
        page.locator("#compare-range").fill("25")
        clip = page.evaluate("getComputedStyle(document.getElementById('compare-left')).clipPath")
        assert "75%" in clip
        page.keyboard.press("Escape")
        page.click("#compare-clear")
        assert page.locator(".card.chosen").count() == 0


class TestWhole:
    def test_axe_finds_nothing(self, browser: Browser, night: Path) -> None:
        """Gallery, filters, the large view, the comparison and the best of a row, with marks, in light and dark."""
        manifest, outputs = load(night.parents[2] / "night.yaml"), night.parents[1]
        with WatchServer([Gallery(manifest, outputs)]) as server:
            page = browser.new_context(bypass_csp=True, viewport={"width": 1280, "height": 1600}).new_page()
            page.goto(server.urls[0])
            page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            for keys, dialog in (
                (["ArrowRight", "x", "ArrowRight", "3"], ""),
                (["Enter"], "view"),
                (["Escape", "c", "ArrowRight", "c"], "compare"),
                (["Escape", "b"], "best"),
            ):
                for key in keys:
                    page.keyboard.press(key)
                assert page.evaluate("document.querySelector('dialog[open]')?.id ?? ''") == dialog
                assert violations(page) == []
            page.keyboard.press("Escape")
            page.fill("#text", "ring")
            page.select_option("#sort", "id")
            assert violations(page) == []
            page.context.close()
