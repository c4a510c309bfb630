"""The layers of a model that a LoRA can be for, by their own names and as these are flattened. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from renderer import families
from renderer.catalog import MODELS, QWEN_IMAGE, Architecture, Model
from renderer.catalog.data import TRANSFORMER_FILES
from renderer.errors import ModelError
from renderer.families import Family, Network
from renderer.families.family import Shape, Shapes
from renderer.weights.checkpoint import open_checkpoint

_WEIGHT, _BIAS = ".weight", ".bias"


@dataclass(frozen=True, slots=True)
class Targets:
    """A network's layers. `title` is what the model is called, for people.

    `weights` are the shapes of what has a weight, by the module's name, and `biases` those of what has a bias too;
    `flat` is each module's name by how it is flattened with `_`. No two are flattened alike.
    """

    title: str
    network: Network
    weights: Mapping[str, Shape]
    biases: Mapping[str, Shape]
    flat: Mapping[str, str]

    @property
    def matrices(self) -> int:
        """How many layers multiply."""
        return sum(len(shape) == 2 for shape in self.weights.values())  # noqa: PLR2004  # a matrix has two

    def find(self, name: str) -> str | None:
        """The module of a name with dots or `_`; None where there is none."""
        return name if name in self.weights else self.flat.get(name)


def targets(title: str, network: Network, shapes: Mapping[str, Shape]) -> Targets:
    """The layers of a network whose tensors have these shapes, by the hub's names."""
    weights = {name.removesuffix(_WEIGHT): shape for name, shape in shapes.items() if name.endswith(_WEIGHT)}
    biases = {name.removesuffix(_BIAS): shape for name, shape in shapes.items() if name.endswith(_BIAS)}
    flat = {module.replace(".", "_"): module for module in weights}
    assert len(flat) == len(weights), "two modules are flattened alike"
    return Targets(title, network, weights, biases, flat)


def targets_of(model: Model) -> Targets:
    """The layers of a model's transformer: the catalogue's shape, or what its own files say.

    Raises `ModelError` for files that are not whole.
    """
    if own := _own_files(model):
        checkpoint = open_checkpoint("transformer", own)
        return targets(model.id, checkpoint.network, checkpoint.shapes)
    return _of_shape(model.id, families.find(model.family), model.shape or QWEN_IMAGE.shape)


def refuse_base(row: Model, model: Model) -> None:
    """Raise `ModelError` where what the catalogue has for one model cannot be used beside another: before a fetch."""
    theirs, ours = targets_of(MODELS[row.base]).weights, targets_of(model).weights
    if any(ours.get(name) != shape for name, shape in theirs.items()):
        message = f"{row.id} was made for {row.base}, whose layers {model.id} does not have"
        raise ModelError(message, hint="take one that was made for it, like those of: renderer models list")


def _own_files(model: Model) -> list[Path]:
    """The transformer's files of a model of one's own; none where it is the catalogue's."""
    if model.folder is not None:
        return sorted(model.folder.glob(TRANSFORMER_FILES))
    return [path for role, path in model.files.items() if role == "transformer"]


@lru_cache(maxsize=8)
def _of_shape(title: str, family: Family, shape: Architecture | None) -> Targets:
    assert shape is not None
    network = family.network("transformer")
    return targets(title, network, _repeated(network, family.shapes(shape)["transformer"], shape.layers))


def _repeated(network: Network, one: Mapping[str, Shape], layers: int) -> Shapes:
    """The shapes of so many blocks, from those of one."""
    found = Shapes()
    for name, shape in one.items():
        section = network.section_of(name)
        if section is None:
            found[name] = shape
            continue
        within = name.removeprefix(f"{section.prefix}0.")
        found |= {f"{section.prefix}{number}.{within}": shape for number in range(layers)}
    return found
