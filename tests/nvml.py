"""NVML in the place of `pynvml`, with the cards that are described: no machine of ours has those that make trouble.

Errors are pynvml's own; a question that no card here answers raises "not supported", as most do on most machines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

GIB = 2**30
NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
LOST = pynvml.NVML_ERROR_GPU_IS_LOST


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a split card; `places` are its GPU instance and its compute instance."""

    uuid: str
    gib: int
    places: tuple[int, int] = (0, 0)
    name: bytes = b""


@dataclass(frozen=True, slots=True)
class Card:
    """What NVML says of a card: an error in the place of its memory, a list of parts where it is split."""

    uuid: str
    name: bytes = b"NVIDIA GeForce RTX 4090"
    memory: int = 24 * GIB
    error: int = 0
    capability: tuple[int, int] = (8, 9)
    cores: int = 0
    parts: tuple[Part, ...] | None = None
    lost: bool = False
    more: dict[str, Any] = field(default_factory=dict)


class Nvml:
    """The functions of pynvml that are asked. `init` is an error that its start raises."""

    NVMLError = pynvml.NVMLError
    NVMLError_NotSupported = pynvml.NVMLError_NotSupported
    NVMLError_LibraryNotFound = pynvml.NVMLError_LibraryNotFound
    NVMLError_DriverNotLoaded = pynvml.NVMLError_DriverNotLoaded
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    NVML_VOLATILE_ECC = pynvml.NVML_VOLATILE_ECC

    def __init__(self, *cards: Card, init: int = 0) -> None:
        self._cards = cards
        self._init = init

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def answer(handle: Card | Part | None = None, *_: object) -> Any:
            more = handle.more if isinstance(handle, Card) else {}
            if name not in more:
                raise pynvml.NVMLError(NOT_SUPPORTED)
            return more[name]

        return answer

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's names
        if self._init:
            raise pynvml.NVMLError(self._init)

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Nothing to close."""

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.95"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:  # noqa: N802
        return 13010

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        if self._cards[index].lost:
            raise pynvml.NVMLError(LOST)
        return self._cards[index]

    def nvmlDeviceGetName(self, handle: Card | Part) -> str:  # noqa: N802
        return handle.name.decode()  # as pynvml does

    def nvmlDeviceGetUUID(self, handle: Card | Part) -> str:  # noqa: N802
        return handle.uuid

    def nvmlDeviceGetMemoryInfo(self, handle: Card | Part) -> SimpleNamespace:  # noqa: N802
        if isinstance(handle, Card) and handle.error:
            raise pynvml.NVMLError(handle.error)
        size = handle.gib * GIB if isinstance(handle, Part) else handle.memory
        return SimpleNamespace(total=size, free=size - GIB, used=GIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: Card) -> tuple[int, int]:  # noqa: N802
        return handle.capability

    def nvmlDeviceGetNumGpuCores(self, handle: Card) -> int:  # noqa: N802
        return handle.cores

    def nvmlDeviceGetMaxClockInfo(self, _: Card, __: int) -> int:  # noqa: N802
        return 2000

    def nvmlDeviceGetMigMode(self, handle: Card) -> list[int]:  # noqa: N802
        if handle.parts is None:
            raise pynvml.NVMLError(NOT_SUPPORTED)
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Card) -> int:  # noqa: N802
        return 7 if handle.parts else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Card, number: int) -> Part:  # noqa: N802
        if handle.parts is None or number >= len(handle.parts):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return handle.parts[number]

    def nvmlDeviceGetGpuInstanceId(self, handle: Part) -> int:  # noqa: N802
        return handle.places[0]

    def nvmlDeviceGetComputeInstanceId(self, handle: Part) -> int:  # noqa: N802
        return handle.places[1]
