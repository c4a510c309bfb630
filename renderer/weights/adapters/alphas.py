"""How strongly a LoRA's factors count, where that stands beside its tensors: peft's configuration.

diffusers writes it into the file's metadata, peft into `adapter_config.json` beside `adapter_model.safetensors`. A
layer with an alpha of its own in the file goes by that. Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from renderer.errors import ModelError
from renderer.job import Value

_METADATA = "lora_adapter_metadata"
_CONFIG = "adapter_config.json"
_BESIDE = "adapter_model.safetensors"
_PREFIX = "transformer."
_HINT = "make the LoRA again, or remove what it says of itself"
_MOST_CONFIG_BYTES = 10**6


class Alphas(Value):
    """peft's `lora_alpha`, and those of modules that differ, by the ends of their names; its `r`.

    With `rslora` it is the rank's root that an alpha is divided by.
    """

    alpha: float = Field(allow_inf_nan=False)
    rank: int = Field(default=1, ge=1)
    of_modules: dict[str, float] = Field(default_factory=dict)
    rslora: bool = False

    def scale(self, module: str, rank: int | None) -> float:
        """What a module's product is multiplied by; where its factors have no rank, by the rank that is told."""
        ends = (value for end, value in self.of_modules.items() if f".{module}".endswith(f".{end}"))
        divisor = rank or self.rank
        return next(ends, self.alpha) / (math.sqrt(divisor) if self.rslora else divisor)


def told_alphas(path: Path, metadata: Mapping[str, str]) -> Alphas | None:
    """What a LoRA's file, or the configuration beside it, says; None where neither does.

    Raises `ModelError` for what is said and cannot be understood.
    """
    if _METADATA in metadata:
        return _read(path, metadata[_METADATA].encode(), _PREFIX)
    config = path.with_name(_CONFIG)
    if path.name == _BESIDE and config.is_file():
        try:
            with config.open("rb") as stream:
                return _read(config, stream.read(_MOST_CONFIG_BYTES), "")
        except OSError as error:
            raise ModelError(f"{config}: cannot be read: {error.strerror or error}") from error
    return None


class _Told(BaseModel):
    """What of peft's configuration counts here."""

    lora_alpha: float | None = Field(default=None, allow_inf_nan=False)
    alpha: float | None = Field(default=None, allow_inf_nan=False)
    r: int = Field(default=1, ge=1)
    alpha_pattern: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], Annotated[float, Field(allow_inf_nan=False)]] = (
        Field(default_factory=dict)
    )
    use_rslora: bool = False


def _read(path: Path, text: bytes, prefix: str) -> Alphas | None:
    try:
        found = json.loads(text)
        told = _Told.model_validate({str(key).removeprefix(prefix): value for key, value in found.items()})
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: what it says of its alphas cannot be understood", hint=_HINT) from error
    alpha = told.alpha if told.lora_alpha is None else told.lora_alpha
    if alpha is None:
        return None
    return Alphas(alpha=alpha, rank=told.r, of_modules=told.alpha_pattern, rslora=told.use_rslora)
