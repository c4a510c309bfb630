"""What DiffSynth, transformers and torch raise, in our words. The only place that knows their messages.

An explanation keeps no reference to the traceback it explains: a traceback holds the failed call's tensors, and memory
is given back only when they are gone. The text of the traceback goes along as a note, for the log.
"""

from __future__ import annotations

import errno
import traceback
from importlib import metadata

import torch

from renderer.errors import DeviceLostError, MachineError, ModelError, OutOfMemoryError, PictureError, RendererError
from renderer.job.precisions import BOUNDED, DEFAULT_PRECISION

_NOTE_CHARACTERS = 4000

_OUT_OF_MEMORY = (  # what libraries say that do not raise torch.OutOfMemoryError
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "could not create a memory object",
    "_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",  # cuDNN's, of the device or the host
)

_OF_A_FULL_DEVICE = (  # what is said also for other reasons, but not where there was no room for a workspace or handle
    "unable to find an engine to execute this computation",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUSOLVER_STATUS_NOT_INITIALIZED",
)

_LEFT = 16
"""A device with less than one in so many bytes left, or than 1 GiB, is full: it has no room for a workspace."""


def explain_opening(error: Exception) -> RendererError:
    """Why a model could not be opened."""
    return _with_note(_opening(error), error)


def explain_rendering(error: Exception) -> RendererError:
    """Why a picture could not be rendered."""
    return _with_note(_rendering(error), error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the GPU or the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return any(words in text for words in _OUT_OF_MEMORY) or (
        any(words in text for words in _OF_A_FULL_DEVICE) and _is_full()
    )


def _is_full() -> bool:
    """Whether the GPU has next to nothing left for this process: of its own memory, or of what it is allowed."""
    if not torch.cuda.is_available():
        return False
    try:
        free, total = torch.cuda.mem_get_info()
        allowed = torch.cuda.get_per_process_memory_fraction() * total - torch.cuda.memory_reserved()
    except RuntimeError:  # a device that does not even say so
        return False
    return min(free, allowed) < max(2**30, total // _LEFT)


def is_device_lost(error: BaseException) -> bool:
    """Whether the CUDA context is beyond use: every later call in this process would fail as well."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def _opening(error: Exception) -> RendererError:
    text = _first_line(error)
    if isinstance(error, RendererError):
        return error
    if is_out_of_memory(error):
        hint = f"use a profile that keeps less there: {', then '.join(BOUNDED)}; or --precision {DEFAULT_PRECISION}"
        return MachineError(f"the model does not fit into memory: {text}", hint=hint)
    if is_device_lost(error):
        return MachineError(f"the GPU does not work: {text}", hint="see `renderer doctor` and the driver's log")
    return (
        _wrong_weights(error, text)
        or _wrong_versions(error, text)
        or MachineError(f"the pipeline did not open: {type(error).__name__}: {text}", hint="the log has the traceback")
    )


def _wrong_weights(error: Exception, text: str) -> ModelError | None:
    if isinstance(error, RuntimeError) and "state_dict" in text:
        return ModelError(f"the weights do not fit their network: {text}")
    return None


def _wrong_versions(error: Exception, text: str) -> MachineError | None:
    """DiffSynth's VRAM management names transformers' classes, and transformers renames them now and then."""
    if not (isinstance(error, AttributeError) and "transformers" in text and "has no attribute" in text):
        return None
    versions = f"diffsynth {metadata.version('diffsynth')} and transformers {metadata.version('transformers')}"
    hint = 'install "transformers>=5.2,<5.16", as pyproject.toml says'
    return MachineError(f"{versions} do not fit together: {text}", hint=hint)


def _rendering(error: Exception) -> RendererError:
    text = _first_line(error)
    if isinstance(error, RendererError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError(
            f"the picture did not fit into memory: {text}",
            hint="a smaller size, or a profile that keeps fewer weights on the GPU",
        )
    if is_device_lost(error):
        return DeviceLostError(f"the GPU failed: {text}", hint="a new worker tries again; see the driver's log")
    return PictureError(f"{type(error).__name__}: {text}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _with_note(explanation: RendererError, error: Exception) -> RendererError:
    text = "".join(traceback.format_exception(error))[-_NOTE_CHARACTERS:]
    explanation.add_note(text)
    return explanation.with_traceback(None)  # it has one where it is the error itself
