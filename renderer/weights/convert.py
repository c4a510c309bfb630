"""A checkpoint's tensors as the codecs of a packed file keep them, a piece at a time: read, converted, handed on.

Plain reads into one buffer that is used again, because the pages of a mapped file would count as this process's memory.
Knows nothing of folders and threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from renderer.errors import ModelError
from renderer.weights.adapters.factors import sum_of
from renderer.weights.checkpoint import Checkpoint
from renderer.weights.codecs import WEIGHT
from renderer.weights.codecs.rows import ROW_CODERS, EncodedRows, Loss, RowCoder, ScaledRows
from renderer.weights.layout import PackedFile, PackedTensor
from renderer.weights.readers import TensorAt
from renderer.weights.readers.values import VALUES

_PIECE_BYTES = 2**20
"""Of the source, at a time, on the CPU: what a core's cache holds, and memory that need not be asked for anew; eight
times as much is a quarter as fast. A row that is longer is a piece of its own."""

_PIECE_BYTES_GPU = 2**24


class Maker:
    """Brings one file's tensors from the checkpoint into its codecs' parts, piece by piece."""

    def __init__(
        self, checkpoint: Checkpoint, sources: Mapping[Path, int], device: str, errors: dict[str, float]
    ) -> None:
        self._checkpoint, self._sources, self._device, self._errors = checkpoint, sources, device, errors
        self._piece_bytes = _PIECE_BYTES if device == "cpu" else _PIECE_BYTES_GPU
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._later: dict[str, torch.Tensor] = {}
        self._besides: dict[tuple[Path, int], torch.Tensor] = {}

    def pieces(self, file: PackedFile) -> Iterator[memoryview]:
        """All bytes of a file's tensors, in order."""
        for tensor in file.tensors:
            if tensor.is_first:
                yield from self._encoded(file, tensor)
            else:
                yield _memory(self._later.pop(tensor.name))

    def _encoded(self, file: PackedFile, tensor: PackedTensor) -> Iterator[memoryview]:
        """A matrix's first part, some rows at a time; the others, which are small, wait for their turns."""
        source = self._checkpoint.tensors[tensor.source]
        numbers = ROW_CODERS[tensor.codec.name]
        later: dict[str, list[torch.Tensor]] = {suffix: [] for suffix in tensor.codec.dtypes if suffix != WEIGHT}
        losses: list[Loss] = []
        for piece in self._with_additions(tensor.source, self._read(source)):
            found = self._encoded_rows(numbers, piece)
            if not found.is_finite:
                raise _not_finite(tensor, source)
            for suffix, parts in later.items():
                parts.append(found.parts[suffix])
            losses += [found.loss] if found.loss is not None else []
            yield _memory(found.parts[WEIGHT])
        self._later |= {tensor.name.removesuffix(WEIGHT) + suffix: torch.cat(parts) for suffix, parts in later.items()}
        if losses:
            error = _relative(losses)
            self._errors[f"{file.name.removesuffix('.safetensors')}/{tensor.name}"] = round(error, 6)

    def _encoded_rows(self, numbers: RowCoder, piece: torch.Tensor | ScaledRows) -> EncodedRows:
        """Rows as a codec keeps them; those that are in its form already keep their bits."""
        if isinstance(piece, torch.Tensor):
            return numbers.encode(piece, self._device)
        return numbers.take_over(piece) or numbers.encode(piece.whole(), self._device)

    def _read(self, source: TensorAt) -> Iterator[torch.Tensor | ScaledRows]:
        """A tensor's values, some rows at a time, in a buffer that the next piece may overwrite."""
        rows = max(self._piece_bytes // source.row_memory, 1)
        step = rows * source.row_bytes
        if self._buffer.numel() < min(step, source.bytes):
            self._buffer = _buffer(max(step, self._piece_bytes), self._device)
        values = VALUES[source.reader].values
        self._besides.clear()
        for begin in range(0, source.bytes, step):
            raw = self._buffer[: min(step, source.bytes - begin)]
            _read_exactly(source, self._sources[source.path], raw, begin)
            yield values(source, begin // source.row_bytes, raw, self._beside)

    def _with_additions(
        self, source: str, pieces: Iterator[torch.Tensor | ScaledRows]
    ) -> Iterator[torch.Tensor | ScaledRows]:
        """A tensor's rows with what LoRAs add to them, in float32: the rounding that comes is the only one."""
        given = self._checkpoint.additions.get(source)
        if not given:
            yield from pieces
            return
        added, done = sum_of(given), 0
        for piece in pieces:
            rows = piece if isinstance(piece, torch.Tensor) else piece.whole()
            yield rows.float() + added[done : done + len(rows)]
            done += len(rows)

    def _beside(self, place: TensorAt) -> torch.Tensor:
        """All bytes of what lies beside a tensor, read once for all its rows."""
        where = place.path, place.offset
        if where not in self._besides:
            self._besides[where] = torch.empty(place.bytes, dtype=torch.uint8)
            _read_exactly(place, self._sources[place.path], self._besides[where], 0)
        return self._besides[where]


def _relative(losses: Sequence[Loss]) -> float:
    """The relative error of a matrix whose rows lost so much."""
    difference = original = 0.0
    for loss in losses:
        difference += loss.difference
        original += loss.original
    return (difference / original) ** 0.5 if original else 0.0


def _not_finite(tensor: PackedTensor, source: TensorAt) -> ModelError:
    message = f'{source.path}: tensor "{tensor.source}" has values that are not finite'
    return ModelError(message, hint="fetch it again: it is damaged")


def _buffer(size: int, device: str) -> torch.Tensor:
    """Host memory to read into, pinned where that helps and is allowed."""
    if device != "cpu":
        with suppress(RuntimeError):  # the limit on locked memory: copies from other memory are slower, no more
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    return torch.empty(size, dtype=torch.uint8)


def _read_exactly(source: TensorAt, descriptor: int, buffer: torch.Tensor, begin: int) -> None:
    memory = memoryview(buffer.numpy())
    done = 0
    while done < len(memory):
        try:
            count = os.preadv(descriptor, [memory[done:]], source.offset + begin + done)
        except OSError as error:
            raise ModelError(f"{source.path}: cannot be read: {error.strerror or error}") from error
        if count == 0:
            raise ModelError(f"{source.path}: was cut while it was read", hint="fetch it again")
        done += count


def _memory(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())
