"""Whether a run still has the folder that it writes into: by a lock to its end, by a lease while that is renewed."""

from __future__ import annotations

from collections.abc import Callable

from renderer.errors import LeaseLostError

Holding = Callable[[], bool]
"""Whether a folder is this run's at this moment. For any thread."""


def held_alone() -> bool:
    """A folder that this run has locked is its own to the end."""
    return True


def check_hold(hold: Holding, name: str) -> None:
    """Raise `LeaseLostError` where a folder is another run's by now."""
    if not hold():
        raise LeaseLostError(f"{name}: its lease could not be renewed in time, and another run may have taken it over")
