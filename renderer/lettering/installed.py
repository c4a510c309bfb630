"""Whether there is a reader on this machine. Imports none."""

from __future__ import annotations

import importlib.util

from renderer.errors import MachineError
from renderer.text import installing

OCR = "rapidocr"

_NEEDED = (OCR, "onnxruntime")


def check_installed() -> None:
    """Raise `MachineError` where there is no reader."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        message = f"lettering is to be read, and {' and '.join(missing)} is not installed"
        raise MachineError(message, hint=f"{installing('lettering')}, or say lettering: none")
