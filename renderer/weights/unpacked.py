"""A downloaded checkpoint that reads like its packed store: the same files, tensors and bits, made as they are read.

For whoever opens a model whose store nobody has made. Each weight is encoded when it is read, as `pack` would
have done it, so that a precision means the same weights whatever they come from. Knows nothing of pipelines and slots.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from renderer.catalog import Role
from renderer.errors import ModelError
from renderer.families import Family
from renderer.job import Stored
from renderer.weights.adapters.fusing import ToFuse
from renderer.weights.checkpoint import Checkpoint, open_together, with_additions
from renderer.weights.convert import Maker
from renderer.weights.layout import PackedFile, PackedTensor, plan_files
from renderer.weights.store import TensorPlace, views


@dataclass(frozen=True, slots=True)
class UnpackedFile:
    """What one file of a store would hold: `BlockFile`, made out of a checkpoint whenever it is read."""

    checkpoint: Checkpoint
    plan: PackedFile
    tensors: tuple[TensorPlace, ...]

    @property
    def network(self) -> Role:
        return self.plan.network

    @property
    def kind(self) -> str:
        return self.plan.kind

    @property
    def number(self) -> int | None:
        return self.plan.number

    @property
    def bytes(self) -> int:
        return sum(place.bytes for place in self.tensors)

    @property
    def is_as_it_was(self) -> bool:
        """Whether its tensors are the checkpoint's own bytes under the hub's names, and none is in another form."""
        if self.checkpoint.has_other_names or self.checkpoint.additions:
            return False
        sources = [(each, self.checkpoint.tensors[each.source]) for each in self.plan.tensors]
        return all(
            each.codec.is_plain and source.is_plain and source.dtype == each.part.dtype for each, source in sources
        )

    def read_into(self, buffer: torch.Tensor) -> None:
        """The whole data into the beginning of a uint8 tensor of the CPU. Raises `ModelError`."""
        memory, done = memoryview(buffer.numpy()), 0
        for piece in self.pieces(memory):
            memory[done : done + len(piece)] = piece
            done += len(piece)

    def check(self) -> None:
        """Nothing: the files it is made of were held against their hashes when they were found."""

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """All bytes in order, some at a time, each piece valid until the next, in no buffer but its own.

        Raises `ModelError`.
        """
        del buffer
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with ExitStack() as stack:
            sources: dict[Path, int] = {}
            for path in {path for each in self.plan.tensors for path in self.checkpoint.tensors[each.source].paths}:
                try:
                    sources[path] = os.open(path, os.O_RDONLY)
                except OSError as error:
                    raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
                stack.callback(os.close, sources[path])
            yield from Maker(self.checkpoint, sources, device, {}).pieces(self.plan)

    def tensors_of(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Some of the tensors, in host memory; a weight is read for any of its parts."""
        plan = [tensor for tensor in self.plan.tensors if tensor.name in names]
        sources = {tensor.source for tensor in plan}
        needed = [each for each in self.plan.tensors if each in plan or (each.is_first and each.source in sources)]
        part = UnpackedFile(self.checkpoint, replace(self.plan, tensors=tuple(needed)), _places(needed))
        flat = torch.empty(part.bytes, dtype=torch.uint8)
        part.read_into(flat)
        return {name: tensor for name, tensor in views(flat, part.tensors).items() if name in names}


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A whole checkpoint, as an open store is; `sources` are each network's own files.

    `formats` are the forms that these are in, where that is not the hub's own.
    """

    family: Family
    precision: Stored
    files: tuple[UnpackedFile, ...]
    sources: Mapping[Role, Sequence[Path]]
    tokenizer: Path
    formats: Mapping[Role, str]
    processor: Path | None = None


def unpacked(
    source: Mapping[Role, Sequence[Path]],
    tokenizer: Path,
    precision: Stored,
    fused: ToFuse = (),
    processor: Path | None = None,
) -> Unpacked:
    """Each network's files and the tokenizer's folder as a store of a precision, with LoRAs `fused` into the DiT.

    `processor` is the folder of what prepares pictures for the vision tower, where a model has one.

    Reads headers, not data. Raises `ModelError`, which names the file, when they are not a whole model of a family.
    """
    checkpoints = open_together(source, edits=processor is not None)
    checkpoints["transformer"] = with_additions(checkpoints["transformer"], fused)
    family = next(iter(checkpoints.values())).family
    plans = plan_files(family, {network: each.shapes for network, each in checkpoints.items()}, precision)
    files = tuple(UnpackedFile(checkpoints[plan.network], plan, _places(plan.tensors)) for plan in plans)
    formats = {role: checkpoint.form for role, checkpoint in checkpoints.items() if checkpoint.form}
    return Unpacked(family, precision, files, source, tokenizer, formats, processor)


def _places(tensors: Sequence[PackedTensor]) -> tuple[TensorPlace, ...]:
    places, offset = [], 0
    for tensor in tensors:
        places.append(TensorPlace(tensor.name, tensor.part.dtype, tensor.part.shape, offset, tensor.bytes))
        offset += tensor.bytes
    return tuple(places)
