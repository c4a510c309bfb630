"""A LoRA's file held against a model's layers: every key lands on one, or the file is refused with those that do not.

Reads the header, and no value: shapes, types and names. Imports no torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from renderer.catalog import Model
from renderer.errors import ModelError, shorten
from renderer.families.family import Shape
from renderer.weights.adapters import dialects, others
from renderer.weights.adapters.dialects import LayerKind, PartName
from renderer.weights.adapters.targets import Targets, refuse_base, targets_of
from renderer.weights.adapters.whereabouts import FoundLora, find_lora
from renderer.weights.readers import READERS
from renderer.weights.readers.reader import TensorAt
from renderer.weights.readers.safetensors import READER

MOST_RANK = 1024
"""Of a pair of factors, of which LoKr and LoHa have two; what has more is no addition but a model."""

MOST_JOINT_RANK = 256
"""Of a product that becomes two factors: what has more does not ride with a picture, and can only be fused."""

FUSE = "make a model of it once: renderer models pack ID --lora FILE"
"""What helps with what cannot ride."""

_SHOWN = 3
_WHOLE: Mapping[LayerKind, tuple[frozenset[PartName], ...]] = {
    "LoRA": (frozenset({"down", "up"}),),
    "LoKr": tuple(
        frozenset({*one, *other})
        for one in (("w1",), ("w1_a", "w1_b"))
        for other in (("w2",), ("w2_a", "w2_b"))
    ),
    "LoHa": (frozenset({"h1_a", "h1_b", "h2_a", "h2_b"}),),
    "difference": (frozenset({"weight"}), frozenset({"bias"}), frozenset({"weight", "bias"})),
}  # fmt: skip
"""The parts that a layer of each kind has, besides alpha."""

_RANKED: tuple[PartName, ...] = ("down", "w1_b", "w2_b", "h1_b", "h2_b")
"""The parts whose rows are the rank of a pair."""


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """What a file holds for one layer of a model: its parts, and the rank of the two factors that they become.

    `rank` is None for a difference, which has no factors.
    """

    module: str
    kind: LayerKind
    parts: Mapping[PartName, TensorAt]
    rank: int | None

    @property
    def rides(self) -> bool:
        """Whether it can be added while a picture is rendered, as two factors."""
        return self.rank is not None and (self.kind == "LoRA" or self.rank <= MOST_JOINT_RANK)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA that fits a model: its layers by their modules' names, and what its way of writing is called."""

    path: Path
    dialect: str
    layers: Mapping[str, LoraLayer]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def why_not_riding(self) -> str:
        """Why it cannot be added while a picture is rendered, or an empty text."""
        fixed = [layer for layer in self.layers.values() if not layer.rides]
        if not fixed:
            return ""
        first = fixed[0]
        what = "a whole difference" if first.rank is None else f"a {first.kind} of rank {first.rank}"
        return f"{len(fixed)} of its {len(self.layers)} layers cannot be added as a picture is rendered: {what}"


def find_fitting(reference: str, folder: Path, model: Model) -> FoundLora:
    """The LoRA of a catalogue id or a file, held against a model's layers if it is here. Raises `ModelError`."""
    found = find_lora(reference, folder)
    if found.path is not None and (reason := land(found.path, targets_of(model)).why_not_riding):
        raise ModelError(f"{found.path}: {reason}", hint=FUSE)
    if found.path is None and found.row is not None:
        refuse_base(found.row, model)
    return found


def land(path: Path, targets: Targets) -> Adapter:
    """A LoRA's file, each key of which has found its layer. Raises `ModelError`, which names those that have not."""
    contents = READER.read(path)
    found: dict[str, dict[PartName, TensorAt]] = {}
    kinds: dict[str, set[LayerKind]] = {}
    strangers: list[str] = []
    for key, tensor in contents.tensors.items():
        if what := dialects.unread(key):
            raise ModelError(f'{path}: "{shorten(key, 90)}" is {what}', hint="take it as a LoRA, or fuse it elsewhere")
        spelled = dialects.spell_out(key)
        module = next(filter(None, map(targets.find, spelled.modules)), None) if spelled else None
        if spelled is None or module is None:
            strangers.append(key)
            continue
        parts = found.setdefault(module, {})
        if spelled.part in parts:
            raise _damaged(path, f'"{shorten(key, 90)}" is the second {spelled.part} of {module}')
        parts[spelled.part] = tensor
        if spelled.kind is not None:
            kinds.setdefault(module, set()).add(spelled.kind)
    if strangers:
        _refuse_strangers(path, strangers, len(contents.tensors), targets)
    if not found:
        raise _damaged(path, "holds no tensors")
    layers = {module: _layer(path, module, kinds.get(module, set()), found[module], targets) for module in found}
    return Adapter(path, dialects.dialect_of(contents.tensors), layers, contents.metadata)


def _layer(
    path: Path, module: str, kinds: set[LayerKind], parts: Mapping[PartName, TensorAt], targets: Targets
) -> LoraLayer:
    if len(kinds) != 1:
        what = f"{' and '.join(sorted(kinds))} at once" if kinds else "an alpha, and nothing that it scales"
        raise _damaged(path, f"{module} has {what}")
    (kind,) = kinds
    own = frozenset(parts) - {"alpha"}
    if own not in _WHOLE[kind]:
        nearest = min(_WHOLE[kind], key=lambda whole: (len(whole ^ own), len(whole - own)))
        lacking = nearest - own
        what = f"lacks {' and '.join(sorted(lacking))}" if lacking else "has parts that exclude each other"
        raise _damaged(path, f"{module} is a {kind}, and {what}")
    for name, tensor in parts.items():
        if tensor.besides:
            raise _damaged(path, f"{name} of {module} is quantised with scales, which is not read of a LoRA")
        if tensor.dtype not in READERS[tensor.reader].dtypes:
            raise _damaged(path, f"{name} of {module} is {tensor.dtype}, which is not read")
        if name == "alpha" and tensor.shape not in ((), (1,)):
            raise _damaged(path, f"alpha of {module} is {list(tensor.shape)}, and must be one number")
    return LoraLayer(module, kind, parts, _rank(path, module, kind, parts, targets))


def _rank(path: Path, module: str, kind: LayerKind, parts: Mapping[PartName, TensorAt], targets: Targets) -> int | None:
    """The rank of the factors that a layer becomes, once its shapes are those that the model's layer asks for."""
    shapes: dict[PartName, Shape] = {name: tensor.shape for name, tensor in parts.items() if name != "alpha"}
    wanted = targets.weights[module]

    def misshapen() -> NoReturn:
        told = ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
        message = f"{path}: {module} is {list(wanted)} in {targets.title}, and here it has {told}"
        raise ModelError(message, hint="take a LoRA that was made for this model")

    if kind == "difference":
        expected: dict[PartName, Shape | None] = {"weight": wanted, "bias": targets.biases.get(module)}
        if any(shape != expected[name] for name, shape in shapes.items()):
            misshapen()
        return None
    if len(wanted) != 2 or any(len(shape) != 2 or 0 in shape for shape in shapes.values()):  # noqa: PLR2004
        misshapen()
    made, rank = _PRODUCTS[kind](shapes)
    if made != wanted or rank == 0:
        misshapen()
    if (most := max((shapes[part][0] for part in _RANKED if part in shapes), default=0)) > MOST_RANK:
        raise _damaged(path, f"{module} is of rank {most}, and at most {MOST_RANK} are read")
    return rank


def _of_lora(shapes: Mapping[PartName, Shape]) -> tuple[Shape, int]:
    (rank, columns), (rows, other) = shapes["down"], shapes["up"]
    return (rows, columns), rank if rank == other else 0


def _of_lokr(shapes: Mapping[PartName, Shape]) -> tuple[Shape, int]:
    """The Kronecker product's shape, and the smallest rank that its factors give without any arithmetic."""
    one, ranks_one = _joined(shapes, "w1", "w1_a", "w1_b")
    other, ranks_other = _joined(shapes, "w2", "w2_a", "w2_b")
    return (one[0] * other[0], one[1] * other[1]), ranks_one * ranks_other


def _joined(shapes: Mapping[PartName, Shape], whole: PartName, left: PartName, right: PartName) -> tuple[Shape, int]:
    """The shape of a factor that may be a product itself, and its rank; 0 where the product cannot be formed."""
    if whole in shapes:
        rows, columns = shapes[whole]
        return (rows, columns), min(rows, columns)
    (rows, rank), (other, columns) = shapes[left], shapes[right]
    return (rows, columns), rank if rank == other else 0


def _of_loha(shapes: Mapping[PartName, Shape]) -> tuple[Shape, int]:
    one, ranks_one = _joined(shapes, "weight", "h1_a", "h1_b")
    other, ranks_other = _joined(shapes, "weight", "h2_a", "h2_b")
    return one, ranks_one * ranks_other if one == other else 0


_PRODUCTS = {"LoRA": _of_lora, "LoKr": _of_lokr, "LoHa": _of_loha}


# ---- what is refused -------------------------------------------------------------------------------------------------


def _refuse_strangers(path: Path, strangers: Sequence[str], total: int, targets: Targets) -> NoReturn:
    listed = ", ".join(f'"{shorten(key, 90)}"' for key in strangers[:_SHOWN])
    more = f" and {len(strangers) - _SHOWN} more" if len(strangers) > _SHOWN else ""
    message = (
        f"{path}: {len(strangers)} of its {total} keys fit none of the {targets.matrices} layers of {targets.title}: "
        f"{listed}{more}"
    )
    raise ModelError(message, hint=_hint(strangers, targets))


def _hint(strangers: Sequence[str], targets: Targets) -> str:
    modules = [_barest(key) for key in strangers]
    if title := others.whose(modules):
        return f"its layers are called as those of {title}: take a LoRA for {targets.title}"
    for section in targets.network.sections:
        blocks = len(section.numbers(targets.weights))
        if all(_block(name, section.prefix) >= blocks for name in modules):
            return f"{targets.title} has {blocks} blocks, and these are beyond them: take a LoRA that was made for it"
    near = difflib.get_close_matches(modules[0], [*targets.weights, *targets.flat], n=1, cutoff=0.8)
    return f'the nearest layer is "{near[0]}"' if near else f"take a LoRA that was made for {targets.title}"


def _block(module: str, prefix: str) -> int:
    """The number of the block that a module is in, by either way of writing; -1 outside of blocks."""
    found = re.match(rf"({re.escape(prefix)}|{re.escape(prefix.replace('.', '_'))})(\d{{1,9}})[._]", module)
    return int(found[2]) if found else -1


def _barest(key: str) -> str:
    """What of a key may be a module's name."""
    spelled = dialects.spell_out(key)
    if spelled is not None:
        return min(spelled.modules, key=len)
    for prefix in (*dialects.DOTTED_PREFIXES, *dialects.FLAT_PREFIXES):
        key = key.removeprefix(prefix)
    return key


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"{path}: {what}", hint="fetch or make it again: it is damaged, or not for this model")
