"""Where the demo model lies: in the package, beside this file."""

from __future__ import annotations

from pathlib import Path

from renderer.errors import MachineError


def folder() -> Path:
    """The demo model's folder, in Qwen-Image's layout. Raises `MachineError` where the package came without it."""
    place = Path(__file__).with_name("model")
    if not (place / "tokenizer" / "vocab.json").is_file():
        raise MachineError(f"the demo model is missing from {place}", hint="install the package again")
    return place
