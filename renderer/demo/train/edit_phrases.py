"""What is asked of an edit, in words: English, in several phrasings, drawn by lot.

A shape is named by its kind where that tells which one is meant, else by its colour as well. Knows nothing of pixels.
"""

from __future__ import annotations

import random
from typing import Literal

from renderer.demo.train.scenes import Scene, Thing, Word

EditKind = Literal[
    "recolour", "remove", "reshape", "move", "add", "rewrite", "write", "unwrite", "ink", "background"
]  # fmt: skip
"""Of a shape: another colour, none, another shape, another place, one more. Of a word: another, one more, none, another
colour. And a plain background's colour."""

_ROWS = {"top": "at the top", "centre": "in the centre", "bottom": "at the bottom"}
_SIZES = {"small": ("small", "small", "tiny"), "medium": ("",), "large": ("large", "big")}


def recolour(scene: Scene, thing: Thing, colour: str, rng: random.Random) -> str:
    """Ask for another colour of a shape."""
    what, hue = _named(scene, thing, rng), _hue(colour, rng)
    first = f"make {what} {hue}"
    return _spoken(
        (first, first, f"change {what} to {hue}", f"turn {what} {hue}", f"paint {what} {hue}",
         f"change the {rng.choice(('colour', 'color'))} of {what} to {hue}"), rng,
    )  # fmt: skip


def remove(scene: Scene, thing: Thing, rng: random.Random) -> str:
    """Ask that a shape be gone."""
    what = _named(scene, thing, rng)
    return _spoken((f"remove {what}",) * 3 + (f"delete {what}", f"erase {what}"), rng)


def reshape(scene: Scene, thing: Thing, shape: str, rng: random.Random) -> str:
    """Ask for another shape in a shape's place, of its colour."""
    what, other = _named(scene, thing, rng), _article(_shape(shape, rng))
    return _spoken(
        (f"replace {what} by {other}", f"replace {what} with {other}", f"turn {what} into {other}",
         f"change {what} into {other}", f"make {what} {other}"), rng,
    )  # fmt: skip


def move(scene: Scene, thing: Thing, place: str, rng: random.Random) -> str:
    """Ask for another place of a shape."""
    what, where = _named(scene, thing, rng), _place(place, rng)
    onto = f"move {what} to the {where}"
    side = "on" if place in {"left", "right"} else "at" if place in {"top", "bottom"} else "in"
    return _spoken((onto, onto, f"put {what} {side} the {where}"), rng)


def add(thing: Thing, rng: random.Random) -> str:
    """Ask for one more shape."""
    size, colour = rng.choice(_SIZES[thing.size]), _hue(thing.colour, rng)
    what = _article(f"{size} {colour} {_shape(thing.shape, rng)}".strip())
    side = "on" if thing.place in {"left", "right"} else "at" if thing.place in {"top", "bottom"} else "in"
    where = f"{side} the {_place(thing.place, rng)}"
    return _spoken((f"add {what} {where}",) * 3 + (f"put {what} {where}", f"draw {what} {where}"), rng)


def rewrite(word: Word, letters: str, rng: random.Random) -> str:
    """Ask for another word in a word's place."""
    new, old = f'"{letters}"', f'"{word.letters}"'
    what = rng.choice(("the text", "the text", "the word", *(("the sign",) if word.sign else ())))
    if what == "the sign":
        return _spoken((f"make the sign say {new}", f"the sign says {new}", f"change the sign to {new}"), rng)
    return _spoken(
        (f"replace {what} by {new}", f"replace {what} with {new}", f"change {what} to {new}", f"make {what} say {new}",
         f"replace {old} by {new}", f"replace {old} with {new}", f"change {old} to {new}", f"write {new} instead",
         f"{what} says {new}"), rng,
    )  # fmt: skip


def write(word: Word, rng: random.Random) -> str:
    """Ask for a word where there is none."""
    new, row = f'"{word.letters}"', _ROWS[word.row]
    ink = rng.choice((f" in {word.colour}", f" in {word.colour} letters")) if word.colour else ""
    what = rng.choice((f"the text {new}", f"the word {new}", new))
    return _spoken((f"add {what}{ink} {row}", f"write {new}{ink} {row}", f"put {what}{ink} {row}"), rng)


def unwrite(word: Word, rng: random.Random) -> str:
    """Ask that a word be gone, with the sign that it stands on."""
    if word.sign:
        return _spoken(("remove the sign", "erase the sign", "delete the sign"), rng)
    return _spoken(
        ("remove the text", "remove the text", "erase the text", "remove the word", "delete the text",
         f'remove "{word.letters}"', f'remove the text "{word.letters}"'), rng,
    )  # fmt: skip


def ink(word: Word, colour: str, rng: random.Random) -> str:
    """Ask for another colour of a word."""
    what, hue = rng.choice(("the text", "the text", "the letters", "the word")), _hue(colour, rng)
    return _spoken(
        (f"make {what} {hue}", f"make {what} {hue}", f"change {what} to {hue}", f"write {what} in {hue}",
         f'make "{word.letters}" {hue}', f"change the {rng.choice(('colour', 'color'))} of {what} to {hue}"), rng,
    )  # fmt: skip


def background(colour: str, rng: random.Random) -> str:
    """Ask for another plain background."""
    hue = _hue(colour, rng)
    return _spoken(
        (f"make the background {hue}", f"make the background {hue}", f"change the background to {hue}",
         f"turn the background {hue}", f"replace the background with {hue}", f"replace the background by plain {hue}",
         f"put it on {_article(hue)} background"), rng,
    )  # fmt: skip


def _spoken(choices: tuple[str, ...], rng: random.Random) -> str:
    prompt = rng.choice(choices)
    if rng.random() < 0.3:
        prompt = prompt[0].upper() + prompt[1:]
    lot = rng.random()
    return prompt + ("." if lot < 0.12 else ", keep everything" if lot < 0.16 else "")


def _named(scene: Scene, thing: Thing, rng: random.Random) -> str:
    """A shape as it is told from the others."""
    alone = sum(each.shape == thing.shape for each in scene.things) == 1
    if len(scene.things) == 1 and rng.random() < 0.1:
        return "the shape"
    if alone and rng.random() < 0.6:
        return f"the {_shape(thing.shape, rng)}"
    return f"the {_hue(thing.colour, rng)} {_shape(thing.shape, rng)}"


def _shape(shape: str, rng: random.Random) -> str:
    return rng.choice((shape, shape, "moon")) if shape == "crescent" else shape


def _hue(colour: str, rng: random.Random) -> str:
    return rng.choice((colour, colour, "gray")) if colour == "grey" else colour


def _place(place: str, rng: random.Random) -> str:
    if " " in place:
        return rng.choice((f"{place} corner", place))
    return rng.choice(("centre", "center", "middle")) if place == "centre" else place


def _article(words: str) -> str:
    return ("an " if words[0] in "aeio" else "a ") + words
