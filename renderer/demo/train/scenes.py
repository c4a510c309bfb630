"""What a picture shows, drawn by lot, and which combinations are kept out of training.

A scene is a background, at most two shapes, and at most one word, which may stand on a sign. Knows no sizes, no pixels
and no prompts.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

COLOURS = {
    "red": (215, 30, 40),
    "orange": (255, 140, 0),
    "yellow": (255, 222, 40),
    "green": (30, 150, 60),
    "blue": (30, 75, 210),
    "purple": (120, 40, 160),
    "pink": (255, 140, 190),
    "brown": (120, 70, 30),
    "black": (16, 16, 16),
    "white": (250, 250, 250),
    "grey": (128, 128, 128),
    "cyan": (40, 205, 220),
}
"""The colours that prompts name, as they are drawn."""

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "crescent")
SCENE_SIZES = ("small", "medium", "large")
PLACES = ("centre", "left", "right", "top", "bottom", "top left", "top right", "bottom left", "bottom right")
RELATIONS = ("left", "right", "above", "below")
SCENE_ROWS = ("top", "centre", "bottom")
BACKGROUNDS = ("plain", "gradient", "horizontal gradient", "stripes", "horizontal stripes", "dots", "checks")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LONGEST_WORD = 8

_COMMON_LETTERS = "EEEEEAAAAIIIOOOOUUTTTTNNNNSSSSRRRRLLLDDDHHCCMMPPGGBBFFWWYYKKVVXJQZ"
_REAL_WORDS = (
    "OPEN SALE HELLO STOP EXIT WELCOME COFFEE PIZZA MUSIC PLAY HOME LOVE MOON STAR SUN BLUE GREEN RED PINK GOLD "
    "SALT TEA BAR CAFE HOTEL TAXI BUS TRAIN METRO BANK SHOP BOOK BREAD MILK FRESH FRUIT APPLE LEMON BERRY PEACH "
    "WATER FIRE EARTH WIND SNOW RAIN STORM CLOUD RIVER OCEAN BEACH ISLAND FOREST GARDEN FLOWER SPRING SUMMER WINTER "
    "AUTUMN NIGHT DAY WEEK MONTH YEAR NEW FREE BEST HAPPY SMILE DREAM DANCE PARTY FESTIVAL CONCERT CINEMA THEATRE "
    "MUSEUM GALLERY ART DESIGN STUDIO PAINT PAPER PENCIL SCHOOL LESSON SCIENCE SPACE ROCKET PLANET GALAXY ROBOT "
    "FUTURE POWER ENERGY SPEED RACE SPORT GAME TEAM WINNER GOAL YES NO OK GO ON OFF UP DOWN LEFT RIGHT PUSH PULL "
    "ENTER CLOSED PARKING TICKET TRAVEL FLIGHT VISIT PARIS TOKYO LONDON BERLIN ROME CAIRO LIMA OSLO DELHI MADRID "
    "SALAD SOUP NOODLE KITCHEN BAKERY MARKET STREET BRIDGE TOWER CASTLE HOUSE ROOM DOOR WINDOW TABLE CHAIR LIGHT "
    "SHADOW COLOUR SILVER COPPER BRONZE WOOD STONE GLASS METAL FABRIC COTTON LINEN WOOL SILK VELVET QUIET LOUD JAZZ "
    "ROCK POP FOLK OPERA ZEBRA FOX WOLF BEAR LION TIGER EAGLE HORSE SHEEP PANDA KOALA WHALE SHARK QUEEN KING JOKER "
    "MAGIC WIZARD DRAGON VOYAGE"
)
WORDS = tuple(_REAL_WORDS.split())


@dataclass(frozen=True, slots=True)
class Background:
    """A kind of `BACKGROUNDS` and its colours: one if plain, else two; of dots, the ground's comes first."""

    kind: str
    colours: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape with its colour, size and place. In a relation or beside a word, the place follows from those."""

    shape: str
    colour: str
    size: str = "medium"
    place: str = "centre"


@dataclass(frozen=True, slots=True)
class Word:
    """A word in capitals, the row it stands in, its colour where the prompt names one, and its sign's colour."""

    letters: str
    row: str = "centre"
    colour: str | None = None
    sign: str | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows. With two things, the first is `relation` of the second."""

    background: Background
    things: tuple[Thing, ...] = ()
    relation: str | None = None
    word: Word | None = None


def is_held_out(scene: Scene) -> bool:
    """Whether any of a scene's combinations is one that training never shows. About a tenth of each kind are.

    The combinations: shape with its colour and its background; two shapes with their colours and relation; a word.
    """
    keys = [f"{thing.shape}/{thing.colour}/{'/'.join(scene.background.colours)}" for thing in scene.things]
    if scene.relation is not None:
        first, second = scene.things
        keys = [f"{first.colour} {first.shape} {scene.relation} {second.colour} {second.shape}"]
    if scene.word is not None:
        keys.append(scene.word.letters)
    return any(_is_chosen(key) for key in keys)


def _is_chosen(key: str) -> bool:
    return zlib.crc32(key.encode()) % 10 == 0


def draw_scene(rng: random.Random, longest_word: int = LONGEST_WORD) -> Scene:
    """A scene of any kind, by lot; held-out ones as well. `longest_word` is what the picture's width has room for."""
    lot = rng.random()
    if lot < 0.28:
        return draw_single(rng)
    if lot < 0.50:
        return draw_pair(rng)
    if lot < 0.95:
        return draw_word(rng, longest_word)
    return Scene(_background(rng, plain=0.15))


def draw_training_scene(rng: random.Random, longest_word: int = LONGEST_WORD) -> Scene:
    """A scene that training may show."""
    while is_held_out(scene := draw_scene(rng, longest_word)):
        pass
    return scene


def draw_single(rng: random.Random, plain: float = 0.62) -> Scene:
    """One shape on a background, which is of one colour with the probability `plain`."""
    background = _background(rng, plain)
    place = "centre" if rng.random() < 0.25 else rng.choice(PLACES)
    thing = Thing(rng.choice(SHAPES), _other_colour(rng, background.colours), rng.choice(SCENE_SIZES), place)
    return Scene(background, (thing,))


def draw_pair(rng: random.Random, plain: float = 0.8) -> Scene:
    """Two shapes, one beside or above the other, different in shape or colour; some with a word above or below."""
    background = _background(rng, plain)
    first = second = _one_of_two(rng, background)
    while (second.shape, second.colour) == (first.shape, first.colour):
        second = _one_of_two(rng, background)
    return Scene(background, (first, second), rng.choice(RELATIONS))


def draw_word(rng: random.Random, longest: int = LONGEST_WORD, letters: str | None = None) -> Scene:
    """A word: alone, on a sign, above or below a shape, or with two shapes beside each other."""
    letters = letters or _letters(rng, longest)
    background = _background(rng, plain=0.8, kinds=("gradient", "horizontal gradient"))
    colour = _other_colour(rng, background.colours) if rng.random() < 0.4 else None
    lot = rng.random()
    if lot < 0.4:
        row = "centre" if rng.random() < 0.5 else rng.choice(SCENE_ROWS)
        return Scene(background, word=Word(letters, row, colour))
    if lot < 0.55:
        row = "centre" if rng.random() < 0.6 else rng.choice(SCENE_ROWS)
        sign = _other_colour(rng, background.colours)
        written = _other_colour(rng, (sign,)) if colour else None
        return Scene(background, word=Word(letters, row, written, sign))
    row = "bottom" if rng.random() < 0.65 else "top"
    word = Word(letters, row, colour)
    if lot < 0.93:
        thing = Thing(rng.choice(SHAPES), _other_colour(rng, background.colours), rng.choice(SCENE_SIZES))
        return Scene(background, (thing,), word=word)
    first, second = _one_of_two(rng, background), _one_of_two(rng, background)
    if (second.shape, second.colour) == (first.shape, first.colour):
        return Scene(background, (first,), word=word)
    return Scene(background, (first, second), rng.choice(RELATIONS[:2]), word)


def contrasting(colours: tuple[str, ...]) -> str:
    """Black or white, whichever is easier to read on `colours`."""
    brightness = [0.3 * r + 0.59 * g + 0.11 * b for r, g, b in (COLOURS[colour] for colour in colours)]
    return "black" if sum(brightness) / len(brightness) > 115 else "white"


def _letters(rng: random.Random, longest: int) -> str:
    if rng.random() < 0.25:
        fitting = [word for word in WORDS if len(word) <= longest]
        return rng.choice(fitting)
    length = rng.choices(range(1, longest + 1), weights=[2, 3, 6, 8, 9, 8, 8, 8][:longest])[0]
    letters = LETTERS if rng.random() < 0.5 else _COMMON_LETTERS
    return "".join(rng.choice(letters) for _ in range(length))


def _one_of_two(rng: random.Random, background: Background) -> Thing:
    size = rng.choices(SCENE_SIZES, weights=[15, 70, 15])[0]
    return Thing(rng.choice(SHAPES), _other_colour(rng, background.colours), size)


def _background(rng: random.Random, plain: float, kinds: tuple[str, ...] = BACKGROUNDS[1:]) -> Background:
    first = rng.choice(tuple(COLOURS))
    if rng.random() < plain:
        return Background("plain", (first,))
    return Background(rng.choice(kinds), (first, _other_colour(rng, (first,))))


def _other_colour(rng: random.Random, taken: tuple[str, ...]) -> str:
    return rng.choice([colour for colour in COLOURS if colour not in taken])
