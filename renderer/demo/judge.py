"""Says what a picture shows, without knowing who drew it: colours, shapes, places, words.

Colours go by pixels, shapes by how far they overlap drawn templates, places by the middle of what stands out from the
background, words by matching cells against rendered glyphs. Knows the demo model's language (`train/scenes.py`), its
drawn shapes and letters, and nothing of models.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from renderer.demo.train.draw import BLUE, WHITE, Atlas, draw
from renderer.demo.train.placing import CELL, NUMBERS
from renderer.demo.train.scenes import BACKGROUNDS, COLOURS, LETTERS, SHAPES, Background, Scene, Thing, Word

STANDS_OUT = 0.2
"""How far a pixel's colour is from the background's where something stands, of 1.73 between black and white."""

LEAST_OVERLAP = 0.6
"""Below, it is no shape at all. Of thin ones, like a star, a pixel's difference along the edge takes a tenth."""

LEAST_MATCH = 0.6

LEAST_NEAR, MOSTLY, NEARLY_ALL = 0.2, 0.5, 0.85
"""How near a colour is to a blueprint's, what share of a blueprint is blue, and what share is blue or white."""

_SIDE = 48  # of a shape's normalised mask


@dataclass(frozen=True, slots=True)
class Verdict:
    """What of a scene is right in a picture; `None` where the scene says nothing of it.

    `relation` is true only where both shapes and colours are right too.
    """

    background: bool
    shape: bool | None = None
    colour: bool | None = None
    place: bool | None = None
    relation: bool | None = None
    word: bool | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """One thing that stands out: the shape and colour it is nearest to, and its middle as shares of the sides."""

    shape: str | None
    colour: str
    x: float
    y: float


def judge(picture: Tensor, scene: Scene) -> Verdict:
    """Compare a picture from 0 to 1, 3 x height x width, with what it should show."""
    found, ground = read_background(picture, scene.background)
    shape = colour = place = relation = word = box = None
    if scene.word is not None:
        letters, box = read_word(picture)
        word = letters == scene.word.letters
    things = read_things(picture, ground, box, scene.word) if scene.things else []
    if scene.relation is not None:
        relation = _is_related(things, scene)
    elif scene.things:
        (thing,) = scene.things
        best = things[0] if len(things) == 1 else None
        shape = best is not None and best.shape == thing.shape
        colour = best is not None and best.colour == thing.colour
        if scene.word is None:
            place = best is not None and _place(best) == thing.place
    return Verdict(found == scene.background, shape, colour, place, relation, word)


def is_blueprint(picture: Tensor) -> bool:
    """Whether a picture from 0 to 1 is white lines on blue, as the style's LoRA draws it."""
    blue, white = (torch.tensor(colour)[:, None, None] for colour in (BLUE, WHITE))
    near_blue, near_white = ((picture - colour).norm(dim=0) < LEAST_NEAR for colour in (blue, white))
    return bool(near_blue.float().mean() > MOSTLY and (near_blue | near_white).float().mean() > NEARLY_ALL)


def read_background(picture: Tensor, kind_of: Background) -> tuple[Background, Tensor]:
    """The background as it is, and as a picture of its own. What kind to look for is asked, as a viewer would know."""
    kind = kind_of.kind
    _, height, width = picture.shape
    if kind == "plain":
        colour = _frame(picture).median(1).values
        return Background(kind, (_nearest(colour),)), colour[:, None, None].expand_as(picture)
    if kind.endswith("gradient"):
        lines = picture if kind == "gradient" else picture.transpose(1, 2)
        first, last = (lines[:, rows].flatten(1).median(1).values for rows in (slice(0, 6), slice(-6, None)))
        share = ((torch.arange(lines.shape[1]) + 0.5) / lines.shape[1])[None, :, None]
        ground = (first[:, None, None] + (last - first)[:, None, None] * share).expand_as(lines)
        ground = ground if kind == "gradient" else ground.transpose(1, 2)
        return Background(kind, (_nearest(first), _nearest(last))), ground
    return _pattern(picture, width, height)


def _pattern(picture: Tensor, width: int, height: int) -> tuple[Background, Tensor]:
    names = _names(_frame(picture, 20))
    one, two = names.bincount(minlength=len(COLOURS)).topk(2).indices.tolist()
    values = torch.tensor(list(COLOURS.values())) / 255
    best = (-1.0, "", (0, 0), picture)
    drawn = _names(picture.flatten(1)).view(height, width)
    either = (drawn == one) | (drawn == two)
    for kind, pair in itertools.product(BACKGROUNDS[3:], ((one, two), (two, one))):
        numbers = torch.zeros(1, NUMBERS)
        numbers[:, 0], numbers[:, 1:4], numbers[:, 4:7] = BACKGROUNDS.index(kind), values[pair[0]], values[pair[1]]
        numbers[:, 7], numbers[:, 14], numbers[:, 33:] = -1, -1, -1
        ground = draw(numbers, width, height, _atlas())[0]
        agrees = (_names(ground.flatten(1)).view(height, width) == drawn) & either
        share = float(agrees.sum() / either.sum().clamp(min=1))
        if share > best[0]:
            best = (share, kind, pair, ground)
    _, kind, pair, ground = best
    names_of = tuple(COLOURS)
    return Background(kind, (names_of[pair[0]], names_of[pair[1]])), ground


def colour_of(values: Sequence[float]) -> str:
    """The name of the colour that is nearest to a pixel's red, green and blue from 0 to 1."""
    return _nearest(torch.tensor(values))


def read_things(picture: Tensor, ground: Tensor, box: tuple[int, int, int] | None, word: Word | None) -> list[Judged]:
    """What stands out from the background, letters and their sign left out; largest first."""
    mask = ((picture - ground).norm(dim=0) > STANDS_OUT).float()
    if box is not None and word is not None:
        left, top, right = box
        around = 20 if word.sign else 2
        mask[max(0, top - around) : top + CELL + around, max(0, left - around) : right + around] = 0
    mask = _open(mask)
    parts = _components(mask)
    parts = [part for part in parts if part.sum() > 0.002 * mask.numel()]
    parts = [part for part in parts if part.sum() > 0.1 * parts[0].sum()]
    return [_describe(part, picture) for part in parts]


def _describe(part: Tensor, picture: Tensor) -> Judged:
    rows, columns = part.any(1).nonzero(), part.any(0).nonzero()
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    mask = _normalised(part[top:bottom, left:right].float())
    aspect = (bottom - top) / (right - left)
    best: tuple[float, str | None] = (LEAST_OVERLAP, None)
    for shape, (template, its_aspect) in _templates().items():
        overlap = float((mask & template).sum() / (mask | template).sum())
        if overlap > best[0] and 0.75 < aspect / its_aspect < 1.33:  # noqa: PLR2004  # a third off is another shape
            best = (overlap, shape)
    core = -functional.max_pool2d(-part[None, None].float(), 5, 1, 2)[0, 0] > 0
    inside = core if core.any() else part
    colour = _nearest(picture[:, inside].median(1).values)
    height, width = part.shape
    return Judged(best[1], colour, (left + right) / 2 / width, (top + bottom) / 2 / height)


def read_word(picture: Tensor) -> tuple[str, tuple[int, int, int] | None]:
    """The word in a picture, cell by cell, and its left, top and right in pixels; empty where there is none."""
    step = 8
    cells = picture.unfold(1, CELL, step).unfold(2, CELL, step)  # 3 x down x across x 32 x 32
    down = cells.shape[1]
    cells = cells.permute(1, 2, 0, 3, 4)
    edges = torch.cat([cells[..., :3, :], cells[..., -3:, :]], -2).flatten(3)
    local = edges.median(-1).values[..., None, None]
    contrast = (cells - local).norm(dim=2)
    strength = contrast.flatten(2).amax(-1)
    flat = contrast.flatten(2)
    flat = flat - flat.mean(-1, keepdim=True)
    flat = flat / flat.norm(dim=-1, keepdim=True).clamp(min=1e-3)
    glyphs = _atlas().letters.flatten(1)
    glyphs = glyphs - glyphs.mean(1, keepdim=True)
    matches = flat @ (glyphs / glyphs.norm(dim=1, keepdim=True)).T
    match, letter = matches.max(-1)
    match = torch.where(strength > 0.12, match, torch.zeros_like(match))  # noqa: PLR2004  # nothing to read
    best: tuple[float, list[tuple[int, int]]] = (0.0, [])
    for row in range(down):
        for phase in range(CELL // step):
            line = match[row, phase :: CELL // step].tolist()
            for is_letter, run in itertools.groupby(enumerate(line), key=lambda cell: cell[1] > LEAST_MATCH):
                cells_of_run = list(run)
                score = sum(value - LEAST_MATCH / 2 for _, value in cells_of_run)
                if is_letter and score > best[0]:
                    best = (score, [(row, phase + place * CELL // step) for place, _ in cells_of_run])
    if not best[1]:
        return "", None
    letters = "".join(LETTERS[int(letter[row, place])] for row, place in best[1])
    (row, first), (_, last) = best[1][0], best[1][-1]
    return letters, (first * step, row * step, last * step + CELL)


def _is_related(things: list[Judged], scene: Scene) -> bool:
    if len(things) != 2:  # noqa: PLR2004  # of a pair
        return False
    for one, other in (things, things[::-1]):
        if _fits(one, scene.things[0]) and _fits(other, scene.things[1]):
            across, down = other.x - one.x, other.y - one.y
            way = ("left" if across > 0 else "right") if abs(across) > abs(down) else "above" if down > 0 else "below"
            if way == scene.relation:
                return True
    return False


def _fits(found: Judged, thing: Thing) -> bool:
    return (found.shape, found.colour) == (thing.shape, thing.colour)


def _place(found: Judged) -> str:
    low, high = 0.4, 0.6
    row = "top" if found.y < low else "bottom" if found.y > high else ""
    column = "left" if found.x < low else "right" if found.x > high else ""
    return f"{row} {column}".strip() or "centre"


@cache
def _atlas() -> Atlas:
    return Atlas.make()


@cache
def _templates() -> dict[str, tuple[Tensor, float]]:
    templates = {}
    for shape, distances in zip(SHAPES, _atlas().shapes, strict=True):
        inside = distances < 0
        rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
        cut = inside[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
        templates[shape] = (_normalised(cut.float()), cut.shape[0] / cut.shape[1])
    return templates


def _normalised(mask: Tensor) -> Tensor:
    return functional.interpolate(mask[None, None], (_SIDE, _SIDE), mode="area")[0, 0] > 0.5  # noqa: PLR2004  # half


def _frame(picture: Tensor, wide: int = 6) -> Tensor:
    """The pixels along the picture's edges: 3 x how many."""
    inner = torch.ones(picture.shape[1:], dtype=torch.bool)
    inner[wide:-wide, wide:-wide] = False
    return picture[:, inner]


def _names(pixels: Tensor) -> Tensor:
    """The place in `COLOURS` of the colour nearest to each of 3 x n pixels."""
    values = torch.tensor(list(COLOURS.values())) / 255
    return torch.cdist(pixels.T.contiguous(), values).argmin(1)


def _nearest(colour: Tensor) -> str:
    return tuple(COLOURS)[int(_names(colour[:, None]))]


def _open(mask: Tensor) -> Tensor:
    """Without lines and specks of two pixels: the traces of blurred edges."""
    thin = -functional.max_pool2d(-mask[None, None], 3, 1, 1)
    return functional.max_pool2d(thin, 3, 1, 1)[0, 0]


def _components(mask: Tensor) -> list[Tensor]:
    """The connected parts of a mask, largest first."""
    labels = torch.arange(1.0, mask.numel() + 1).view_as(mask) * mask
    while True:
        spread = functional.max_pool2d(labels[None, None], 3, 1, 1)[0, 0]
        for _ in range(15):
            spread = functional.max_pool2d((spread * mask)[None, None], 3, 1, 1)[0, 0]
        spread = spread * mask
        if torch.equal(spread, labels):
            break
        labels = spread
    parts = [labels == value for value in labels.unique() if value > 0]
    return sorted(parts, key=lambda part: -int(part.sum()))
