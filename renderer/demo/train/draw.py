"""Numbers become pictures, hundreds at once, on whatever device torch has.

Shapes are signed distances, kept as small textures: a pixel is as much covered as the shape's edge is away from its
middle, which smooths edges without drawing anything larger. Letters are Pillow's own font, in capitals, made bold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from renderer.demo.train.placing import BACKGROUND, CELL, SIGN, THINGS, WORD
from renderer.demo.train.scenes import BACKGROUNDS, LETTERS, SHAPES

BLUE, WHITE = (0.1, 0.25, 0.6), (1.0, 1.0, 1.0)
"""Of a blueprint: its ground, and its lines."""

PERIOD = 32  # of stripes, dots and checks, in pixels
DOT_RADIUS = 7.0
_TEXTURE = 160  # texels across `_REACH` radii either side of a shape's centre
_REACH = 1.3


@dataclass(frozen=True, slots=True)
class Atlas:
    """`shapes`: 8 x 160 x 160 signed distances in radii. `letters`: 26 x 32 x 32 coverages from 0 to 1."""

    shapes: Tensor
    letters: Tensor

    @classmethod
    def make(cls, device: torch.device | str = "cpu") -> Atlas:
        """Draw the atlas; the same on every machine."""
        shapes = torch.stack([_distances(shape) for shape in SHAPES])
        letters = torch.stack([_letter(letter) for letter in LETTERS])
        return cls(shapes.to(device), letters.to(device))


def draw(numbers: Tensor, width: int, height: int, atlas: Atlas) -> Tensor:
    """Pictures from 0 to 1, batch x 3 x height x width, of numbers from `layout.arrange`, batch x 41."""
    device = numbers.device
    y = (torch.arange(height, device=device) + 0.5)[None, :, None]
    x = (torch.arange(width, device=device) + 0.5)[None, None, :]
    picture = _background(numbers[:, BACKGROUND], x, y, width, height)
    for part in THINGS:
        picture = _paint(picture, _thing(numbers[:, part], width, height, atlas), numbers[:, part][:, 4:7])
    sign = numbers[:, SIGN, None, None]
    inside_x = torch.minimum(x - sign[:, 0], sign[:, 2] - x)
    inside_y = torch.minimum(y - sign[:, 1], sign[:, 3] - y)
    cover = (torch.minimum(inside_x, inside_y) + 0.5).clamp(0, 1)
    picture = _paint(picture, cover, numbers[:, SIGN][:, 4:7])
    word = numbers[:, WORD]
    return _paint(picture, _word(word, width, height, atlas), word[:, 2:5])


def busy_cells(numbers: Tensor, width: int, height: int) -> Tensor:
    """Which patches of 16 by 16 pixels a word or a shape stands in: batch x (height / 16) x (width / 16), 0 or 1."""
    word = numbers[:, WORD, None, None]
    y = (torch.arange(height // 16, device=numbers.device) * 16 + 8)[None, :, None]
    x = (torch.arange(width // 16, device=numbers.device) * 16 + 8)[None, None, :]
    count = (numbers[:, WORD][:, 5:] >= 0).sum(1)[:, None, None]
    busy = (x > word[:, 0]) & (x < word[:, 0] + CELL * count) & (y > word[:, 1]) & (y < word[:, 1] + CELL)
    for part in THINGS:
        shape, centre_x, centre_y, radius = (numbers[:, part][:, place, None, None] for place in range(4))
        busy |= (torch.hypot(x - centre_x, y - centre_y) < 1.1 * radius + 10) & (shape >= 0)
    return busy.float()


def _paint(picture: Tensor, cover: Tensor, colour: Tensor) -> Tensor:
    return torch.lerp(picture, colour[:, :, None, None].expand_as(picture), cover[:, None])


def _background(numbers: Tensor, x: Tensor, y: Tensor, width: int, height: int) -> Tensor:
    kind = numbers[:, 0, None, None]
    half = PERIOD / 2
    wave_x, wave_y = ((x % PERIOD) >= half).float(), ((y % PERIOD) >= half).float()
    dots = (DOT_RADIUS + 0.5 - torch.hypot((x % PERIOD) - half, (y % PERIOD) - half)).clamp(0, 1)
    checks = wave_x + wave_y - 2 * wave_x * wave_y
    shares = (torch.zeros_like(x * y), y / height, x / width, wave_x, wave_y, dots, checks)
    share = torch.zeros(len(numbers), height, width, device=numbers.device)
    for place in range(len(BACKGROUNDS)):
        share = torch.where(kind == place, shares[place], share)
    first, second = numbers[:, 1:4, None, None], numbers[:, 4:7, None, None]
    return first + (second - first) * share[:, None]


def _thing(numbers: Tensor, width: int, height: int, atlas: Atlas) -> Tensor:
    """How much of each pixel a shape covers: batch x height x width."""
    device = numbers.device
    shape = numbers[:, 0].long()
    centre_x, centre_y, radius = (numbers[:, place, None, None] for place in (1, 2, 3))
    y = (torch.arange(height, device=device) + 0.5)[None, :, None]
    x = (torch.arange(width, device=device) + 0.5)[None, None, :]
    across = ((x - centre_x) / (radius * _REACH)).expand(-1, height, -1)
    down = ((y - centre_y) / (radius * _REACH)).expand(-1, -1, width)
    textures = atlas.shapes[shape.clamp(min=0)][:, None]
    distance = functional.grid_sample(
        textures, torch.stack([across, down], -1), mode="bilinear", padding_mode="border", align_corners=False
    )[:, 0]
    inside = (across.abs() < 1) & (down.abs() < 1) & (shape >= 0)[:, None, None]
    return (0.5 - distance * radius).clamp(0, 1) * inside


def _word(numbers: Tensor, width: int, height: int, atlas: Atlas) -> Tensor:
    device = numbers.device
    letters = numbers[:, 5:].long()
    cells = atlas.letters[letters.clamp(min=0)] * (letters >= 0)[:, :, None, None]
    strip = cells.permute(0, 2, 1, 3).reshape(len(numbers), CELL, -1)
    down = torch.arange(height, device=device)[None] - numbers[:, 1, None].long()
    across = torch.arange(width, device=device)[None] - numbers[:, 0, None].long()
    rows = strip.gather(1, down.clamp(0, CELL - 1)[:, :, None].expand(-1, -1, strip.shape[2]))
    pixels = rows.gather(2, across.clamp(0, strip.shape[2] - 1)[:, None].expand(-1, height, -1))
    inside_y, inside_x = (down >= 0) & (down < CELL), (across >= 0) & (across < strip.shape[2])
    return pixels * (inside_y[:, :, None] & inside_x[:, None, :])


def _letter(letter: str) -> Tensor:
    """One capital in its cell: 24 pixels high, bold, at most 28 wide, drawn four times larger and made smaller."""
    font = ImageFont.load_default(128)
    large = Image.new("L", (256, 256))
    ImageDraw.Draw(large).text((128, 128), letter, fill=255, font=font, anchor="mm", stroke_width=3)
    left, _, right, _ = large.getbbox() or (0, 0, 0, 0)
    flat = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((128, 128), "H", font=font, anchor="mm", stroke_width=3)
    scale = 24 / (flat[3] - flat[1])
    wide = min(28, round((right - left) * scale))
    over = 4 / scale  # of the four pixels above and below the capitals
    box = (left, flat[1] - over, right, flat[3] + over)
    small = large.resize((wide, CELL), Image.Resampling.BOX, box=box)
    cell = Image.new("L", (CELL, CELL))
    cell.paste(small, ((CELL - wide) // 2, 0))
    return torch.frombuffer(bytearray(cell.tobytes()), dtype=torch.uint8).view(CELL, CELL).float() / 255


def _distances(shape: str) -> Tensor:
    """A shape's signed distances in radii on a square of 160 x 160 texels; below zero is inside."""
    steps = ((torch.arange(_TEXTURE) + 0.5) / _TEXTURE * 2 - 1) * _REACH
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    match shape:
        case "circle":
            return torch.hypot(x, y) - 0.95
        case "ring":
            return (torch.hypot(x, y) - 0.77).abs() - 0.2
        case "crescent":
            return torch.maximum(torch.hypot(x, y) - 0.98, 0.78 - torch.hypot(x - 0.42, y))
        case _:
            return _to_polygon(_corners(shape), x, y)


def _corners(shape: str) -> list[tuple[float, float]]:
    match shape:
        case "square":
            return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
        case "triangle":
            return [(0, -0.95), (1, 0.8), (-1, 0.8)]
        case "star":
            turns = [math.pi * (place / 5 - 0.5) for place in range(10)]
            lengths = [1.08, 0.45] * 5
            return [(r * math.cos(turn), r * math.sin(turn) + 0.05) for r, turn in zip(lengths, turns, strict=True)]
        case "cross":
            arm, thick = 0.95, 0.32
            quarter = [(thick, -arm), (thick, -thick), (arm, -thick)]
            return [
                *quarter, *((x, -y) for x, y in quarter[::-1]), *((-x, -y) for x, y in quarter),
                *((-x, y) for x, y in quarter[::-1]),
            ]  # fmt: skip
        case _:  # a heart, x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t (mathworld.wolfram.com)
            turns = [2 * math.pi * place / 72 for place in range(72)]
            return [
                (
                    math.sin(t) ** 3,
                    -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16 - 0.12,
                )
                for t in turns
            ]


def _to_polygon(corners: list[tuple[float, float]], x: Tensor, y: Tensor) -> Tensor:
    """Signed distances to a polygon (iquilezles.org, "2D distance functions")."""
    nearest = torch.full_like(x, math.inf)
    sign = torch.ones_like(x)
    for (ax, ay), (bx, by) in zip(corners, [corners[-1], *corners[:-1]], strict=True):
        edge_x, edge_y = bx - ax, by - ay
        from_x, from_y = x - ax, y - ay
        along = ((from_x * edge_x + from_y * edge_y) / (edge_x**2 + edge_y**2)).clamp(0, 1)
        nearest = torch.minimum(nearest, torch.hypot(from_x - edge_x * along, from_y - edge_y * along))
        above, below = y >= ay, y < by
        turns = edge_x * from_y > edge_y * from_x
        crossing = (above & below & turns) | (~above & ~below & ~turns)
        sign = torch.where(crossing, -sign, sign)
    return nearest * sign


def blueprint(pictures: Tensor) -> Tensor:
    """Pictures from 0 to 1, batch x 3 x height x width, as white outlines on blue: white is where colours change."""
    padded = functional.pad(pictures, (1, 1, 1, 1), mode="replicate")
    here = padded[:, :, 1:-1, 1:-1]
    change = torch.zeros_like(here[:, :1])
    for down, right in ((0, 1), (2, 1), (1, 0), (1, 2)):
        shifted = padded[:, :, down : down + here.shape[2], right : right + here.shape[3]]
        change = torch.maximum(change, (shifted - here).abs().amax(1, keepdim=True))
    lines = functional.max_pool2d((change * 4).clamp(0, 1), 3, stride=1, padding=1)
    blue, white = (torch.tensor(colour, device=pictures.device).view(1, 3, 1, 1) for colour in (BLUE, WHITE))
    return blue + lines * (white - blue)
