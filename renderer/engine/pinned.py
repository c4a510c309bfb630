"""Host memory as the GPU copies it fastest: pinned, and no larger than asked for. Knows nothing of what lies in it."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import sys
import threading
from collections.abc import Callable

import torch

from renderer.engine.device import Device
from renderer.errors import MachineError

LOG = logging.getLogger(__name__)

PINNING_HINT = "raise the limit on locked memory (ulimit -l unlimited), or free host memory"
SLOWER = f"copies to the GPU take several times as long (7 times beside an H200); {PINNING_HINT}"

_PIN_FLAGS = 0  # cudaHostRegisterDefault
_MADV_POPULATE_WRITE = 23  # Linux 5.14; where there is none, the driver asks for the pages one by one
_LIBC = ctypes.CDLL(None)
"""Its calls let other threads run; those of `mmap` do not, and the imports would wait for every page."""


def host_buffer(
    size: int, device: Device, fill: Callable[[torch.Tensor], None] | None = None, shared: tuple[int, int] | None = None
) -> torch.Tensor:
    """Flat host memory of `size` bytes, pinned where there is a GPU and the system allows it; `unpinned` tells.

    It is this process's alone, or the part of a memory that is `shared` with others: its descriptor, and where the
    part begins. Each process pins it for itself.

    torch's own pinned memory is rounded up to a power of two, up to twice what a block has; this is not. `fill` is
    called before the memory is pinned: pages that a read has touched are pinned several times as fast as fresh ones,
    which the driver asks for one by one.

    What could not be pinned is as good to copy from, and to: when such a copy's call returns, the driver has taken the
    bytes over or brought them. It is slower, and the call does not return before that.
    """
    buffer, status = _host_memory(size, device, fill, shared)
    if status != 0:
        _UNPINNED.add(size, status)
    return buffer


def pinned_buffer(size: int, device: Device, fill: Callable[[torch.Tensor], None] | None = None) -> torch.Tensor:
    """The same for who wants it pinned or not at all. Raises `MachineError` when it cannot be pinned."""
    buffer, status = _host_memory(size, device, fill)
    if status != 0:
        message = f"{size / 2**20:.0f} MiB of host memory cannot be pinned (CUDA error {status})"
        raise MachineError(message, hint=PINNING_HINT)
    return buffer


def sent(tensor: torch.Tensor, device: str) -> torch.Tensor:
    """A small tensor of the host on a device, its bits as they are; the host goes on, where memory can be pinned."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    try:
        tensor = tensor.pin_memory()  # torch keeps it until it is copied
    except RuntimeError:
        return tensor.to(device)
    return tensor.to(device, non_blocking=True)


def unpinned() -> str:
    """What a picture of this process should say of host memory that could not be pinned; empty where all could."""
    return _UNPINNED.words


def _host_memory(
    size: int, device: Device, fill: Callable[[torch.Tensor], None] | None, shared: tuple[int, int] | None = None
) -> tuple[torch.Tensor, int]:
    """The memory, and CUDA's status: 0 where it is pinned, or need not be."""
    descriptor, begin = shared or (-1, 0)
    memory = _Memory(descriptor, max(size, 1), offset=begin)
    with contextlib.suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    buffer = torch.frombuffer(memory, dtype=torch.uint8, count=size)
    if fill is not None:
        fill(buffer)
    if shared is not None and device == "cuda":  # what another process has filled has no pages here yet
        _LIBC.madvise(ctypes.c_void_p(buffer.data_ptr()), ctypes.c_size_t(size), _MADV_POPULATE_WRITE)
    return buffer, memory.pin(buffer.data_ptr(), size) if device == "cuda" else 0


class _Unpinned:
    """What this process could not pin: said in the log the first time, and kept for the sidecars."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.words = ""

    def add(self, size: int, status: int) -> None:
        with self._lock:
            if not self.words:
                LOG.warning(
                    "%.0f MiB of host memory cannot be pinned (CUDA error %d): %s", size / 2**20, status, SLOWER
                )
            self.words = f"host memory could not all be pinned: {SLOWER}"


_UNPINNED = _Unpinned()


class _Memory(mmap.mmap):
    """Memory that may be pinned, and then is let go of by the driver before it is unmapped.

    The other way round, another thread may be given the same addresses in between, and the driver takes its memory for
    what it still knows as pinned.
    """

    _pinned_at: int | None = None

    def pin(self, address: int, size: int) -> int:
        """Pin it; CUDA's status, 0 when it is."""
        status = int(torch.cuda.cudart().cudaHostRegister(address, size, _PIN_FLAGS))
        if status == 0:
            self._pinned_at = address
        elif torch.cuda.is_available():
            with contextlib.suppress(RuntimeError):  # the next launch in this thread is told of the failed call: this
                torch.ones(1, device="cuda")
        return status

    def __del__(self) -> None:
        if self._pinned_at is not None and not sys.is_finalizing():
            torch.cuda.cudart().cudaHostUnregister(self._pinned_at)
