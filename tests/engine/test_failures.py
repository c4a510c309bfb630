"""What torch and DiffSynth raise, and what becomes of it."""

from __future__ import annotations

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
]
LOST = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: device-side assert triggered"),
]


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
