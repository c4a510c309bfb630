"""Blocks that lie in one file of a store, with what stands around them: read one by one, as if each had its own.

A text encoder's vision tower is such a file, whole as it was: only edits look with it. Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from renderer.errors import ModelError
from renderer.weights.index import STORE_HINT
from renderer.weights.layout import ALIGNMENT
from renderer.weights.store import BlockFile, TensorPlace


@dataclass(frozen=True, slots=True)
class BlockWithin:
    """One block of a file. `tensors` are its own, by their names within it, where they lie in a slot.

    What is read is not held against the index: `file.check` does that for all blocks at once.
    """

    file: BlockFile
    tensors: tuple[TensorPlace, ...]
    begins: tuple[int, ...]
    bytes: int

    def read_into(self, buffer: torch.Tensor, *, direct: bool = False) -> None:
        """Read all of its tensors into the first `bytes` of a uint8 tensor of the CPU. Raises `ModelError`."""
        del direct  # it comes by way of the page cache: it is read for a few prompts, and again for the next
        memory = memoryview(buffer.numpy()).cast("B")
        try:
            with self.file.path.open("rb", buffering=0) as stream:
                for place, begin in zip(self.tensors, self.begins, strict=True):
                    part = memory[place.offset : place.offset + place.bytes]
                    self.file.fill(stream.fileno(), part, begin)
        except OSError as error:
            message = f"{self.file.path}: cannot be read: {error.strerror or error}"
            raise ModelError(message, hint=STORE_HINT) from error


def blocks_within(file: BlockFile, prefix: str) -> tuple[BlockWithin, ...]:
    """The blocks of a file whose tensors' names begin with `prefix` and a number, in order; all lie alike in a slot."""
    names = [place.name.removeprefix(prefix) for place in file.tensors if place.name.startswith(prefix)]
    count = 1 + max(int(name.partition(".")[0]) for name in names)
    found = tuple(_block(file, f"{prefix}{number}.") for number in range(count))
    assert all(each.tensors == found[0].tensors for each in found), f"{file.path}: blocks of several kinds"
    return found


def _block(file: BlockFile, prefix: str) -> BlockWithin:
    own = sorted((place for place in file.tensors if place.name.startswith(prefix)), key=lambda place: place.name)
    places = tuple(_laid(own, prefix))
    end = places[-1].offset + places[-1].bytes
    return BlockWithin(file, places, tuple(place.offset for place in own), -(-end // ALIGNMENT) * ALIGNMENT)


def _laid(own: list[TensorPlace], prefix: str) -> Iterator[TensorPlace]:
    offset = 0
    for place in own:
        yield TensorPlace(place.name.removeprefix(prefix), place.dtype, place.shape, offset, place.bytes)
        offset += -(-place.bytes // ALIGNMENT) * ALIGNMENT
