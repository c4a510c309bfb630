"""What torch and DiffSynth raise, and what becomes of it."""

from __future__ import annotations

import errno
import gc
import weakref

import pytest
import torch

from renderer.engine import failures
from renderer.errors import (
    BadPictureError,
    DeviceLostError,
    MachineError,
    OutOfMemoryError,
    PictureError,
    RendererError,
)

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError("std::bad_alloc"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
LOST = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: device-side assert triggered"),
]


OF_A_FULL_DEVICE = {
    "GET was unable to find an engine to execute this computation": PictureError,
    "FIND was unable to find an engine to execute this computation": PictureError,
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED": PictureError,
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`": DeviceLostError,
}
"""What is said for want of a workspace or a handle, and for other reasons: then it is this."""

GIB = 2**30


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A card of 80 GiB: what it has free, what this process holds of it, which part it may hold."""
    card = {"free": 40.0, "reserved": 8.0, "fraction": 1.0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (round(card["free"] * GIB), 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: round(card["reserved"] * GIB))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda: card["fraction"])
    return card


class TestFullDevice:
    @pytest.mark.parametrize("text", OF_A_FULL_DEVICE)
    def test_with_room_it_is_what_it_was(self, gpu: dict[str, float], text: str) -> None:
        """Words that have other causes too mean no want of memory where there is room."""
        assert gpu
        assert type(failures.explain_rendering(RuntimeError(text))) is OF_A_FULL_DEVICE[text]

    @pytest.mark.parametrize("text", OF_A_FULL_DEVICE)
    def test_where_the_card_is_full(self, gpu: dict[str, float], text: str) -> None:
        """Of next to nothing left, whoever holds the rest, no workspace can be had: the picture did not fit."""
        gpu["free"] = 0.5
        assert type(failures.explain_rendering(RuntimeError(text))) is OutOfMemoryError

    @pytest.mark.parametrize("text", OF_A_FULL_DEVICE)
    def test_where_this_process_may_have_no_more(self, gpu: dict[str, float], text: str) -> None:
        """The same within a limit, on a card that is free otherwise."""
        gpu |= {"fraction": 0.125, "reserved": 9.5}
        assert type(failures.explain_rendering(RuntimeError(text))) is OutOfMemoryError

    def test_without_a_gpu_nothing_is_full(self) -> None:
        """On the CPU these words are not asked about."""
        assert type(failures.explain_rendering(RuntimeError(next(iter(OF_A_FULL_DEVICE))))) is PictureError


class TestRendering:
    @pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
    def test_out_of_memory(self, error: Exception) -> None:
        """Each way in which memory runs out, on the GPU or the host, is one error."""
        assert type(failures.explain_rendering(error)) is OutOfMemoryError

    @pytest.mark.parametrize("error", LOST, ids=str)
    def test_lost_device(self, error: Exception) -> None:
        """An error that stays with the CUDA context is told apart: only a new process helps."""
        assert type(failures.explain_rendering(error)) is DeviceLostError

    def test_anything_else(self) -> None:
        """Another error fails the picture with its own words, and ends no worker."""
        explained = failures.explain_rendering(ValueError("shapes do not match\nat all"))
        assert type(explained) is PictureError
        assert explained.message == "ValueError: shapes do not match"

    def test_ours_stay_what_they_are(self) -> None:
        """An error of our own comes through as it is."""
        error = BadPictureError("flat")
        assert failures.explain_rendering(error) is error

    @pytest.mark.parametrize("kind", [MemoryError, BadPictureError])
    def test_nothing_holds_the_failed_calls_tensors(self, kind: type[Exception]) -> None:
        """An explanation keeps the traceback's text and none of its frames, so that memory can be given back."""

        def call() -> weakref.ref[torch.Tensor]:
            tensor = torch.zeros(1)
            held.append(weakref.ref(tensor))
            raise kind("too much")

        held: list[weakref.ref[torch.Tensor]] = []
        explained: RendererError | None = None
        try:
            call()
        except Exception as error:  # noqa: BLE001  # as the engine does
            explained = failures.explain_rendering(error)
        gc.collect()
        assert held[0]() is None
        assert explained is not None
        assert "in call\n" in explained.__notes__[0]


class TestOpening:
    @pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
    def test_out_of_memory(self, error: Exception) -> None:
        """A model that does not fit is this machine's fault, and the hint names what needs less."""
        explained = failures.explain_opening(error)
        assert type(explained) is MachineError
        assert "disk" in explained.hint

    def test_lost_device(self) -> None:
        """A card that does not work is this machine's fault."""
        assert type(failures.explain_opening(LOST[0])) is MachineError

    def test_anything_else(self) -> None:
        """Another error says its class and its words."""
        explained = failures.explain_opening(ZeroDivisionError("division by zero"))
        assert type(explained) is MachineError
        assert "ZeroDivisionError: division by zero" in explained.message


@pytest.mark.parametrize("error", [*OUT_OF_MEMORY, *LOST], ids=str)
def test_a_device_that_is_full_is_not_lost(error: Exception) -> None:
    """Though CUDA says both in the same words: with less on it, it goes on."""
    assert failures.is_device_lost(error) is (error in LOST)
