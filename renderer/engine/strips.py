"""Strips of a picture-shaped tensor, a convolution over them, and chains of layers that make any rows of a result.

Layers of a VAE look no further than a row or two, so a strip of the result needs a strip of the input, a little
higher. A chain asks its layers, from the last to the first, which rows each needs, and then computes just those.
Knows nothing of networks or devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class Strip:
    """Rows `top` and on of a picture `height` high: values [rows, width, channels], contiguous."""

    values: torch.Tensor
    top: int
    height: int

    def part(self, first: int, last: int) -> Strip:
        """Rows `first` to `last` of the picture, which must be among these: a view."""
        return Strip(self.values[first - self.top : last - self.top], first, self.height)


def whole(values: torch.Tensor) -> Strip:
    """All rows of a picture, [height, width, channels]."""
    return Strip(values, 0, values.shape[0])


@dataclass(frozen=True, slots=True)
class Kernel:
    """A convolution's weights: [channels out, side * side * channels in], and a float32 bias [channels out].

    The picture is first enlarged `up` times, each pixel repeated; `pad` zeros stand above and left of it, and as many
    as are needed below and right. `stride` is the step from one pixel of the result to the next.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    side: int
    up: int = 1
    stride: int = 1
    pad: int = 0

    @property
    def channels_in(self) -> int:
        return self.weight.shape[1] // self.side**2

    @property
    def channels_out(self) -> int:
        return self.weight.shape[0]


class Layer(Protocol):
    """One step on a picture's way through a VAE."""

    @property
    def channels_out(self) -> int:
        """Of its result."""

    def height(self, height: int) -> int:
        """Rows of the result, for `height` rows of the input."""

    def needs(self, first: int, last: int, height: int) -> tuple[int, int]:
        """Which rows of an input `height` high rows `first` to `last` of the result are made from."""

    def __call__(self, strip: Strip, first: int, last: int) -> Strip:
        """Rows `first` to `last` of the result, from the rows that they need."""


def rows_of(layers: Sequence[Layer], picture: Strip, first: int, last: int) -> Strip:
    """Rows `first` to `last` of what `layers`, one after another, make of a picture."""
    heights = list(accumulate(layers, lambda height, layer: layer.height(height), initial=picture.height))
    spans = [(first, last)]
    for layer, height in zip(reversed(layers), reversed(heights[:-1]), strict=True):
        spans.append(layer.needs(*spans[-1], height))
    strip = picture.part(*spans.pop())
    for layer in layers:
        strip = layer(strip, *spans.pop())
    return strip


def in_strips(layers: Sequence[Layer], picture: Strip, rows: int) -> Strip:
    """What `layers` make of a whole picture, `rows` rows of the result at a time."""
    height = picture.height
    for layer in layers:
        height = layer.height(height)
    if rows >= height:
        return rows_of(layers, picture, 0, height)
    result: torch.Tensor | None = None
    for first in range(0, height, rows):
        last = min(height, first + rows)
        values = rows_of(layers, picture, first, last).values
        if result is None:
            result = values.new_empty((height, *values.shape[1:]))
        result[first:last] = values
        del values
    assert result is not None
    return Strip(result, 0, height)
