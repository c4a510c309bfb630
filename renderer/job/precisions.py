"""What a precision and a profile say of weights: by which codec they are kept, and whether they are multiplied so."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from renderer.job.request import AskedPrecision, BlockArithmetic, Precision, Profile, Stored

AUTO_PRECISION: AskedPrecision = "auto"
"""Of a manifest: whichever suits the machine (`renderer.planning.auto`)."""

DEFAULT_PRECISION: Precision = "fp8"
"""Where nobody says one."""

BOUNDED: tuple[Profile, ...] = ("fp8", "disk")
"""Profiles with which DiffSynth takes weights up until so much of the GPU is in use."""

ONLY: Mapping[Profile, Stored] = MappingProxyType({"fp8": "fp8"})
"""Profiles that are for weights of one codec; all others take those of any."""

_RESTORED: Mapping[Precision, Stored] = MappingProxyType({"fp8-weights": "fp8"})
"""Precisions whose weights are scaled back before they are multiplied, on every card, and what these are kept by."""


def stored(precision: Precision) -> Stored:
    """The codec of the weights that a job of this precision is rendered with."""
    return cast("Stored", _RESTORED.get(precision, precision))


def restored(kept: Stored) -> Precision | None:
    """The precision whose weights are kept so, and scaled back before they are multiplied; None where there is none."""
    return next((precision for precision, stored in _RESTORED.items() if stored == kept), None)


def in_words(arithmetic: BlockArithmetic | Stored) -> str:
    """An arithmetic as texts name it."""
    return {"fp8": "FP8"}.get(arithmetic, arithmetic)


def multiplies_stored(precision: Precision) -> bool:
    """Whether a job of this precision has weights multiplied as they are stored, where the card can."""
    return precision not in _RESTORED
