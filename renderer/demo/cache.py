"""Where the demo models lie: in the package, beside this file."""

from __future__ import annotations

from pathlib import Path

from renderer.catalog import Model
from renderer.catalog import located as in_package
from renderer.errors import MachineError


def folder() -> Path:
    """The demo model's folder, in Qwen-Image's layout. Raises `MachineError` where the package came without it."""
    place = Path(__file__).with_name("model")
    if not (place / "tokenizer" / "vocab.json").is_file():
        raise MachineError(f"the demo model is missing from {place}", hint="install the package again")
    return place


def located(model: Model) -> Model:
    """One of the package's models with its files; any other as it is.

    Raises `MachineError` where the package came without them.
    """
    found = in_package(model)
    if found is not model and found.folder is not None:
        folder()
    for path in found.files.values() if found is not model else ():
        if not path.exists():
            raise MachineError(f"{model.id} is not whole: {path} is missing", hint="install the package again")
    return found
