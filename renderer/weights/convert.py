"""A checkpoint's tensors in the forms of a packed file, a piece at a time: read, converted, handed on.

Plain reads into one buffer that is used again, because the pages of a mapped file would count as this process's memory.
Knows nothing of folders and threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from renderer.errors import ModelError
from renderer.weights.checkpoint import Checkpoint, Stored
from renderer.weights.fp8 import quantise, taken_over
from renderer.weights.layout import PackedFile, PackedTensor

_PIECE_BYTES = 2**20
"""Of the source, at a time, on the CPU: what a core's cache holds, and memory that need not be asked for anew; eight
times as much is a quarter as fast. A row that is longer is a piece of its own."""

_PIECE_BYTES_GPU = 2**24
_NO_NUMBER = 0x7F80
"""The exponent of bf16's infinities and NaNs, in its place."""

_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class Maker:
    """Brings one file's tensors from the checkpoint into their forms, piece by piece."""

    def __init__(
        self, checkpoint: Checkpoint, sources: Mapping[Path, int], device: str, errors: dict[str, float]
    ) -> None:
        self._checkpoint, self._sources, self._device, self._errors = checkpoint, sources, device, errors
        self._piece_bytes = _PIECE_BYTES if device == "cpu" else _PIECE_BYTES_GPU
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._scales: dict[str, torch.Tensor] = {}

    def pieces(self, file: PackedFile) -> Iterator[memoryview]:
        """All bytes of a file's tensors, in order."""
        for tensor in file.tensors:
            stored = self._checkpoint.tensors[tensor.source]
            match tensor.form:
                case "fp8":
                    yield from self._quantised(file, tensor, stored)
                case "scale":
                    yield _memory(self._scales.pop(tensor.source))
                case "bf16":
                    for piece in self._read(stored):
                        found = piece if stored.dtype == "BF16" else piece.to(torch.bfloat16)
                        if _exponents(found).amax() == _NO_NUMBER:
                            raise _not_finite(tensor, stored)
                        yield _memory(found)

    def _quantised(self, file: PackedFile, tensor: PackedTensor, stored: Stored) -> Iterator[memoryview]:
        scales: list[torch.Tensor] = []
        difference = original = 0.0
        for piece in self._read(stored):
            rows = piece.view(-1, stored.shape[1])
            found = taken_over(rows) if stored.dtype == "F8_E4M3" else quantise(rows.to(self._device))
            scales.append(found.scale.cpu())
            if not scales[-1].isfinite().all():
                raise _not_finite(tensor, stored)
            difference += found.difference
            original += found.original
            yield _memory(found.values.cpu())
        self._scales[tensor.source] = torch.cat(scales)
        error = (difference / original) ** 0.5 if original else 0.0
        self._errors[f"{file.name.removesuffix('.safetensors')}/{tensor.name}"] = round(error, 6)

    def _read(self, stored: Stored) -> Iterator[torch.Tensor]:
        """A tensor's values, flat, some rows at a time, in a buffer that the next piece overwrites."""
        row_bytes = stored.bytes // stored.shape[0]
        step = max(self._piece_bytes // row_bytes, 1) * row_bytes
        if self._buffer.numel() < min(step, stored.bytes):
            self._buffer = _buffer(max(step, self._piece_bytes), self._device)
        for begin in range(0, stored.bytes, step):
            size = min(step, stored.bytes - begin)
            _read_exactly(stored, self._sources[stored.path], self._buffer[:size], begin)
            yield self._buffer[:size].view(_DTYPES[stored.dtype])


def _exponents(values: torch.Tensor) -> torch.Tensor:
    """The exponents' bits, all set where a value is not finite; looking with `isfinite` takes 28 times as long."""
    return values.view(torch.int16).bitwise_and(_NO_NUMBER)


def _not_finite(tensor: PackedTensor, stored: Stored) -> ModelError:
    message = f'{stored.path}: tensor "{tensor.source}" has values that are not finite'
    return ModelError(message, hint="fetch it again: it is damaged")


def _buffer(size: int, device: str) -> torch.Tensor:
    """Host memory to read into, pinned where that helps and is allowed."""
    if device != "cpu":
        with suppress(RuntimeError):  # the limit on locked memory: copies from other memory are slower, no more
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    return torch.empty(size, dtype=torch.uint8)


def _read_exactly(stored: Stored, descriptor: int, buffer: torch.Tensor, begin: int) -> None:
    memory = memoryview(buffer.numpy())
    done = 0
    while done < len(memory):
        try:
            count = os.preadv(descriptor, [memory[done:]], stored.offset + begin + done)
        except OSError as error:
            raise ModelError(f"{stored.path}: cannot be read: {error.strerror or error}") from error
        if count == 0:
            raise ModelError(f"{stored.path}: was cut while it was read", hint="fetch it again")
        done += count


def _memory(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())
