"""What was seen of a machine, and what is said of it: the values that findings are made of and from. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from renderer.catalog.cards import Card
from renderer.machine.hardware import Machine
from renderer.machine.processor import WITH_UNITS, Processor
from renderer.machine.rates import Rates
from renderer.text import GIB

LITTLE_DISK_BYTES = 5 * GIB
"""Free bytes below which a disk is worth a word."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen. `torch` is the probe's answer; `rates` what was measured, or why it was not.

    `swept_bytes` is what a streamed model's blocks want of host memory; `cache_trouble` why the cache cannot be
    written to, or empty; `cache_moved` where it is and where it would be if that could be written.
    """

    machine: Machine
    torch: Mapping[str, Any]
    rates: Rates | str | None = None
    card: Card | None = None
    swept_bytes: int = 0
    outputs_free_bytes: int = LITTLE_DISK_BYTES
    models_free_bytes: int = LITTLE_DISK_BYTES
    cache_trouble: str = ""
    cache_moved: tuple[Path, Path] | None = None
    processor: Processor = WITH_UNITS


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was seen, what it means, and what to do. `fatal` ones forbid rendering."""

    message: str
    meaning: str = ""
    hint: str = ""
    fatal: bool = False
