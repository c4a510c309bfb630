"""What an estimate consists of: named terms, in stages that come one after another. Values; knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from renderer.estimate.fitted import BETWEEN, IN_VAIN, MORE_HOLES, MOST_HOLES, PAGES_BEGUN


@dataclass(frozen=True, slots=True)
class Term:
    """One thing that takes memory, by name, in bytes."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Stage:
    """What is there at the moment of one stage at which most is.

    `piece` is the largest tensor that comes and goes between others that stay: about half of one is what the allocator
    holds in vain. `between` are those others, where each of several pictures has some. `vain` is all that it so holds,
    where that is known otherwise. `idle` is held for recorded launches that compute in it: by the allocator, and by no
    tensor.
    """

    name: str
    terms: tuple[Term, ...]
    piece: int = 0
    vain: int | None = None
    idle: int = 0
    between: int = 0

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(term.bytes for term in self.terms)

    @property
    def reserved(self) -> int:
        """What torch's allocator takes for it where there is room: measured, and different with what went before."""
        if self.vain is not None:
            return self.bytes + self.vain
        holes = min(MOST_HOLES + MORE_HOLES * self.piece, IN_VAIN * self.piece) + BETWEEN * self.between
        return self.bytes + self.idle + round(holes) + PAGES_BEGUN

    @property
    def largest(self) -> Term:
        """What takes most of it."""
        return max(self.terms, key=lambda term: term.bytes)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Peak GPU memory. Stages come one after another, so the peak is the largest of them, not their sum.

    `reserved` is what torch's allocator takes from the device for it where there is room, `context` what a CUDA process
    has on the device beside the allocator. Where there is no room, the allocator gives back what it holds in vain:
    whether something fits is asked of `allocated`.
    """

    stages: tuple[Stage, ...]
    context: int

    @property
    def allocated(self) -> int:
        """Bytes of all tensors at the peak."""
        return self.peak.bytes

    @property
    def reserved(self) -> int:
        """Bytes that torch's allocator takes from the device at the most, where there is room."""
        return max(stage.reserved for stage in self.stages)

    @property
    def device(self) -> int:
        """Bytes of the device that the process has in use at the peak, where there is room."""
        return self.reserved + self.context

    @property
    def peak(self) -> Stage:
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: stage.bytes)

    def stage(self, name: str) -> Stage:
        """One stage. Raises `KeyError`."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    def as_dict(self) -> Mapping[str, Any]:
        """The estimate as JSON-ready values."""
        return {
            "allocated_bytes": self.allocated,
            "reserved_bytes": self.reserved,
            "context_bytes": self.context,
            "device_bytes": self.device,
            "peak_stage": self.peak.name,
            "dominant_term": self.peak.largest.name,
            "stages": {
                stage.name: {
                    "allocated_bytes": stage.bytes,
                    "reserved_bytes": stage.reserved,
                    "terms": {term.name: term.bytes for term in stage.terms},
                }
                for stage in self.stages
            },
        }


def terms(**named: int) -> tuple[Term, ...]:
    """Terms by keyword; underscores are spaces, and what takes nothing is left out."""
    return tuple(Term(name.replace("_", " "), round(size)) for name, size in named.items() if size)


def total(parts: Sequence[Term]) -> int:
    """Bytes of several terms."""
    return sum(part.bytes for part in parts)
