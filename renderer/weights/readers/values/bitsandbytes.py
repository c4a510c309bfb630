"""bitsandbytes' numbers: looked up and multiplied in float32, and rounded to bf16 once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from renderer.weights.readers.reader import TensorAt

_STEP = 7.874015718698502e-3
"""Of int8: the library's own 1/127."""


def values(place: TensorAt, first: int, raw: torch.Tensor, read: Callable[[TensorAt], torch.Tensor]) -> torch.Tensor:
    """bf16 rows, [rows, …], in new memory."""
    if place.dtype == "I8":
        rows = raw.view(torch.int8).view(-1, *place.shape[1:])
        scale = read(place.besides["scale"]).view(torch.float32)[first : first + len(rows)]
        found = rows.float() * scale.view(-1, *[1] * (rows.dim() - 1)) * _STEP
        return found.to(torch.bfloat16)
    numbers = read(place.besides["quant_map"]).view(torch.float32)
    pairs = torch.stack((numbers.repeat_interleave(len(numbers)), numbers.repeat(len(numbers))), dim=1)
    found = pairs.index_select(0, raw.int()).view(-1)
    begin, block = first * math.prod(place.shape[1:]), int(place.settings["blocksize"])
    end = begin + len(found)
    largest = _largest(place, torch.arange(begin // block, -(-end // block)), read)
    if begin % block or end % block:  # a row may begin within a block
        found *= largest.repeat_interleave(block)[begin % block :][: len(found)]
    else:
        found.view(-1, block).mul_(largest[:, None])
    return found.to(torch.bfloat16).view(-1, *place.shape[1:])


def _largest(place: TensorAt, blocks: torch.Tensor, read: Callable[[TensorAt], torch.Tensor]) -> torch.Tensor:
    """The largest magnitude of each of some blocks."""
    kept = read(place.besides["absmax"])
    if "nested_absmax" not in place.besides:
        return kept.view(torch.float32)[blocks]
    numbers = read(place.besides["nested_quant_map"]).view(torch.float32)
    outer = read(place.besides["nested_absmax"]).view(torch.float32)
    group = blocks // int(place.settings["nested_blocksize"])
    return numbers[kept[blocks].int()] * outer[group] + place.settings["nested_offset"]
