"""`renderer bench engine --part loras`: what LoRAs of rank 64 on all layers add to a step. Imports no torch.

Each case with LoRAs stands beside the same without. They are measured in `lora_steps`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from renderer.benchmarks.running import Figures
from renderer.text import GIB


@dataclass(frozen=True, slots=True)
class LoraCase:
    """Squares of one side, `loras` of them with a LoRA of their own, within so much of the GPU; None: all of it.

    `shared`: all of these have the same, as pictures of few steps do.
    """

    pictures: int
    loras: int
    vram_gib: int | None = None
    side: int = 1328
    steps: int = 8
    guidance: float = 4.0
    shared: bool = False


LORA_CASES: Mapping[str, LoraCase] = MappingProxyType(
    {
        "loras-none": LoraCase(1, 0),
        "loras-one": LoraCase(1, 1),
        "loras-6GiB-none": LoraCase(1, 0, 6),
        "loras-6GiB-one": LoraCase(1, 1, 6),
        "loras-8-pictures-none": LoraCase(8, 0, side=1024, steps=6),
        "loras-8-pictures-each": LoraCase(8, 8, side=1024, steps=6),
        "loras-few-none": LoraCase(8, 0, steps=4, guidance=1.0),
        "loras-few-each": LoraCase(8, 8, steps=4, guidance=1.0),
        "loras-512-none": LoraCase(8, 0, side=512, steps=4, guidance=1.0),
        "loras-512-shared": LoraCase(8, 8, side=512, steps=4, guidance=1.0, shared=True),
        "loras-512-6GiB-none": LoraCase(8, 0, 6, side=512, steps=4, guidance=1.0),
        "loras-512-6GiB-shared": LoraCase(8, 8, 6, side=512, steps=4, guidance=1.0, shared=True),
    }
)
"""Each with LoRAs follows the same without."""

DEMO_CASES: Mapping[str, LoraCase] = MappingProxyType(
    {
        "loras-demo-none": LoraCase(2, 0, side=64, steps=2),
        "loras-demo-each": LoraCase(2, 2, side=64, steps=2),
    }
)


def lines(rows: Sequence[Figures]) -> Iterator[str]:
    """A table of the rows, each beside the one without LoRAs before it."""
    if not rows:
        return
    columns = ("what renders", "size", "pictures", "LoRAs", "s/step a picture", "times", "peak reserved, GiB", "more")
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    bare = rows[0]
    for row in rows:
        if row["loras"] == 0:
            bare = row
        times = f"{row['step_s'] / bare['step_s']:.3f}" if row is not bare else ""
        reserved, more = row["reserved_bytes"] or 0, (row["reserved_bytes"] or 0) - (bare["reserved_bytes"] or 0)
        cells = [row["case"], f"{row['side']}²", str(row["pictures"]), str(row["loras"]), f"{row['step_s']:.3f}", times]
        yield f"| {' | '.join((*cells, f'{reserved / GIB:.2f}', f'{more / GIB:+.2f}'))} |"
    yield ""
