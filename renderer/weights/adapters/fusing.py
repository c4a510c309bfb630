"""LoRAs that become part of a model's weights: what is added to which of its tensors. Imports no torch.

Whoever reads a tensor of a checkpoint adds it, in float32, before the codec's rounding (`renderer.weights.convert`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from renderer.catalog import MODELS, Model
from renderer.errors import ModelError
from renderer.families import Network
from renderer.families.family import Shape
from renderer.weights import places
from renderer.weights.adapters.alphas import Alphas, told_alphas
from renderer.weights.adapters.landing import LoraLayer, land
from renderer.weights.adapters.targets import targets
from renderer.weights.adapters.whereabouts import identity_of, path_of


@dataclass(frozen=True, slots=True)
class FileToFuse:
    """A LoRA's file and its weight; `content` is the identity of what it held when it was found."""

    path: Path
    weight: float
    content: str

    def check(self) -> None:
        """Raise `ModelError` where it holds something else by now."""
        if identity_of(self.path) != self.content:
            raise ModelError(f"{self.path}: has changed while it was read", hint="run the same command again")


ToFuse = tuple[FileToFuse, ...]


@dataclass(frozen=True, slots=True)
class Addition:
    """What one LoRA adds to one tensor: its layer's `part`, times `weight`."""

    layer: LoraLayer
    part: Literal["weight", "bias"]
    alphas: Alphas | None
    weight: float


def files_to_fuse(model: Model) -> ToFuse:
    """The files of the LoRAs that are fused into a model. Raises `ModelError` for one that is not here.

    Whoever asks which model that is asks afterwards: a file that changes in between is found by `check`.
    """
    found = []
    for each in model.fused:
        path = path_of(each.source)
        if path is None:
            raise places.lacks(places.look(MODELS[each.source]), "")
        found.append(FileToFuse(path, each.weight, identity_of(path)))
    return tuple(found)


def additions(fused: ToFuse, title: str, network: Network, shapes: Mapping[str, Shape]) -> dict[str, list[Addition]]:
    """What LoRAs add to the tensors of a network that have these shapes, by the hub's names.

    Raises `ModelError` for a file of which a key fits none.
    """
    found: dict[str, list[Addition]] = {}
    layers = targets(title, network, shapes)
    for each in fused:
        adapter = land(each.path, layers)
        alphas = told_alphas(each.path, adapter.metadata)
        for module, layer in adapter.layers.items():
            parts = layer.parts if layer.kind == "difference" else ("weight",)
            for part in ("weight", "bias"):
                if part in parts:
                    found.setdefault(f"{module}.{part}", []).append(Addition(layer, part, alphas, each.weight))
    return found
