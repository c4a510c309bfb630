"""What LoRAs add to scaled products, in bf16: a product itself stays what it is without them.

A layer's rows are there in eight bits alone, with a scale each. bf16 holds each such number as it is, so they go
through A unscaled, and what comes out, a rank wide, is scaled. Where rows are turned, A is turned likewise. Layers that
are one product go through one A, and so do riders behind one another that have the same LoRAs. Knows nothing of blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from renderer.engine.adapted import ADAPTED, AddedTo
from renderer.engine.scaled_reference import Rows
from renderer.engine.side_by_side import side_by_side

Narrowed = tuple[int, torch.Tensor, torch.Tensor]
"""Which of a product's layers is added to, rows as A leaves them, rows x rank, and B, columns x rank."""


@dataclass(frozen=True, slots=True)
class Wearers:
    """Riders behind one another with the same LoRAs: what is added to a block's layers, and their rows."""

    adapted: AddedTo
    text: slice
    image: slice

    def terms(self, run: ModuleType, rows: Rows, stems: tuple[Sequence[str], Sequence[str]]) -> list[list[Narrowed]]:
        """What is added to their text's product by the first layers `stems`, and to their image's by the second.

        `rows` are all that go into the products; `run` is how scaled products are made.
        """
        pairs = [
            [(number, *pair) for number, stem in enumerate(own) for pair in self.adapted.get(stem, ())] for own in stems
        ]
        downs = [run.as_inputs(side_by_side([down for _, down, _ in own])) if own else None for own in pairs]
        narrow = run.narrow(rows, (self.text, self.image), downs)
        found: list[list[Narrowed]] = []
        for own, inner in zip(pairs, narrow, strict=True):
            at = 0
            found.append([])
            for number, down, up in own:
                found[-1].append((number, inner[:, at : at + len(down)], up))
                at += len(down)
        return found


def wearers(
    riders: Sequence[Mapping[str, Any]], spans: Sequence[tuple[slice, slice]], *, together: bool
) -> list[Wearers]:
    """Those of `riders` that have LoRAs: `together`, where these are the same; `spans` are rows of text and image."""
    found: list[Wearers] = []
    for rider, (text, image) in zip(riders, spans, strict=True):
        adapted: AddedTo | None = rider.get(ADAPTED)
        if not adapted:
            continue
        last = found[-1] if found and together else None
        if last and (last.text.stop, last.image.stop) == (text.start, image.start) and _same(last.adapted, adapted):
            found[-1] = Wearers(adapted, slice(last.text.start, text.stop), slice(last.image.start, image.stop))
        else:
            found.append(Wearers(adapted, text, image))
    return found


def add_to(run: ModuleType, out: torch.Tensor, terms: Sequence[Narrowed], layers: int = 1) -> None:
    """Add to `out`, rows x columns, the product of as many `layers`, each as wide as another."""
    width = out.shape[1] // layers
    for number, inner, up in terms:
        run.widen(out[:, number * width : (number + 1) * width], inner, up)


def _same(one: AddedTo, other: AddedTo) -> bool:
    """Whether both are the very same factors, in the same order."""
    return one.keys() == other.keys() and all(
        len(factors) == len(other[name]) and all(map(_is, factors, other[name])) for name, factors in one.items()
    )


def _is(one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return one[0] is other[0] and one[1] is other[1]
