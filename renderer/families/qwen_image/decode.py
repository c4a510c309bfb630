"""A picture's decode and encode, a strip of rows at a time: how high strips are, what is held where most is.

`engine.picture_vae` asks here for its rows, so that what is forecast is what is done. Terms are of its kernels, which
hold nothing beside what they return; `tests/estimate/test_decode.py` counts them in the engine itself, byte by byte.

Symbols: C, the VAE's width, in which channels are counted; 2 bytes a value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from renderer.estimate.family_costs import Decode
from renderer.estimate.terms import terms, total

STRIP_BYTES = 2**28
"""What a strip's tensors may take together. On an H100, 256 MiB cost 4 % over none at 1328x1328, and 64 MiB 18 %."""

STRIP_TENSORS = 4
"""Tensors as large as a stage's result that are there at once: the input, one normed, one convolved, the result."""

LATENT_PIXEL = 8
"""Pixels of the picture on a side of one of its latents'."""

_VALUE = 2
_FLOAT32 = 4
_COLOURS = 3

_ATTENTION = 24
"""Channels, in C, of the middle where it is fullest: input, queries, keys, values, what they give, and the sum."""


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage of Qwen-Image's decoder, at a `part`-th of the picture's sides.

    `before` are the channels that come in, at half its sides but for the first; `blocks` those into and out of each
    residual block. The last stage ends with a norm and a convolution to colours.
    """

    part: int
    before: int
    blocks: tuple[tuple[int, int], ...]

    @property
    def is_first(self) -> bool:
        return self.part == LATENT_PIXEL

    @property
    def is_last(self) -> bool:
        return self.part == 1

    @property
    def widest(self) -> int:
        return max(max(block) for block in self.blocks)


_STAGES = (
    _Stage(8, 4, ((4, 4), (4, 4), (4, 4))),
    _Stage(4, 4, ((2, 4), (4, 4), (4, 4))),
    _Stage(2, 4, ((2, 2), (2, 2), (2, 2))),
    _Stage(1, 2, ((1, 1), (1, 1), (1, 1))),
)


def strip_rows(columns: int, channels: int, value_bytes: int = _VALUE, strip_bytes: int = STRIP_BYTES) -> int:
    """How many rows of a stage's result are made at once, where they are so wide at its widest."""
    return max(1, strip_bytes // (STRIP_TENSORS * columns * channels * value_bytes))


def kept_bytes(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """What of a VAE's tensors stays on the GPU: of kernels over frames the last slice alone, the rest in float32."""
    found = 0
    for name, shape in shapes.items():
        if "time_conv" in name:  # between frames, of which a picture has one
            continue
        if not name.endswith(".weight"):
            found += _FLOAT32 * math.prod(shape)
        else:
            found += _VALUE * math.prod(shape) // (shape[2] if len(shape) == 5 else 1)  # noqa: PLR2004  # with frames
    return found


@lru_cache(maxsize=1024)
def decode(base: int, width: int, height: int, *, fused: bool = True) -> Decode:
    """A decode over its weights: `base` is C, sizes are in pixels. `fused`: attention's scores are never in memory."""
    found = [_middle(base, width * height // LATENT_PIXEL**2, fused=fused)]
    for stage in _STAGES:
        found += _moments(stage, base, width // stage.part, height // stage.part)
    return max(found, key=lambda each: total(each.terms))


def _middle(base: int, pixels: int, *, fused: bool) -> Decode:
    """Attention over all latent pixels, one head of 4 C channels; without a fused kernel, quadratic in pixels."""
    held = terms(VAE_attention=_VALUE * _ATTENTION * base * pixels)
    scores = _FLOAT32 * pixels**2
    if not fused:
        return Decode(held + terms(VAE_attention_scores_in_float32_twice=2 * scores), scores)
    return Decode(held, 4 * _VALUE * base * pixels)


def _moments(stage: _Stage, base: int, columns: int, height: int) -> Iterator[Decode]:
    """A stage's first strip, and its second, which has the result whole beside it; all but the last are like that."""
    row = _VALUE * base * columns
    rows = strip_rows(columns, base * stage.widest)
    came = row * stage.before * height // (1 if stage.is_first else 4)
    result = _VALUE * columns * height * (_COLOURS if stage.is_last else base * stage.blocks[-1][1])
    for first in range(0, min(height, 2 * rows), rows):
        fullest, largest = _strip(stage, first, min(height, first + rows), height)
        there = terms(VAE_stage_input=came, VAE_stage_result=result if first else 0, VAE_strip=row * fullest)
        yield Decode(there, row * largest)


def _strip(stage: _Stage, first: int, last: int, height: int) -> tuple[int, int]:
    """Rows times channels that rows `first` to `last` of a stage hold where they hold most, and of one tensor."""

    def more(rows: range, by: int) -> range:
        return range(max(0, rows.start - by), min(height, rows.stop + by))

    rows, fullest, largest = range(first, last), 0, 0
    if stage.is_last:
        rows = more(rows, 1)
        fullest = 2 * len(rows)  # what is normed, and normed
    for number, (before, after) in reversed([*enumerate(stage.blocks)]):
        inner, outer = len(more(rows, 1)), len(more(rows, 2))
        came = 0 if number == 0 and stage.is_first else outer * before  # otherwise rows of what is whole
        made_wider = len(rows) * after if before != after else 0
        within = max(outer * before + inner * after, 2 * inner * after, (inner + len(rows)) * after + made_wider)
        fullest, largest = max(fullest, came + within), max(largest, outer * before, inner * after)
        rows = more(rows, 2)
    return fullest, largest


# ---- the other way ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer of the encoder: a residual block, or a convolution that keeps the rows or, with a stride of 2, halves."""

    before: int
    after: int
    stride: int = 0
    """0 for a residual block."""

    def needs(self, rows: range, height: int) -> range:
        """The rows of an input `height` high that rows of its result are made from."""
        if self.stride == 2:  # noqa: PLR2004  # DiffSynth pads below alone
            return range(2 * rows.start, min(height, 2 * rows.stop + 1))
        by = 1 if self.stride else 2
        return range(max(0, rows.start - by), min(height, rows.stop + by))

    def held(self, came: range, rows: range, height: int) -> int:
        """Rows times channels beside what came, where it holds most; its result included. Columns are the input's."""
        if self.stride:
            return len(rows) * self.after // self.stride
        inner = len(range(max(0, rows.start - 1), min(height, rows.stop + 1)))
        wider = len(rows) * self.after if self.before != self.after else 0
        return max(
            len(came) * self.before + inner * self.after,
            2 * inner * self.after,
            (inner + len(rows)) * self.after + wider,
        )


def _downwards(base: int) -> tuple[tuple[_Layer, ...], ...]:
    """The encoder's stages, each at half the sides of the one before; the first takes colours."""
    widths = [base, base, 2 * base, 4 * base, 4 * base]
    stages = []
    for before, after in itertools.pairwise(widths):
        layers = [_Layer(before, after), _Layer(after, after), _Layer(after, after, stride=2)]
        stages.append(tuple(layers))
    colours = _Layer(_COLOURS, base, stride=1)
    return (colours, *stages[0]), *stages[1:-1], stages[-1][:-1]


@lru_cache(maxsize=1024)
def encode(base: int, width: int, height: int, *, fused: bool = True) -> Decode:
    """A picture's way to latents, over the weights; `base` is C, sizes are in pixels."""
    found = [_middle(base, width * height // LATENT_PIXEL**2, fused=fused)]
    for number, layers in enumerate(_downwards(base)):
        found += _moments_in(layers, width >> number, height >> number)
    return max(found, key=lambda each: total(each.terms))


def _moments_in(layers: tuple[_Layer, ...], columns: int, height: int) -> Iterator[Decode]:
    """A stage's first strip and its second, beside what comes in, of which the picture is a copy with channels last."""
    widest = max(layer.after for layer in layers)
    halves = layers[-1].stride == 2  # noqa: PLR2004  # as above
    outcome = height // 2 if halves else height
    result = _VALUE * (columns // 2 if halves else columns) * outcome * layers[-1].after
    came = _VALUE * columns * height * layers[0].before
    rows = strip_rows(columns, widest)
    for first in range(0, min(outcome, 2 * rows), rows):
        fullest, largest = _strip_in(layers, range(first, min(outcome, first + rows)), height)
        there = terms(
            VAE_stage_input=came, VAE_stage_result=result if first else 0, VAE_strip=_VALUE * columns * fullest
        )
        yield Decode(there, _VALUE * columns * largest)


def _strip_in(layers: tuple[_Layer, ...], rows: range, height: int) -> tuple[int, int]:
    """Rows times channels, at the input's columns, that a strip holds where it holds most, and of one tensor."""
    fullest = largest = 0
    for number, layer in reversed([*enumerate(layers)]):
        came = layer.needs(rows, height)
        own = len(came) * layer.before if number else 0  # the first layer's is a view of what is whole
        fullest = max(fullest, own + layer.held(came, rows, height))
        largest = max(largest, len(came) * layer.before, len(rows) * layer.after)
        rows = came
    return fullest, largest
