"""What fast sums cost and gain in FP8 products: `python -m renderer.benchmarks.sums`, a line of JSON a case.

Each case is one layer of Qwen-Image's DiT by random rows of one kind, computed with fast sums and without. Errors are
relative, against float64: `sums` of the same FP8 numbers, which is what adding up does; `all` of the numbers before
they were FP8, beside which that has to be seen; `rounding` is what bf16, in which a product is handed on, makes of
exact sums; `worst_row` is the largest of `sums` in a row. Seconds are medians by the card's clock, at a picture's rows.
Needs no model, and takes half a minute and 4 GiB. Without a GPU it tries itself on small ones.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from renderer.benchmarks.running import Figures
from renderer.engine import facts, fp8_reference
from renderer.engine.device import Device
from renderer.engine.fp8_reference import FAST_ACCUMULATION, Rows
from renderer.engine.meter import Span
from renderer.weights.synthetic import STD

WARM_UPS, RUNS = 3, 20


@dataclass(frozen=True, slots=True)
class Product:
    """[columns, width] of its weight; what is summed is `width` products."""

    columns: int
    width: int


SUMMED_LAYERS: Mapping[str, Product] = MappingProxyType(
    {"qkv": Product(9216, 3072), "out": Product(3072, 3072), "up": Product(12288, 3072), "down": Product(3072, 12288)}
)
SMALL: Mapping[str, Product] = MappingProxyType({"out": Product(96, 64), "down": Product(64, 256)})

PICTURE_ROWS = (7017, 1152)
"""Rows that are timed: of 1328x1328 and of 512x512, each with 128 of text."""

EXACT_ROWS = 512
"""Rows whose error is found: float64 takes its time."""


def gaussian(rows: torch.Tensor) -> torch.Tensor:
    return rows


def after_gelu(rows: torch.Tensor) -> torch.Tensor:
    """All but one-sided: sums grow, and small terms are added to large ones."""
    return torch.nn.functional.gelu(rows * 2)


def outliers(rows: torch.Tensor) -> torch.Tensor:
    """One channel in a hundred is forty times as large."""
    found = rows.clone()
    found[:, ::100] *= 40
    return found


def one_sided(rows: torch.Tensor) -> torch.Tensor:
    """The worst for sums: nothing cancels."""
    return rows.abs()


ROWS_LIKE: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (gaussian, after_gelu, outliers, one_sided)


def main() -> None:
    """Measure all of it."""
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.no_grad():
        for row in measure(device):
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


def measure(device: Device) -> Iterator[Figures]:
    """The rows: what it was measured on, then errors and seconds of each layer, with fast sums and without."""
    card = facts.gpu(device)
    name = card.name if card else "cpu"
    yield {"what": "machine", "gpu": name, "torch": torch.__version__, "decided": FAST_ACCUMULATION}
    layers, pictures = (SUMMED_LAYERS, PICTURE_ROWS) if device == "cuda" else (SMALL, (16,))
    for layer_name, layer in layers.items():
        about: Figures = {"layer": layer_name, "columns": layer.columns, "width": layer.width}
        weight, rows = _random(layer.columns, layer.width, device) * STD, _random(max(pictures), layer.width, device)
        for kind in ROWS_LIKE:
            for found in _errors(kind(rows[:EXACT_ROWS]), kind(weight) if kind is one_sided else weight):
                yield {"what": "error", **about, "rows": kind.__name__, **found}
        for count in pictures:
            for fast in (True, False):
                seconds = _seconds(rows[:count], weight, device, fast=fast)
                flops = 2.0 * count * layer.columns * layer.width
                yield {"what": "seconds", **about, "rows": count, "fast": fast, "seconds": seconds,
                       "tflops": flops / seconds / 1e12}  # fmt: skip


def _errors(x: torch.Tensor, weight: torch.Tensor) -> Iterator[Figures]:
    rows, columns = fp8_reference.quantise(x), _columns(weight)
    values = rows.values[: rows.count].double() * rows.scale[: rows.count, None].double()
    weights = columns.values[: columns.count].double() * columns.scale[: columns.count, None].double()
    exact, whole = values @ weights.t(), x.double() @ weight.double().t()
    for fast in (True, False):
        found = _multiply(rows, columns, fast=fast).double()
        yield {
            "fast": fast,
            "sums": _relative(found, exact),
            "worst_row": float(((found - exact).norm(dim=1) / exact.norm(dim=1)).max()),
            "bias": float((found - exact).sum() / exact.abs().sum()),
            "rounding": _relative(exact.to(torch.bfloat16).double(), exact),
            "all": _relative(found, whole),
        }


def _seconds(x: torch.Tensor, weight: torch.Tensor, device: Device, *, fast: bool) -> float:
    rows, columns = fp8_reference.quantise(x), _columns(weight)
    spans = []
    for _ in range(WARM_UPS + RUNS):
        span = Span(device)
        _multiply(rows, columns, fast=fast)
        span.stop()
        spans.append(span)
    return statistics.median(span.seconds() for span in spans[WARM_UPS:])


def _columns(weight: torch.Tensor) -> Rows:
    """A weight with a scale a column of the product, as a store has it."""
    return fp8_reference.quantise(weight)


def _multiply(rows: Rows, columns: Rows, *, fast: bool) -> torch.Tensor:
    count = columns.count
    none = torch.zeros(count, dtype=torch.bfloat16, device=rows.scale.device)
    return fp8_reference.multiply(rows, columns.values[:count], columns.scale[:count], none, fast=fast)


def _random(rows: int, columns: int, device: Device) -> torch.Tensor:
    dice = torch.Generator(device).manual_seed(rows + columns)
    return torch.randn((rows, columns), generator=dice, device=device, dtype=torch.bfloat16)


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


if __name__ == "__main__":
    main()
