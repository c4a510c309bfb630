"""What the page tells of a picture, in the browser: marks, lettering, layers, notes, and what is read out for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from renderer.job import Box, LayerFacts, LetteringRead, Memory, Take, TextRead
from renderer.manifest.manifest import Manifest, load
from renderer.outputs import input_files, picks, picture_files
from renderer.planning.plan import make_plan
from renderer.report import page as report
from tests import tools
from tests.nights import make_night
from tests.report.test_page import Watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = tools.needs("chromium")

NIGHT = """\
name: told
defaults: {model: demo, precision: bf16, size: 128x64, steps: 2}
jobs:
  - {id: sign, prompt: a sign that says OPEN, negative_prompt: blur, seed: 1}
  - {id: bare, prompt: nobody reads it, seed: 2, schedule: {shift: 3}, cfg_scale: 1}
  - {id: shop, prompt: a shop, seed: 3}
  - {id: over, prompt: a beach, image: photo.png, mask: mask.png, strength: 0.4, seed: 4}
"""
WRONG = LetteringRead(
    texts=(
        TextRead(text="OPEN", read="0PEN", score=0.5, box=Box(left=10, top=20, right=90, bottom=40)),
        TextRead(text="24 H", read="", score=0.0),
    ),
    score=0.0,
    reader="a test",
    takes=tuple(Take(seed=seed, score=0.0) for seed in range(3)),
)
RIGHT = LetteringRead(texts=(TextRead(text="SHOP", read="SHOP", score=1.0),), score=1.0, reader="a test")
DRAWN = b"a layer, which nobody opens here"
LAYER = LayerFacts(
    name="shop.layer-1.png", sha256=hashlib.sha256(DRAWN).hexdigest(), bytes=len(DRAWN), width=128, height=64,
    covered=0.25,
)  # fmt: skip
TOLD: dict[str, dict[str, Any]] = {
    "sign": {
        "lettering": WRONG,
        "attempt": 3,
        "warnings": ("the prompt was cut", "and more"),
        "memory": Memory(peak_reserved_bytes=3 * 2**29, peak_rss_bytes=2**30),
    },
    "shop": {"lettering": RIGHT, "layers": (LAYER,)},
}


def taken_apart(manifest: Manifest, name: str) -> Manifest:
    """The manifest with a picture of one layer, as if it had such a model."""
    pictures = tuple(
        each.model_copy(update={"job": each.job.model_copy(update={"layer_num": 1})}) if each.id == name else each
        for each in manifest.pictures
    )
    return replace(manifest, pictures=pictures)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("told")
    for name in ("photo.png", "mask.png"):
        Image.linear_gradient("L").resize((128, 64)).save(folder / name)
    (folder / "told.yaml").write_text(NIGHT)
    manifest = taken_apart(load(folder / "told.yaml"), "shop")
    make_night(manifest, folder / "outputs")
    (folder / "outputs/told" / LAYER.name).write_bytes(DRAWN)
    plan = make_plan(manifest, folder / "outputs")
    for item in plan.items:
        for source in item.picture.inputs:
            input_files.keep(plan.folder, source)
        sidecar = picture_files.read_sidecar(plan.folder.sidecar(item.picture.output))
        assert sidecar is not None
        changed = sidecar.model_copy(update={"warnings": (), **TOLD.get(item.picture.id, {})})
        picture_files.write_sidecar(plan.folder, item.picture.output, changed)
    by_id = {item.picture.id: item.fingerprint for item in plan.items}
    picks.mark(plan.folder, {by_id["sign"]: 4, by_id["shop"]: "x"})
    return report.write(make_plan(manifest, folder / "outputs"))


@pytest.fixture
def watched(browser: Browser, night: Path) -> Iterator[Watched]:
    page = Watched(browser, night, viewport={"width": 1280, "height": 1600})
    yield page
    page.close()


def facts(watched: Watched) -> dict[str, str]:
    found: dict[str, str] = watched.page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#view-facts > div')]"
        ".map((each) => [each.querySelector('dt').textContent, each.querySelector('dd').textContent]))"
    )
    return found


def test_cards_say_what_is_on_them(watched: Watched) -> None:
    """A thumbnail is its prompt to who does not see it, a mark is words; what is rejected is shown so."""
    card = watched.page.locator(".card")
    assert [card.nth(number).locator("img").get_attribute("alt") for number in range(4)] == [
        "a sign that says OPEN", "nobody reads it", "a shop", "a beach",
    ]  # fmt: skip
    badges = [(each.inner_text(), each.get_attribute("aria-label")) for each in watched.page.locator(".badge").all()]
    assert badges == [("★★★★", "sign has 4 of 5 stars"), ("✕", "shop is rejected")]
    assert watched.page.locator(".card.rejected .name").all_inner_texts() == ["shop"]


@pytest.mark.parametrize(
    ("control", "value", "shown"),
    [
        ("lettering", "wrong", ["sign"]),
        ("lettering", "right", ["shop"]),
        ("mark", "★★★★", ["sign"]),
        ("mark", "rejected", ["shop"]),
        ("mark", "not marked", ["bare", "over"]),
        ("sort", "lettering", ["sign", "shop", "bare", "over"]),
        ("sort", "mark", ["sign", "bare", "over", "shop"]),
    ],
)
def test_what_is_chosen_and_in_which_order(watched: Watched, control: str, value: str, shown: list[str]) -> None:
    """By lettering, the worst first and what was not read last; by marks, the best first and the rejected last."""
    watched.page.select_option(f"#{control}", value)
    assert watched.shown() == shown


def test_what_a_picture_was_and_took(watched: Watched) -> None:
    """Its notes, how often it was tried, its memory in GiB, what was read where; and its mark."""
    watched.page.click(".name >> text=sign")
    found = facts(watched)
    assert found["lettering"] == (
        "“0PEN” where “OPEN” was to stand: 0.50; nothing where “24 H” was to stand: 0.00; the best of 3 takes"
    )
    assert {name: found[name] for name in ("mark", "attempt", "warnings", "GPU memory", "process memory")} == {
        "mark": "★★★★",
        "attempt": "3",
        "warnings": "the prompt was cut; and more",
        "GPU memory": "1.50 GiB",
        "process memory": "1.00 GiB",
    }
    assert watched.page.inner_text("#view-negative") == "Not: blur"
    (box,) = watched.page.locator("#view-boxes rect").all()
    assert [box.get_attribute(name) for name in ("x", "y", "width", "height", "class")] == [
        "10", "20", "80", "20", "wrong",
    ]  # fmt: skip
    assert not watched.page.locator("#view-before").is_visible()
    watched.page.keyboard.press("ArrowRight")
    assert not facts(watched).keys() & {"lettering", "mark", "attempt", "warnings", "layers"}
    assert not watched.page.locator("#view-boxes").is_visible()
    watched.page.keyboard.press("ArrowRight")
    assert facts(watched)["lettering"] == "“SHOP” is there"
    assert facts(watched)["layers"] == "1: 25 %"
    link = watched.page.locator("#view-facts a")
    assert link.get_attribute("title") == "layer 1 covers 25 % of the picture"
    assert link.get_attribute("href") == LAYER.name


def test_what_went_in_stands_before_what_came_out(watched: Watched) -> None:
    """Side by side, each with its name, and with words for who does not see them."""
    watched.page.click(".name >> text=over")
    assert facts(watched)["strength"] == "0.4"
    watched.page.click("#view-before")
    told = [
        (watched.page.get_attribute(f"#compare-{side}", "alt"), watched.page.inner_text(f"#compare-{side}-name"))
        for side in ("left", "right")
    ]
    assert told == [("what went in", "before over"), ("a beach", "over")]


@pytest.mark.parametrize("name", ["sign", "bare", "over"])
def test_a_copied_entry_is_the_picture_s_job(watched: Watched, night: Path, name: str) -> None:
    """With all that makes it, put beside the files that it was made of."""
    folder = night.parents[2]
    before = {picture.id: picture for picture in load(folder / "told.yaml").pictures}
    (folder / f"{name}.yaml").write_text("jobs:\n" + watched.page.evaluate(f"entry(pictures[places.get('{name}')])"))
    (copied,) = load(folder / f"{name}.yaml").pictures
    assert (copied.id, copied.job) == (name, before[name].job)
