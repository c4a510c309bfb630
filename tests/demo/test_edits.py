"""Edits as they are drawn by lot, and the judge of them."""

from __future__ import annotations

import random

import pytest
import torch

from renderer.demo.edit_judge import judge_edit
from renderer.demo.train import edit_feed, edits, placing
from renderer.demo.train.draw import Atlas, draw
from renderer.demo.train.edit_passes import PROMPT_TOKENS
from renderer.demo.train.edits import EDIT_SIZES, DrawnEdit

DRAWN = 300


@pytest.fixture(scope="module")
def drawn() -> list[tuple[int, DrawnEdit]]:
    rng = random.Random(4)  # noqa: S311  # no secrets here
    sizes = [number % len(EDIT_SIZES) for number in range(DRAWN)]
    return [(size, edits.draw_edit(rng, *EDIT_SIZES[size])) for size in sizes]


def test_training_never_shows_what_is_held_out() -> None:
    """No edit for training has a held-out combination before or after; those for the judge have one."""
    rng = random.Random(5)  # noqa: S311
    assert not any(edits.draw_training_edit(rng, 256, 256).is_held_out for _ in range(DRAWN))
    assert all(edits.draw_held_out_edit(rng, 256, 256).is_held_out for _ in range(20))


def test_one_thing_is_changed(drawn: list[tuple[int, DrawnEdit]]) -> None:
    """Of background, two shapes, and word with its sign, an edit changes one."""
    parts = (placing.BACKGROUND, *placing.THINGS, slice(placing.SIGN.start, placing.WORD.stop))
    for _, edit in drawn:
        changed = [part for part in parts if tuple(edit.numbers[part]) != tuple(edit.wanted[part])]
        assert len(changed) == 1, edit


def test_everything_is_inside(drawn: list[tuple[int, DrawnEdit]]) -> None:
    """What is added, moved and written lies inside the picture."""
    for size, edit in drawn:
        width, height = EDIT_SIZES[size]
        for part in placing.THINGS:
            shape, x, y, radius = edit.wanted[part][:4]
            if shape >= 0:
                assert radius - 2 <= x <= width - radius + 2
                assert radius - 8 <= y <= height - radius + 8
        if edit.after.word is not None:
            left, top = edit.wanted[placing.WORD][:2]
            assert 0 <= left <= width - placing.CELL * len(edit.after.word.letters)
            assert 0 <= top <= height - placing.CELL


def test_instructions_fit(drawn: list[tuple[int, DrawnEdit]]) -> None:
    """Hardly any is longer than the tokens that training has room for, and none has an unknown token."""
    reading = edit_feed.EditTokens()
    found = [reading.of([edit.prompt], size) for size, edit in drawn]
    assert all(tokens.shape == (1, PROMPT_TOKENS) for tokens, _ in found)
    assert sum(int(tokens[0, -1]) != 0 for tokens, _ in found) < 0.02 * DRAWN


def test_the_judge_sees_what_is_right() -> None:
    """Of each kind one: the picture as it is to be is right, as it was it is not; and the rest is told from another."""
    rng, atlas = random.Random(6), Atlas.make()  # noqa: S311
    for kind in edits.EDIT_KINDS:
        edit = edits.draw_held_out_edit(rng, 256, 256, (kind,))
        before, after = (draw(torch.tensor([edit.numbers, edit.wanted]), 256, 256, atlas) * 255).round() / 255
        done, left = judge_edit(after, edit, atlas), judge_edit(before, edit, atlas)
        assert (done.right, left.right) == (True, False), edit.prompt
        spoiled = judge_edit((after + 0.1).clamp(0, 1), edit, atlas)
        assert done.rest_db is None or done.rest_db > 40
        assert spoiled.rest_db is None or spoiled.rest_db < 25
