"""Where a run's workers are: how many there may be, on which devices, and how one is hired. This machine, or others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from renderer.machine.devices import WorkerDevice
from renderer.supervisor.worker import Hire

Say = Callable[[str], None]


class Fleet(Protocol):
    """Where workers are."""

    @property
    def brings_models(self) -> bool:
        """Whether its machines fetch and pack models by themselves, so that this one needs none."""

    @property
    def hire(self) -> Hire:
        """How a worker is had, on any of its devices."""

    def devices(self, say: Say, check: Callable[[], None]) -> Sequence[WorkerDevice]:
        """The devices that a worker each may have, as plans see them.

        May wait for one to be there, `say` why, and call `check` meanwhile, which raises what ends that. Raises
        `UsageError` for devices that there are not, `MachineError` where there is none.
        """
