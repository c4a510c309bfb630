"""Edits, drawn by lot: a scene, what is asked for, and the scene as it is to be, each in numbers for `draw`.

What is not asked for stays where it was, to the pixel. An edit whose scene before or after has a combination that is
held out (`scenes.is_held_out`) is never trained on. Knows no pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from renderer.demo.train import edit_phrases, placing, scenes
from renderer.demo.train.edit_phrases import EditKind
from renderer.demo.train.placing import BACKGROUND, CELL, RADIUS, SIGN, THINGS, WORD
from renderer.demo.train.scenes import COLOURS, PLACES, SCENE_ROWS, SHAPES, Background, Scene, Thing, Word

EDIT_SIZES = ((256, 256), (320, 224), (224, 320), (352, 192), (192, 352), (288, 224), (224, 288))
"""Widths and heights that training shows, the first one most of the time: what DiffSynth brings pictures to."""

APART = 8
"""Pixels between what is there and what is added."""

_WEIGHTS: dict[EditKind, int] = {
    "recolour": 22,
    "remove": 16,
    "reshape": 12,
    "move": 10,
    "add": 14,
    "rewrite": 24,
    "write": 8,
    "unwrite": 8,
    "ink": 6,
    "background": 10,
}
"""How often each kind is drawn where it can be."""

_TRAINING_WEIGHTS: dict[EditKind, int] = {**_WEIGHTS, "remove": 20, "reshape": 22, "move": 16, "ink": 10}

_PAIRS, _TWINS = 0.35, 0.35
"""How many pictures that training shows have two shapes, besides those by lot; how many of these are of one kind.

Which of two shapes is meant is learned last.
"""

EDIT_KINDS = tuple(_WEIGHTS)


@dataclass(frozen=True, slots=True)
class DrawnEdit:
    """A picture's scene and numbers before and after, and the words that ask for it."""

    kind: EditKind
    prompt: str
    before: Scene
    after: Scene
    numbers: tuple[float, ...]
    wanted: tuple[float, ...]

    @property
    def is_held_out(self) -> bool:
        """Whether training never shows it."""
        return scenes.is_held_out(self.before) or scenes.is_held_out(self.after)


def draw_edit(rng: random.Random, width: int, height: int, kinds: tuple[EditKind, ...] = ()) -> DrawnEdit:
    """An edit of any of some kinds, by lot, of a picture of a size; held-out ones as well."""
    weights = {kind: weight for kind, weight in _WEIGHTS.items() if not kinds or kind in kinds}
    found = None
    while found is None:
        found = _edited(scenes.draw_scene(rng, placing.longest_word(width)), width, height, weights, rng)
    return found


def _edited(
    scene: Scene, width: int, height: int, weights: dict[EditKind, int], rng: random.Random
) -> DrawnEdit | None:
    """An edit of a scene, by lot; None where there is no room for it, or the scene has nothing for it."""
    numbers = placing.arrange(scene, width, height, rng)
    able = {kind: weight for kind, weight in weights.items() if _suits(kind, scene)}
    if not able:
        return None
    (kind,) = rng.choices(list(able), list(able.values()))
    return _EDITORS[kind](_Picture(scene, tuple(numbers), width, height), rng)


def draw_training_edit(rng: random.Random, width: int, height: int) -> DrawnEdit:
    """An edit that training may show; the hard ones more often than by lot."""
    found = None
    while found is None or found.is_held_out:
        found = _edited(_training_scene(rng, placing.longest_word(width)), width, height, _TRAINING_WEIGHTS, rng)
    return found


def _training_scene(rng: random.Random, longest_word: int) -> Scene:
    if rng.random() >= _PAIRS:
        return scenes.draw_scene(rng, longest_word)
    scene = scenes.draw_pair(rng)
    first, second = scene.things
    if rng.random() >= _TWINS or first.colour == second.colour:
        return scene
    return replace(scene, things=(first, replace(second, shape=first.shape)))


def draw_held_out_edit(rng: random.Random, width: int, height: int, kinds: tuple[EditKind, ...] = ()) -> DrawnEdit:
    """An edit that training never shows."""
    while not (found := draw_edit(rng, width, height, kinds)).is_held_out:
        pass
    return found


@dataclass(frozen=True, slots=True)
class _Picture:
    scene: Scene
    numbers: tuple[float, ...]
    width: int
    height: int

    def with_thing(self, place: int, numbers: list[float]) -> tuple[float, ...]:
        found = list(self.numbers)
        found[THINGS[place]] = numbers
        return tuple(found)

    def edited(self, kind: EditKind, prompt: str, after: Scene, wanted: tuple[float, ...]) -> DrawnEdit:
        return DrawnEdit(kind, prompt, self.scene, after, self.numbers, wanted)

    def rewritten(self, after: Scene) -> tuple[float, ...]:
        """The numbers with another word and its sign; shapes stay."""
        found = placing.arrange(after, self.width, self.height, random.Random(0))  # nothing of it is by lot
        for part in (BACKGROUND, *THINGS):
            found[part] = self.numbers[part]
        return tuple(found)


def _suits(kind: EditKind, scene: Scene) -> bool:
    things, word = scene.things, scene.word
    match kind:
        case "recolour" | "remove" | "reshape":
            return bool(things)
        case "move":
            return len(things) == 1 and word is None
        case "add":
            return len(things) < 2 and scene.relation is None  # two have numbers
        case "rewrite" | "unwrite" | "ink":
            return word is not None
        case "write":
            return word is None and scene.background.kind in {"plain", "gradient", "horizontal gradient"}
        case "background":
            return scene.background.kind == "plain"


def _taken(scene: Scene) -> set[str]:
    """Colours that something has already."""
    taken = {*scene.background.colours, *(thing.colour for thing in scene.things)}
    if scene.word is not None:
        taken |= {colour for colour in (scene.word.colour, scene.word.sign) if colour}
    return taken


def _other(rng: random.Random, taken: set[str]) -> str:
    return rng.choice([colour for colour in COLOURS if colour not in taken])


def _with(scene: Scene, place: int, thing: Thing) -> Scene:
    things = list(scene.things)
    things[place] = thing
    return replace(scene, things=tuple(things))


def _recolour(picture: _Picture, rng: random.Random) -> DrawnEdit | None:
    scene, place = picture.scene, rng.randrange(len(picture.scene.things))
    thing = scene.things[place]
    colour = _other(rng, {*scene.background.colours, *(each.colour for each in scene.things)})
    numbers = list(picture.numbers[THINGS[place]])
    numbers[4:7] = _rgb(colour)
    after = _with(scene, place, replace(thing, colour=colour))
    prompt = edit_phrases.recolour(scene, thing, colour, rng)
    return picture.edited("recolour", prompt, after, picture.with_thing(place, numbers))


def _remove(picture: _Picture, rng: random.Random) -> DrawnEdit | None:
    scene, place = picture.scene, rng.randrange(len(picture.scene.things))
    thing = scene.things[place]
    after = replace(scene, things=tuple(each for each in scene.things if each is not thing), relation=None)
    prompt = edit_phrases.remove(scene, thing, rng)
    return picture.edited("remove", prompt, after, picture.with_thing(place, [-1.0, 0, 0, 1, 0, 0, 0]))


def _reshape(picture: _Picture, rng: random.Random) -> DrawnEdit | None:
    scene, place = picture.scene, rng.randrange(len(picture.scene.things))
    thing = scene.things[place]
    others = {each.shape for each in scene.things}
    shape = rng.choice([each for each in SHAPES if each not in others])
    numbers = list(picture.numbers[THINGS[place]])
    numbers[0] = float(SHAPES.index(shape))
    after = _with(scene, place, replace(thing, shape=shape))
    prompt = edit_phrases.reshape(scene, thing, shape, rng)
    return picture.edited("reshape", prompt, after, picture.with_thing(place, numbers))


def _move(picture: _Picture, rng: random.Random) -> DrawnEdit | None:
    (thing,) = picture.scene.things
    place = rng.choice([each for each in PLACES if each != thing.place])
    moved = replace(thing, place=place)
    numbers = list(picture.numbers[THINGS[0]])
    numbers[1:3] = _middle(picture, moved)
    prompt = edit_phrases.move(picture.scene, thing, place, rng)
    return picture.edited("move", prompt, _with(picture.scene, 0, moved), picture.with_thing(0, numbers))


def _add(picture: _Picture, rng: random.Random) -> DrawnEdit | None:
    scene = picture.scene
    there = {thing.shape for thing in scene.things}
    shape = rng.choice([each for each in SHAPES if each not in there])
    size = rng.choice(("small", "medium", "medium"))
    thing = Thing(shape, _other(rng, _taken(scene)), size, rng.choice(PLACES))
    x, y = _middle(picture, thing)
    radius = RADIUS[size] * min(picture.width, picture.height)
    if _collides(picture, (x - radius, y - radius, x + radius, y + radius)):
        return None
    numbers = [float(SHAPES.index(shape)), x, y, radius, *_rgb(thing.colour)]
    after = replace(scene, things=(*scene.things, thing))
    prompt = edit_phrases.add(thing, rng)
    return picture.edited("add", prompt, after, picture.with_thing(len(scene.things), numbers))


def _rewrite(picture: _Picture, rng: random.Random) -> DrawnEdit | None:
    scene, word = picture.scene, picture.scene.word
    assert word is not None
    letters = _letters(picture, rng)
    if letters == word.letters:
        return None
    after = replace(scene, word=replace(word, letters=letters))
    return picture.edited("rewrite", edit_phrases.rewrite(word, letters, rng), after, picture.rewritten(after))


def _write(picture: _Picture, rng: random.Random) -> DrawnEdit | None:
    scene = picture.scene
    colour = _other(rng, _taken(scene)) if rng.random() < 0.4 else None
    word = Word(_letters(picture, rng), rng.choice(SCENE_ROWS), colour)
    after = replace(scene, word=word)
    wanted = picture.rewritten(after)
    left, top = wanted[WORD][:2]
    if _collides(picture, (left, top, left + CELL * len(word.letters), top + CELL)):
        return None
    return picture.edited("write", edit_phrases.write(word, rng), after, wanted)


def _unwrite(picture: _Picture, rng: random.Random) -> DrawnEdit | None:
    word = picture.scene.word
    assert word is not None
    after = replace(picture.scene, word=None)
    return picture.edited("unwrite", edit_phrases.unwrite(word, rng), after, picture.rewritten(after))


def _ink(picture: _Picture, rng: random.Random) -> DrawnEdit | None:
    scene, word = picture.scene, picture.scene.word
    assert word is not None
    colour = _other(rng, _taken(scene) | {"black", "white"})
    after = replace(scene, word=replace(word, colour=colour))
    return picture.edited("ink", edit_phrases.ink(word, colour, rng), after, picture.rewritten(after))


def _background(picture: _Picture, rng: random.Random) -> DrawnEdit | None:
    scene = picture.scene
    colour = _other(rng, _taken(scene))
    after = replace(scene, background=Background("plain", (colour,)))
    word = scene.word
    if word and not word.sign and not word.colour:
        old, new = (scenes.contrasting(each.background.colours) for each in (scene, after))
        if old != new:  # its letters would change as well
            return None
    wanted = list(picture.numbers)
    wanted[BACKGROUND] = [0.0, *_rgb(colour), *_rgb(colour)]
    return picture.edited("background", edit_phrases.background(colour, rng), after, tuple(wanted))


_EDITORS: dict[EditKind, Callable[[_Picture, random.Random], DrawnEdit | None]] = {
    "recolour": _recolour,
    "remove": _remove,
    "reshape": _reshape,
    "move": _move,
    "add": _add,
    "rewrite": _rewrite,
    "write": _write,
    "unwrite": _unwrite,
    "ink": _ink,
    "background": _background,
}


def _middle(picture: _Picture, thing: Thing) -> list[float]:
    """Where a shape stands that is alone: on the grid of latents, and nothing of it by lot."""
    alone = Scene(picture.scene.background, (thing,))
    ((x, y, _),) = placing.thing_places(alone, picture.width, picture.height)
    return [float(round(value / placing.STEP) * placing.STEP) for value in (x, y)]


def _letters(picture: _Picture, rng: random.Random) -> str:
    found = scenes.draw_word(rng, placing.longest_word(picture.width)).word
    assert found is not None
    return found.letters


def _collides(picture: _Picture, box: tuple[float, float, float, float]) -> bool:
    """Whether a box would touch what is there."""
    left, top, right, bottom = box
    others: list[tuple[float, ...]] = []
    for part in THINGS:
        shape, x, y, radius = picture.numbers[part][:4]
        if shape >= 0:
            others.append((x - radius, y - radius, x + radius, y + radius))
    if picture.scene.word is not None:
        word = picture.numbers[WORD]
        others.append((word[0], word[1], word[0] + CELL * len(picture.scene.word.letters), word[1] + CELL))
        others.append(tuple(picture.numbers[SIGN][:4]))
    return any(
        left < other[2] + APART and right > other[0] - APART and top < other[3] + APART and bottom > other[1] - APART
        for other in others
        if other[2] > other[0]
    )


def _rgb(colour: str) -> list[float]:
    return [value / 255 for value in COLOURS[colour]]
