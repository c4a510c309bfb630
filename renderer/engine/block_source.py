"""Where a network's blocks come from, as slots need it: two protocols. Knows nothing of devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch


class ReadableBlock(Protocol):
    """A block on the disk: how many bytes it has, and how they are read."""

    @property
    def bytes(self) -> int: ...

    def read_into(self, buffer: torch.Tensor, *, direct: bool = False) -> None: ...


class BlockSource(Protocol):
    """Where a network's blocks come from: flat bytes in host memory, in the order of a sweep, over and over."""

    @property
    def files(self) -> Sequence[ReadableBlock]: ...

    @property
    def count(self) -> int: ...

    @property
    def block_bytes(self) -> int:
        """Of the largest block."""

    @property
    def from_disk(self) -> bool:
        """Whether each is read when it is wanted."""

    @property
    def took_s(self) -> float | None:
        """Seconds in which all have come into host memory; None where they have not, or do not stay there."""

    def is_there(self, number: int) -> bool:
        """Whether nobody has to wait for block `number`."""

    def ahead(self, number: int) -> None:
        """Block `number` will be wanted soon."""

    def block(self, number: int) -> torch.Tensor:
        """Block `number` in host memory, uint8; it stays there until `done`.

        Raises `ModelError`, which names the file, where it cannot be read; who asks again has it read again.
        """

    def done(self, number: int, event: Any | None) -> None:
        """Block `number` has been copied once `event` has passed; None: now."""
