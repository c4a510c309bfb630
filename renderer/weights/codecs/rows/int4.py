"""Four bits a value: the step and the least value of each group searched, and int8 rows as they are unpacked.

Every step of the search is one IEEE operation, and sums are added in an order that is written here, so that the CPU and
the GPU make the same bits. What is unpacked is whole numbers, and exact.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from renderer.weights.codecs.codec import SCALE, WEIGHT
from renderer.weights.codecs.int4 import LEVELS, LOW, MOST_STEP, STEP, group
from renderer.weights.codecs.rows import int8
from renderer.weights.codecs.rows.encoded import EncodedRows, Loss
from renderer.weights.codecs.rows.scaled_rows import ScaledRows

_PIECE = 2**17
"""Numbers that are searched at a time on a CPU: what a core's cache holds of them in float32, several times over. Four
times as many take twice as long."""

_UNPACKED = 2**22
"""Numbers that are unpacked at a time, where they are turned back behind that."""

_LEAST, _MOST = torch.iinfo(torch.int8).min, torch.iinfo(torch.int8).max


def encode(rows: torch.Tensor, device: str = "cpu") -> EncodedRows:
    """Rows are turned, scaled as int8's, and rounded by groups. A number that is none makes its row's scale so."""
    step = max(1, _PIECE // rows.shape[1]) if device == "cpu" else len(rows)
    found = [_encode(rows[first : first + step].to(device)) for first in range(0, len(rows), step)]
    if len(found) == 1:
        return found[0]
    parts = {suffix: torch.cat([each.parts[suffix] for each in found]) for suffix in found[0].parts}
    losses = [each.loss for each in found if each.loss is not None]
    whole = Loss(sum(each.difference for each in losses), sum(each.original for each in losses))
    return EncodedRows(parts, is_finite=all(each.is_finite for each in found), loss=whole)


def take_over(rows: ScaledRows) -> EncodedRows | None:
    """None: nobody else's rows are in this form."""
    del rows
    return None


def decode(parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The bf16 matrix in new memory: that of the int8 rows, which are unpacked some at a time."""
    rows, half = parts[WEIGHT].shape
    found = torch.empty((rows, 2 * half), dtype=torch.bfloat16, device=parts[WEIGHT].device)
    piece = max(1, _UNPACKED // (2 * half))
    for first in range(0, rows, piece):
        own = {suffix: part[first : first + piece] for suffix, part in parts.items()}
        values = torch.empty((len(own[WEIGHT]), 2 * half), dtype=torch.int8, device=found.device)
        unpack_into(values, own)
        found[first : first + piece] = int8.decode({WEIGHT: values, SCALE: own[SCALE]})
    return found


def unpack_into(values: torch.Tensor, parts: Mapping[str, torch.Tensor]) -> None:
    """Fill in the int8 values, rows x columns, of a matrix's parts."""
    weight, step = parts[WEIGHT], parts[STEP]
    rows, half = weight.shape
    size = group(2 * half)
    groups = parts[LOW].view(rows, 2, -1, 1)
    for number, shift in enumerate((0, 4)):
        steps = step.bitwise_right_shift(shift).bitwise_and_(LEVELS).to(torch.int16).add_(1)[..., None]
        whole = weight.bitwise_right_shift(shift).bitwise_and_(LEVELS).to(torch.int16).view(rows, -1, size)
        whole.mul_(steps).add_(groups[:, number]).clamp_(_LEAST, _MOST)
        values[:, number * half : (number + 1) * half] = whole.view(rows, half)


def _encode(rows: torch.Tensor) -> EncodedRows:
    turned, scale = int8.scaled(rows)
    count, columns = turned.shape
    size = group(columns)
    x = turned.view(-1, size).t().contiguous()  # a group is a column: all that follows goes along whole rows
    step, low = _searched(x)
    numbers = _nearest(x, step, low)
    weight = _halves(numbers.to(torch.uint8).t().reshape(count, columns))
    lost = (numbers * step).add_(low).clamp_(_LEAST, _MOST).sub_(x)
    unit = scale.double().square()
    difference, original = (float((_by_row(each, count).double() * unit).sum()) for each in (lost, x))
    parts = {
        WEIGHT: weight,
        STEP: _halves((step - 1).to(torch.uint8).view(count, -1)),
        LOW: low.to(torch.int8).view(count, -1),
        SCALE: scale,
    }
    parts = {suffix: part.cpu() for suffix, part in parts.items()}
    is_finite = bool(parts[SCALE].isfinite().all())
    return EncodedRows(parts, is_finite=is_finite, loss=Loss(difference, original))


def _searched(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The step and the least value, whole numbers, of each group of x, [columns of a group, groups].

    The steps that are tried are the smallest that reaches from end to end, and one less, which cuts the ends off. The
    least value has both ends cut alike at first, and is then moved by what the group is off by on the average.
    """
    least, most = x.amin(0), x.amax(0)
    widest = ((most - least) / LEVELS).ceil_()
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for narrower in (0, 1):
        step = (widest - narrower).clamp_(1, MOST_STEP)
        low = ((most + least - LEVELS * step) * 0.5).round_().clamp_(_LEAST, _MOST)
        off = _total(_lost(x, step, low)) * (1 / len(x))
        low = (low - off).round_().clamp_(_LEAST, _MOST)
        found.append((step, low, _total(_lost(x, step, low).square_())))
    (step, low, lost), (narrow, its_low, its_lost) = found
    is_better = its_lost < lost
    return torch.where(is_better, narrow, step), torch.where(is_better, its_low, low)


def _nearest(x: torch.Tensor, step: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """How many steps above the least value each number comes to lie."""
    return (x - low).mul_(1 / step).round_().clamp_(0, LEVELS)


def _lost(x: torch.Tensor, step: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    return _nearest(x, step, low).mul_(step).add_(low).sub_(x)


def _total(x: torch.Tensor) -> torch.Tensor:
    """The sum of the rows, by halves: the same additions on every device."""
    while len(x) > 1:
        half = len(x) // 2
        x = x[:half] + x[half:]
    return x[0]


def _by_row(x: torch.Tensor, rows: int) -> torch.Tensor:
    """The squared norm of each row of a matrix whose groups are columns of x."""
    return _total(x.square()).view(rows, -1).sum(1)


def _halves(values: torch.Tensor) -> torch.Tensor:
    """Numbers of four bits, rows x columns, two in a byte: the first half's below the second's."""
    half = values.shape[1] // 2
    return values[:, half:].bitwise_left_shift(4).bitwise_or_(values[:, :half])
