"""A downloaded network: where each of its tensors lies, and that it has exactly those such a network of its family has.

Reads headers, and the small JSON files that hubs put beside the shards; never a weight. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renderer import families
from renderer.catalog import SHARD, Role
from renderer.errors import ModelError, shorten
from renderer.families import Family, Network, Outside
from renderer.families.family import Shape
from renderer.weights import readers, recognise
from renderer.weights.readers import Contents, TensorAt

if TYPE_CHECKING:
    from renderer.weights.adapters.fusing import Addition, ToFuse

HUB_TYPES = ("BF16", "F16", "F32")
"""What the catalogue's models are in, wherever they were fetched from."""

_HINT = "fetch it again: it is damaged, incomplete, or another model's"
_SCALED = re.compile(r"scale|comfy_quant|absmax|quant_state")
_SCALED_HINT = "take the model's bf16 files: this is quantised with scales, in a form that only its own tool reads"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network's tensors by the hub's names, without those that are left out. `fingerprint` changes with its files.

    `has_other_names` says that its files have names of another tool's for some of them. `additions` are what LoRAs add
    to its tensors, for whoever reads them. `left_out` are those of the family's that were there, and are no weights.
    """

    family: Family
    network: Network
    tensors: Mapping[str, TensorAt]
    fingerprint: str
    has_other_names: bool = False
    additions: Mapping[str, Sequence[Addition]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def form(self) -> str:
        """What form its matrices are in, a format and its types; empty where that is the hub's own."""
        kinds: dict[str, list[str]] = {}
        for place in self.tensors.values():
            if len(place.shape) > 1 and not (place.is_plain and place.dtype in HUB_TYPES):
                kinds.setdefault(place.reader, []).append(place.dtype)
        return "; ".join(f"{reader}: {', '.join(_often(dtypes))}" for reader, dtypes in sorted(kinds.items()))

    @property
    def lacking(self) -> tuple[Outside, ...]:
        """What of the optional it has not: a text encoder its vision tower, which only edits look with."""
        return self.network.lacking(self.tensors)

    def without_optional(self) -> Checkpoint:
        """Without what is optional in its family."""
        gone = tuple(each.prefix for each in self.network.outside if each.optional)
        return replace(self, tensors={name: at for name, at in self.tensors.items() if not name.startswith(gone)})


def open_checkpoint(role: Role, paths: Sequence[Path]) -> Checkpoint:
    """A network's files, checked against each other and against what such a network of their family must have.

    What is optional there may lack. Raises `ModelError`, which names the file and the tensor: one that is missing,
    unknown, there twice, of another shape or of a type that is not read.
    """
    if not paths:
        raise ModelError(f"the {role} has no files")
    found: dict[str, TensorAt] = {}
    digest = hashlib.sha256()
    _check_shards(paths)
    files = [readers.read(path) for path in paths]
    config = _config(paths[0].parent)
    family = families.of_tensors(role, {name for file in files for name in file.tensors})
    network = family.network(role)
    recognise.refuse_method(paths[0].parent, config, family, network)
    for file in files:
        recognise.refuse(file, family, network)
        stat = file.path.stat()
        digest.update(f"{file.path.name} {stat.st_size} {stat.st_mtime_ns} {file.sha256}\n".encode())
        _add(network, file, found)
    _check_index(network, paths, found)
    renamed = any(network.hub_name(name) != name for file in files for name in file.tensors)
    found = _put_together(family, network, files, found)
    left_out = tuple(name for name in network.left_out if found.pop(name, None) is not None)
    _check_types(found)
    checkpoint = Checkpoint(family, network, found, digest.hexdigest(), renamed, left_out=left_out)
    _check_tensors(checkpoint, paths)
    _check_depth(checkpoint, config)
    return checkpoint


def with_additions(checkpoint: Checkpoint, fused: ToFuse) -> Checkpoint:
    """A network with LoRAs fused into it as it is read. Raises `ModelError` for one of which a key fits no layer."""
    if not fused:
        return checkpoint
    from renderer.weights.adapters.fusing import additions  # noqa: PLC0415  # which looks at checkpoints, too

    title = f"{checkpoint.family.title}'s {checkpoint.network.words}"
    return replace(checkpoint, additions=additions(fused, title, checkpoint.network, checkpoint.shapes))


def open_together(source: Mapping[Role, Sequence[Path]], *, edits: bool) -> dict[Role, Checkpoint]:
    """Each network's files, of a model that `edits` or not: without what only edits look with, where it does not.

    Raises `ModelError` as `open_checkpoint` and `check_together` do.
    """
    checkpoints = {role: open_checkpoint(role, paths) for role, paths in source.items()}
    check_together(checkpoints, edits=edits)
    return checkpoints if edits else {role: each.without_optional() for role, each in checkpoints.items()}


def check_together(checkpoints: Mapping[Role, Checkpoint], *, edits: bool = False) -> None:
    """Raise `ModelError` unless networks are of one family, and have the widths to work with one another.

    One that `edits` has to have what it looks at pictures with.
    """
    family = next(iter(checkpoints.values())).family
    path = next(iter(checkpoints[family.networks[0].role].tensors.values())).path
    for other in checkpoints.values():
        if other.family is not family:
            message = f"{path}: of {family.title}, and the {other.network.words} is of {other.family.title}"
            raise ModelError(message, hint="take all parts of one model")
    if unfit := family.unfit({role: each.shapes for role, each in checkpoints.items()}):
        raise ModelError(f"{path}: {unfit}", hint=_HINT)
    looking = checkpoints.get("text_encoder")
    if edits and looking is not None and looking.lacking:
        where = next(iter(looking.tensors.values())).path
        message = f"{where} has no vision tower, with which an editing model looks at pictures"
        raise ModelError(message, hint="take the model's own text encoder")


def _add(network: Network, file: Contents, found: dict[str, TensorAt]) -> None:
    """A file's tensors, each of which must be new."""
    for own_name, place in file.tensors.items():
        name = network.hub_name(own_name)
        if name in found:
            message = f'{file.path}: tensor "{shorten(name)}" is in {found[name].path.name} already'
            raise ModelError(message, hint=_HINT)
        found[name] = place


def _put_together(
    family: Family, network: Network, files: Sequence[Contents], found: Mapping[str, TensorAt]
) -> dict[str, TensorAt]:
    """The tensors without scales and marks. A form that is not read gets the hint which file to take."""
    try:
        return readers.put_together(found, files, network.hub_name)
    except ModelError as error:
        if error.hint:
            raise
        raise ModelError(error.message, hint=recognise.to_take(family, network)) from None


def _check_types(found: Mapping[str, TensorAt]) -> None:
    """Raise `ModelError` for a tensor of nothing, and for a type whose values its reader does not tell."""
    for name, place in found.items():
        where = f'{place.path}: tensor "{shorten(name)}"'
        if not place.bytes:
            raise ModelError(f"{where} is empty", hint=_HINT)
        if place.dtype not in (types := readers.types_of(place.reader)):
            message = f"{where} is {place.dtype}, and only {', '.join(types)} are read"
            raise ModelError(message, hint="take the model's bf16 files")


def _check_shards(paths: Sequence[Path]) -> None:
    """`…-00002-of-00009` says that there are nine, and each comes once."""
    numbered = [(path, match) for path in paths if (match := SHARD.search(path.name))]
    if not numbered:
        return
    first, match = numbered[0]
    wanted = {f"{first.name[: match.start()]}-{number:05}-of-{match[2]}" for number in range(1, int(match[2]) + 1)}
    there = {path.name.removesuffix(".safetensors") for path in paths}
    if wrong := sorted(wanted ^ there):
        what = "is missing" if wrong[0] in wanted else "is not one of its shards"
        raise ModelError(f"{first.with_name(wrong[0])}.safetensors {what}", hint=_HINT)


def _check_index(network: Network, paths: Sequence[Path], found: Mapping[str, TensorAt]) -> None:
    """Where the hub's index lies beside the shards, each tensor must be in the shard it says."""
    for index in sorted({path.parent for path in paths if SHARD.search(path.name)}):
        for file in sorted(index.glob("*.safetensors.index.json")):
            places = _read_json(file).get("weight_map")
            if not isinstance(places, dict):
                raise ModelError(f"{file}: not an index of shards", hint=_HINT)
            expected = {network.hub_name(name): place for name, place in places.items()}
            for name in sorted(expected.keys() | found.keys()):
                there = found[name].path.name if name in found else "no shard"
                if there != expected.get(name, "no shard"):
                    told = shorten(str(expected.get(name, "no shard")))
                    where = found[name].path if name in found else index / told
                    message = f'{where}: tensor "{shorten(name)}" is in {there}, and {file.name} says {told}'
                    raise ModelError(message, hint=_HINT)


def _config(folder: Path) -> dict[str, Any]:
    """The hub's `config.json` beside the files; empty where there is none."""
    path = folder / "config.json"
    return _read_json(path) if path.is_file() else {}


def _check_depth(checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    """There must be as many layers as the hub's `config.json` says, where it lies beside the files."""
    sections = {section.name: section for section in checkpoint.network.sections}
    for key, name in checkpoint.network.depths:
        told = config.get(key)
        layers = sections[name].numbers(checkpoint.tensors)
        if isinstance(told, int) and told != len(layers):
            path = next(iter(checkpoint.tensors.values())).path
            raise ModelError(f"{path}: has {len(layers)} layers, and config.json says {told}", hint=_HINT)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON", hint=_HINT) from error
    if not isinstance(document, dict):
        raise ModelError(f"{path}: not a table", hint=_HINT)
    return document


def _check_tensors(checkpoint: Checkpoint, paths: Sequence[Path]) -> None:
    found, family, network = checkpoint.shapes, checkpoint.family, checkpoint.network
    try:
        expected = network.expected(found)
    except LookupError as error:
        if told := recognise.another(found.keys(), family, network):
            raise ModelError(f"{_where(paths)}: {told[0]}", hint=told[1]) from None
        message = f'{_where(paths)}: not a {family.title} {network.role}: "{error.args[0]}" is missing or misshapen'
        raise ModelError(message, hint=_HINT) from None
    problems, hint = [], _HINT
    if lacking := sorted(expected.keys() - found.keys()):
        problems.append(f"{_where(paths)}: lacks {_listed(lacking)}")
    unknown = sorted(found.keys() - expected.keys())
    if (lacking or unknown) and (told := recognise.another(unknown, family, network)):
        raise ModelError(f"{_where(paths)}: {told[0]}", hint=told[1])
    if unknown:
        problems.append(f"{checkpoint.tensors[unknown[0]].path}: has unknown {_listed(unknown)}")
        if any(_SCALED.search(name) for name in unknown):
            hint = _SCALED_HINT
    anchor = checkpoint.tensors[network.anchor]
    beside = f'beside "{network.anchor}" of {list(anchor.shape)} in {anchor.path}'
    misshapen = [name for name in sorted(expected.keys() & found.keys()) if found[name] != expected[name]]
    for name in misshapen[:_SHOWN]:
        path = checkpoint.tensors[name].path
        problems.append(f'{path}: tensor "{name}" is {list(found[name])}, and must be {list(expected[name])} {beside}')
    if more := misshapen[_SHOWN:]:
        files = sorted({checkpoint.tensors[name].path.name for name in more})
        problems.append(f"and {len(more)} more of a wrong shape in {', '.join(files)}")
    if problems:
        raise ModelError("\n".join(problems), hint=hint)


def _often(found: Sequence[str]) -> list[str]:
    """What there is, the most frequent first."""
    return [each for each, _ in Counter(found).most_common()]


def _where(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f'"{shorten(name, 90)}"' for name in names[:_SHOWN]) + more
