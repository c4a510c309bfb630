"""What a run needs of a model, what that will cost, and how it goes: the values that cross the pipe to the supplier.

Knows what is here (`places`); fetches nothing, and imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from renderer import catalog
from renderer.errors import DiskError, LockedError, MachineError, ModelError, RendererError, UsageError
from renderer.job import Stored, Value
from renderer.machine import hardware
from renderer.system import folders
from renderer.text import gb
from renderer.weights import places

_SPARE_BYTES = 10**9  # so that a disk is not filled to the brim


class Need(Value):
    """A model's own files; or, where `store` says at which precision, its packed store.

    With `discard_source`, files that were fetched for a store go once it is verified. `source` is the hub to ask first.
    With `verify`, what is here of the model is read and held against its hashes, and nothing else is done. `gpu` is
    what CUDA_VISIBLE_DEVICES must be where weights are quantised (null: as it is).
    """

    model: str
    store: Stored | None = None
    source: str | None = None
    offline: bool = False
    discard_source: bool = False
    verify: bool = False
    gpu: str | None = None


class Bill(Value):
    """What a need will cost. Bytes to download, bytes a store will take, bytes free where both go to.

    `seconds` is the time at the rates that were measured on this machine before; null where none were. `note` is what
    should be known beside it: a hub that did not take a token.
    """

    kind: Literal["bill"] = "bill"
    model: str
    source: str | None = None
    download_bytes: int = 0
    store_bytes: int = 0
    free_bytes: int
    folder: str
    seconds: float | None = None
    note: str = ""

    @property
    def disk_bytes(self) -> int:
        """What the disk has to take."""
        return self.download_bytes + self.store_bytes

    def check_room(self) -> None:
        """Raise `MachineError` when the disk has no room for it."""
        if self.disk_bytes and self.disk_bytes + _SPARE_BYTES > self.free_bytes:
            short = self.disk_bytes + _SPARE_BYTES - self.free_bytes
            room = f"the disk has {gb(self.free_bytes)} free"
            message = f"{self.model} takes {gb(self.disk_bytes)} in {self.folder}, and {room}"
            raise MachineError(message, hint=f"free {gb(short)}, or point RENDERER_MODELS at a larger disk")


class Progress(Value):
    """`done_bytes` of `total_bytes` of one thing are done: `what` is "downloading", "packing" or "verifying"."""

    kind: Literal["progress"] = "progress"
    what: str
    done_bytes: int
    total_bytes: int


class Supplied(Value):
    """All that was needed is here. `note` says what else should be known: a store's error, what was freed."""

    kind: Literal["supplied"] = "supplied"
    note: str = ""


class Refused(Value):
    """It cannot be had: an error of ours, by its name."""

    kind: Literal["refused"] = "refused"
    error: str
    message: str
    hint: str = ""

    def as_error(self) -> RendererError:
        """The error that it was."""
        known = {each.__name__: each for each in (ModelError, DiskError, MachineError, LockedError, UsageError)}
        return known.get(self.error, ModelError)(self.message, hint=self.hint)


SupplierAnswer = Annotated[Bill | Progress | Supplied | Refused, Field(discriminator="kind")]
ANSWERS: TypeAdapter[Bill | Progress | Supplied | Refused] = TypeAdapter(SupplierAnswer)


def is_met(need: Need) -> bool:
    """Whether what is needed is here already, or is not to be had from any hub.

    The demo model comes with the package; of a folder of one's own, whoever opens it says what it lacks.
    """
    model = catalog.find(need.model)
    if model.is_embedded:
        return True
    if need.store is not None:
        return places.has_store(model, need.store) and not (need.discard_source and places.originals(model))
    return not model.parts or not places.look(model).lacking


def refuse_offline(need: Need) -> None:
    """Raise `ModelError`, which names what is missing, when a need is not met by what is here."""
    model = catalog.find(need.model)
    if need.store is not None and places.has_store(model, need.store):
        return
    whereabouts = places.look(model)
    if whereabouts.lacking:
        raise places.lacks(whereabouts, "and this run is offline")


def free_bytes() -> int:
    """What is free where models are kept."""
    return hardware.free_disk_bytes(folders.models_folder().absolute())
