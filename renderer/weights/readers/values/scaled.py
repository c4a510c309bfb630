"""Matrices with scales beside them: eight bits as they are and the scale of each row, or a scale for some columns each.

The latter are multiplied in float32 and rounded to bf16 once. Their scales lie as cuBLAS wants them: in tiles of 128
rows by 4 scales, where rows 32 apart stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from renderer.weights.codecs.rows import ScaledRows
from renderer.weights.dtypes import TORCH_DTYPES
from renderer.weights.readers.reader import TensorAt
from renderer.weights.readers.scaled import BLOCK_COLUMNS, GROUP

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The numbers of four bits; those with the upper bit set are negative."""

_E8M0_BIAS, _E8M0_NONE = 127, 255
_TILE_ROWS, _TILE_COLUMNS, _BESIDE = 128, 4, 32

Read = Callable[[TensorAt], torch.Tensor]


def values(place: TensorAt, first: int, raw: torch.Tensor, read: Read) -> torch.Tensor | ScaledRows:
    """Rows in `raw`'s own memory, with their scales; those with several scales, in new memory."""
    match place.dtype:
        case "mxfp8":
            numbers = raw.view(torch.float8_e4m3fn).float()
            return _in_blocks(place, first, numbers, _powers(read(place.besides["scale"])))
        case "nvfp4":
            table = torch.tensor([*_E2M1, *(-number for number in _E2M1)])
            pairs = torch.stack((table.repeat_interleave(len(table)), table.repeat(len(table))), dim=1)
            numbers = pairs.index_select(0, raw.int())
            scales = read(place.besides["scale"]).view(torch.float8_e4m3fn).float()
            return _in_blocks(place, first, numbers, scales * read(place.besides["second"]).view(torch.float32))
    rows = raw.view(TORCH_DTYPES[place.dtype]).view(-1, *place.shape[1:])
    beside = place.besides["scale"]
    scale = read(beside).view(TORCH_DTYPES[beside.dtype]).view(-1).float()
    own = scale.expand(len(rows)) if len(scale) == 1 else scale[first : first + len(rows)]
    return ScaledRows(rows, own, int(place.settings.get(GROUP, 0)))


def _in_blocks(place: TensorAt, first: int, numbers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """bf16 rows, [rows, columns], each block of columns times its scale; `scales` are in the order of the file."""
    columns = place.shape[1]
    blocks = numbers.view(-1, columns // int(place.settings[BLOCK_COLUMNS]), int(place.settings[BLOCK_COLUMNS]))
    rows, number = torch.arange(first, first + len(blocks))[:, None], torch.arange(blocks.shape[1])
    tile = rows // _TILE_ROWS * -(-blocks.shape[1] // _TILE_COLUMNS) + number // _TILE_COLUMNS
    in_tile = rows % _BESIDE * (_TILE_ROWS // _BESIDE) + rows % _TILE_ROWS // _BESIDE
    own = scales[(tile * _TILE_ROWS + in_tile) * _TILE_COLUMNS + number % _TILE_COLUMNS]
    return (blocks * own[..., None]).to(torch.bfloat16).view(-1, columns)


def _powers(exponents: torch.Tensor) -> torch.Tensor:
    """Powers of two of their exponents' eight bits; the last is no number."""
    found = torch.ldexp(torch.ones(len(exponents)), exponents.int() - _E8M0_BIAS)
    return torch.where(exponents == _E8M0_NONE, torch.nan, found)
