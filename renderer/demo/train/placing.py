"""A scene and a size become numbers: where each thing stands, how large, in which colour.

All positions are in pixels, with the picture's top left corner at 0, 0. Letters stand in cells of 32 by 32 pixels whose
corners are multiples of 16, the width of one of the DiT's patches: a letter looks the same to it wherever it stands.
"""

from __future__ import annotations

import random

from renderer.demo.train.scenes import BACKGROUNDS, COLOURS, LETTERS, LONGEST_WORD, SHAPES, Scene, Thing, contrasting

CELL = 32
GRID = 16
STEP = 8
RADIUS = {"small": 0.11, "medium": 0.185, "large": 0.28}  # of the shorter side
RADIUS_BY_WORD = {"small": 0.10, "medium": 0.16, "large": 0.22}
RADIUS_IN_PAIR = {"small": 0.10, "medium": 0.155, "large": 0.195}
MARGIN = 10

# The numbers of one scene, in order. Colours are red, green, blue from 0 to 1.
BACKGROUND = slice(0, 7)  # kind, two colours
THINGS = (slice(7, 14), slice(14, 21))  # shape or -1, centre x, centre y, radius, colour
SIGN = slice(21, 28)  # left, top, right, bottom, colour; right is 0 where there is none
WORD = slice(28, 41)  # left, top, colour, then eight letters or -1
NUMBERS = 41


def longest_word(width: int) -> int:
    """How many letters a picture has room for."""
    return min(LONGEST_WORD, width // CELL)


def arrange(scene: Scene, width: int, height: int, rng: random.Random) -> list[float]:
    """The `NUMBERS` of one scene at a size, with shapes a little off their places, by lot: half of them 8 pixels.

    Shapes' centres are multiples of 8, the width of a latent: there are fewer ways to be cut into patches to learn.
    """
    colours = scene.background.colours
    numbers = [float(BACKGROUNDS.index(scene.background.kind)), *_rgb(colours[0]), *_rgb(colours[-1])]
    places = thing_places(scene, width, height)
    for thing, (x, y, radius) in zip(scene.things, places, strict=True):
        off = (-STEP, 0, STEP) if rng.random() < 0.5 else (0,)
        centre = [round((middle + rng.choice(off)) / STEP) * STEP for middle in (x, y)]
        numbers += [float(SHAPES.index(thing.shape)), *centre, radius, *_rgb(thing.colour)]
    numbers += [-1.0, 0, 0, 1, 0, 0, 0] * (2 - len(scene.things))
    word = scene.word
    if word is None:
        return numbers + [0.0] * 12 + [-1.0] * LONGEST_WORD
    left, top = word_corner(scene, width, height)
    if word.sign is None:
        numbers += [0.0] * 7
        written = word.colour or contrasting(colours)
    else:
        right = left + CELL * len(word.letters)
        numbers += [max(2, left - 16), max(2, top - 16), min(width - 2, right + 16), min(height - 2, top + CELL + 16)]
        numbers += _rgb(word.sign)
        written = word.colour or contrasting((word.sign,))
    letters = [float(LETTERS.index(letter)) for letter in word.letters]
    return [*numbers, left, top, *_rgb(written), *letters, *[-1.0] * (LONGEST_WORD - len(letters))]


def word_corner(scene: Scene, width: int, height: int) -> tuple[int, int]:
    """The left and top of a word's first cell, both multiples of 16."""
    assert scene.word is not None
    left = (width - CELL * len(scene.word.letters)) // 2 // GRID * GRID
    middle = {"top": 0.18, "centre": 0.5, "bottom": 0.82}[scene.word.row] * height
    return left, round((middle - CELL / 2) / GRID) * GRID


def thing_places(scene: Scene, width: int, height: int) -> list[tuple[float, float, float]]:
    """Centre and radius of each thing, before any lot."""
    side = min(width, height)
    if scene.relation is not None:
        return _pair(scene, width, height)
    if not scene.things:
        return []
    (thing,) = scene.things
    if scene.word is not None:
        _, top = word_corner(scene, width, height)
        middle = top / 2 if scene.word.row == "bottom" else (top + CELL + height) / 2
        return [(width / 2, middle + 4, RADIUS_BY_WORD[thing.size] * side)]
    return [_single(thing, width, height, side)]


def _single(thing: Thing, width: int, height: int, side: int) -> tuple[float, float, float]:
    radius = RADIUS[thing.size] * side
    near_x = max(0.2 * width, radius + MARGIN)
    near_y = max(0.2 * height, radius + MARGIN)
    words = thing.place.split()
    x = near_x if "left" in words else width - near_x if "right" in words else width / 2
    y = near_y if "top" in words else height - near_y if "bottom" in words else height / 2
    return x, y, radius


def _pair(scene: Scene, width: int, height: int) -> list[tuple[float, float, float]]:
    first, second = (RADIUS_IN_PAIR[thing.size] * min(width, height) for thing in scene.things)
    middle_y = height / 2
    if scene.word is not None:
        _, top = word_corner(scene, width, height)
        middle_y = (top / 2 if scene.word.row == "bottom" else (top + CELL + height) / 2) + 4
    before, after = (0.28, 0.72) if scene.relation in {"left", "above"} else (0.72, 0.28)
    if scene.relation in {"left", "right"}:
        return [(before * width, middle_y, first), (after * width, middle_y, second)]
    return [(width / 2, before * height, first), (width / 2, after * height, second)]


def _rgb(colour: str) -> list[float]:
    return [value / 255 for value in COLOURS[colour]]
