"""Where in the package the models lie that come with it. Reads nothing but names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from renderer.catalog.data import DEMO, DEMO_EDIT, PROCESSOR, TOKENIZER
from renderer.catalog.model import Model

_PACKAGE = Path(__file__).parents[1] / "demo"
_DRAWS, _EDITS = _PACKAGE / "model", _PACKAGE / "edit_model"


def located(model: Model) -> Model:
    """A model of the package with its files; any other as it is. The one that edits has the other's VAE."""
    if model.id == DEMO.id:
        return replace(model, folder=_DRAWS)
    if model.id == DEMO_EDIT.id:
        return replace(
            model,
            files={
                "transformer": _EDITS / "transformer/diffusion_pytorch_model.safetensors",
                "text_encoder": _EDITS / "text_encoder/model.safetensors",
                "vae": _DRAWS / "vae/diffusion_pytorch_model.safetensors",
                "tokenizer": _EDITS / TOKENIZER,
                "processor": _EDITS / PROCESSOR,
            },
        )
    return model
