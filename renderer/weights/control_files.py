"""ControlNets on disk: where one lies, which it is, and whether it goes with a model. Imports no torch.

It is used as it lies in its file, in bf16 at every precision: what is swept is a small block beside each of the
model's.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from renderer import families
from renderer.catalog import MODELS, Model
from renderer.errors import ModelError, shorten
from renderer.families.family import ControlNets, Shapes
from renderer.job import ControlNet
from renderer.weights import places, vouched
from renderer.weights.adapters.targets import refuse_base, targets_of
from renderer.weights.adapters.whereabouts import (
    CONTROLNET,
    find_extra,
    from_here,
    identity_of_row,
    path_of,
    told_licence,
)
from renderer.weights.hashes import tensor_hashes
from renderer.weights.headers import read_header

_BF16 = 2
_TYPES = ("BF16", "F16", "F32")
_HINT = "take one that was made for it, like those of: renderer models list"


@dataclass(frozen=True, slots=True)
class FoundControlNet:
    """A ControlNet that a manifest names; `path` is None where it has not been fetched yet.

    `masked` ones look at a mask as well. `licence` is empty where nobody says.
    """

    source: str
    identity: str
    path: Path | None
    masked: bool
    row: Model | None = None
    licence: str = ""


@dataclass(frozen=True, slots=True)
class ControlNetWeight:
    """Bytes of all its blocks in bf16, and of one, which has two layers of `width` x `width`; how many they are.

    `download_bytes` are to be fetched where it is not here; nothing has to be made ready.
    """

    bytes: int
    block_bytes: int
    layers: int
    width: int
    download_bytes: int
    ready_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ControlNetShape:
    """What a ControlNet beside a model is: so many blocks of a width, with a mask or without."""

    kind: ControlNets
    layers: int
    width: int
    masked: bool

    @property
    def tensors(self) -> Shapes:
        """All of it, by name and shape."""
        return self.kind.expected(self.layers, self.width, self.masked)

    @property
    def block(self) -> Shapes:
        """One block's, by their names within it."""
        prefix = f"{self.kind.prefix}0."
        found = self.kind.expected(1, self.width, self.masked).items()
        return {name.removeprefix(prefix): shape for name, shape in found if name.startswith(prefix)}


def find_controlnet(reference: str, folder: Path, model: Model) -> FoundControlNet:
    """The ControlNet of a catalogue id or a file from `folder`, which goes with a model. Raises `ModelError`."""
    row, path = find_extra(reference, folder, CONTROLNET)
    masked = shape_of_file(path, model).masked if path is not None else row is not None and row.masked
    if row is not None:
        shape_beside(model, masked=masked)
        refuse_base(row, model)
        return FoundControlNet(row.id, identity_of_row(row), path, masked, row, row.licence)
    assert path is not None
    return FoundControlNet(from_here(path), identity_of_file(path), path, masked, None, told_licence(path))


def here(net: ControlNet, model: Model) -> tuple[Path, ControlNetShape]:
    """The file of a job's ControlNet, which is the one that the job means.

    Raises `ModelError` where it is not here, is another by now, is not what the hub said, or does not go with it.
    """
    path, row = path_of(net.source), MODELS.get(net.source)
    if path is None:
        assert row is not None
        raise places.lacks(places.look(row), "")
    if not path.is_file():
        raise ModelError(f"{path}: is not there any more", hint="put it back, or take it out of the manifest")
    shape = shape_of_file(path, model)
    if net.identity != (identity_of_file(path) if row is None else identity_of_row(row)):
        raise ModelError(f"{path}: has changed since the manifest was read", hint="run the same command again")
    if row is not None:
        vouched.check(places.look(row))
    return path, shape


def weigh(source: str, model: Model) -> ControlNetWeight:
    """What a ControlNet takes beside a model. Raises `ModelError` for one that does not go with it."""
    path = path_of(source)
    shape = shape_beside(model, masked=False) if path is None else shape_of_file(path, model)
    block = sum(map(math.prod, shape.block.values())) * _BF16
    missing = (MODELS[source].parts[0].bytes or shape.layers * block) if path is None else 0
    return ControlNetWeight(shape.layers * block, block, shape.layers, shape.width, missing)


def identity_of_file(path: Path) -> str:
    """A file's identity: the SHA-256 over its tensors. Raises `ModelError` if it is not sound."""
    try:
        (hashes,) = tensor_hashes([path])
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    lines = sorted(f"{name} {value}\n" for name, value in hashes.items())
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def shape_of_file(path: Path, model: Model) -> ControlNetShape:
    """What a file holds, by its header. Raises `ModelError` unless it is a whole ControlNet that goes with a model."""
    found = read_header(path).tensors
    shapes = {name: entry.shape for name, entry in found.items()}
    fitting = [shape_beside(model, masked=masked) for masked in (False, True)]
    for shape in fitting:
        if shape.tensors == shapes:
            if odd := next((name for name, entry in found.items() if entry.dtype not in _TYPES), ""):
                message = f"{path}: {odd} is in {found[odd].dtype}, and {', '.join(_TYPES)} are read"
                raise ModelError(message, hint="take the file in bf16")
            return shape
    known, outside = fitting[1], fitting[1].kind.outside
    like = known if shapes.get(outside) == known.tensors[outside] else fitting[0]
    raise _unlike(path, shapes, like, model)


def shape_beside(model: Model, *, masked: bool) -> ControlNetShape:
    """What a ControlNet beside a model has to be. Raises `ModelError` where nobody makes any."""
    kind = families.find(model.family).controlnets
    if kind is None:
        raise ModelError(f"{model.id} takes no ControlNets")
    targets = targets_of(model)
    (section,) = targets.network.sections
    layers = len(section.numbers(targets.weights))
    return ControlNetShape(kind, layers, targets.weights[targets.network.anchor.removesuffix(".weight")][0], masked)


def _unlike(path: Path, shapes: Shapes, wanted: ControlNetShape, model: Model) -> ModelError:
    """Why a file is no ControlNet of a model: what it lacks, what it has besides, or how large it is."""
    if not any(name.startswith(wanted.kind.prefix) for name in shapes):
        hint = "it has to be a blockwise ControlNet of DiffSynth's: a patch of the model, as ComfyUI calls it"
        return ModelError(f"{path}: is no ControlNet that is known here: it has no {wanted.kind.prefix}0", hint=hint)
    tensors = wanted.tensors
    for name, shape in tensors.items():
        if name not in shapes:
            return ModelError(f"{path}: lacks {name}, which one for {model.id} has", hint=_HINT)
        if shapes[name] != shape:
            sizes = f"{name} is {list(shapes[name])}, and {list(shape)} in one for {model.id}"
            return ModelError(f"{path}: {sizes}", hint=_HINT)
    more = next(iter(shapes.keys() - tensors.keys()), "")
    return ModelError(f"{path}: has {shorten(more)}, which none for {model.id} has", hint=_HINT)
