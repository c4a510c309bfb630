"""Previews on the CPU with the demo model: what they show, and that no picture is another for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from renderer.engine.previews import Previewer, steps_of
from tests.engine.test_streaming import Heard, open_engine, pixels, render, variants
from tests.making import make_job


@pytest.fixture(scope="module")
def alone() -> list[bytes]:
    """The pictures that nobody watches."""
    return pixels(render(open_engine(), variants()))


def test_they_change_no_bit_and_cost_nobody_who_did_not_ask(alone: list[bytes]) -> None:
    """Of four in one sweep two are watched; all have their bits, and only those two are shown."""
    engine, heard = open_engine(slots=2), Heard()
    for number, job in enumerate(variants()):
        engine.take(str(number), job, previews=3 * (number in (0, 1)))
    while engine.busy:
        engine.advance(heard)
    assert pixels(heard) == alone
    shown = [(key, preview.step) for what, key, *more in heard.told if what == "previewed" for preview in more]
    assert sorted(shown) == [("0", 1), ("0", 2), ("1", 1), ("1", 2), ("1", 3)]


def test_it_looks_as_the_picture_will() -> None:
    """At an eighth of the size: what is foreseen late has the picture's colours, as they will be on the average."""
    job, heard, engine = make_job("a red circle", seed=3, side=128, steps=8), Heard(), open_engine()
    engine.take("0", job, previews=3)
    while engine.busy:
        engine.advance(heard)
    preview = [more[0] for what, _, *more in heard.told if what == "previewed"][-1]
    assert (preview.step, preview.width, preview.height) == (6, 16, 16)
    picture = torch.frombuffer(bytearray(heard.pictures["0"].rgb), dtype=torch.uint8).view(16, 8, 16, 8, 3)
    seen = torch.frombuffer(bytearray(preview.rgb), dtype=torch.uint8).float()
    both = torch.stack((picture.float().mean((1, 3)).flatten(), seen))
    assert torch.corrcoef(both)[0, 1] > 0.8


def test_one_that_cannot_be_made_costs_no_picture(alone: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(Previewer, "_fitted", fail)
    engine, heard = open_engine(), Heard()
    engine.take("0", variants()[0], previews=3)
    while engine.busy:
        engine.advance(heard)
    assert pixels(heard) == alone[:1]


@pytest.mark.parametrize(("count", "steps", "after"), [(3, 40, {10, 20, 30}), (3, 4, {1, 2, 3}), (2, 2, {1})])
def test_when_they_are_made(count: int, steps: int, after: set[int]) -> None:
    assert steps_of(count, steps) == after
