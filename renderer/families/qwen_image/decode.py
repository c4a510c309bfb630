"""A picture's decode, a strip of rows at a time: how high its strips are, and what it holds where it holds most.

`engine.picture_vae` asks here for its rows, so that what is forecast is what is done. Terms are of its kernels, which
hold nothing beside what they return; `tests/estimate/test_decode.py` counts them in the engine itself, byte by byte.

Symbols: C, the VAE's width, in which channels are counted; 2 bytes a value.
"""

from __future__ import annotations

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
