"""Says whether an edit did what was asked for, and left the rest as it was.

What a picture shows is told by the judge of pictures from text (`judge.py`): everything that the edited scene has must
be there, where it is to be, and nothing else. The rest is what the edit does not touch, as it is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from renderer.demo import judge
from renderer.demo.train.draw import Atlas, draw
from renderer.demo.train.edits import DrawnEdit
from renderer.demo.train.placing import CELL, THINGS, WORD
from renderer.demo.train.scenes import SHAPES

NEAR = 0.06
"""How far from its place the middle of a shape may be, as a share of the sides."""

AROUND = 8
"""Pixels around what an edit changes that are not counted to the rest: the width of a latent."""

LEAST_REST = 0.01
"""Of a picture's pixels: where less of it stays, nothing is said of the rest."""

MOST_LEFT = 0.2
"""Of the pixels of something that is to be gone: how many of them may be something else than what was behind."""

_CHANGED = 0.02
_INK = 0.02


@dataclass(frozen=True, slots=True)
class EditVerdict:
    """Whether all that was asked for is there, and how much like before the rest is, in decibels (PSNR).

    `rest_db` is None where the edit leaves no rest.
    """

    right: bool
    rest_db: float | None


def judge_edit(picture: Tensor, edit: DrawnEdit, atlas: Atlas, touched: Tensor | None = None) -> EditVerdict:
    """Compare a picture from 0 to 1, 3 x height x width, with the edit that was asked for.

    `touched`, height x width, is what may be drawn anew; without, it is what the edit changes, and a little around.
    """
    _, height, width = picture.shape
    before, after = draw(torch.tensor([edit.numbers, edit.wanted]), width, height, atlas)
    right = _is_right(picture, edit, after)
    if edit.kind in {"remove", "unwrite"}:
        right = right and _is_gone(picture, before, after)
    return EditVerdict(right, _rest_db(picture, before, changes(before, after) if touched is None else touched))


def _is_right(picture: Tensor, edit: DrawnEdit, drawn: Tensor) -> bool:
    scene = edit.after
    background, ground = judge.read_background(picture, scene.background)
    if background != scene.background:
        return False
    box = None
    if scene.word is not None:
        letters, box = judge.read_word(picture)
        if letters != scene.word.letters or not _is_written_in(picture, edit, drawn):
            return False
    found = judge.read_things(picture, ground, box, scene.word)
    _, height, width = picture.shape
    wanted = [
        (thing, edit.wanted[part][1] / width, edit.wanted[part][2] / height)
        for part in THINGS
        if edit.wanted[part][0] >= 0
        for thing in [(SHAPES[int(edit.wanted[part][0])], judge.colour_of(edit.wanted[part][4:7]))]
    ]
    return len(found) == len(wanted) and all(
        any((each.shape, each.colour) == thing and abs(each.x - x) < NEAR and abs(each.y - y) < NEAR for each in found)
        for thing, x, y in wanted
    )


def _is_gone(picture: Tensor, before: Tensor, after: Tensor) -> bool:
    """Whether nearly all of what was there is background now: little letters are no things beside a large shape."""
    changed = (before - after).norm(dim=0) > judge.STANDS_OUT
    return bool(((picture - after).norm(dim=0)[changed] > judge.STANDS_OUT).float().mean() < MOST_LEFT)


def _is_written_in(picture: Tensor, edit: DrawnEdit, drawn: Tensor) -> bool:
    """Whether letters have their colour, where they are drawn whole."""
    assert edit.after.word is not None
    word = edit.wanted[WORD]
    left, top = int(word[0]), int(word[1])
    box = slice(top, top + CELL), slice(left, left + CELL * len(edit.after.word.letters))
    ink = torch.tensor(word[2:5])
    whole = (drawn[:, *box] - ink[:, None, None]).abs().amax(0) < _INK
    return judge.colour_of(picture[:, *box][:, whole].median(1).values.tolist()) == judge.colour_of(ink.tolist())


def changes(before: Tensor, after: Tensor) -> Tensor:
    """Where two pictures differ, and `AROUND` that: height x width, true or false."""
    changed = ((before - after).abs().amax(0) > _CHANGED).float()[None, None]
    return functional.max_pool2d(changed, 2 * AROUND + 1, 1, AROUND)[0, 0] > 0


def _rest_db(picture: Tensor, before: Tensor, touched: Tensor) -> float | None:
    rest = ~touched
    if rest.float().mean() < LEAST_REST:
        return None
    given = (before * 255).round() / 255
    return float(-10 * (picture - given)[:, rest].square().mean().clamp(min=1e-10).log10())
