"""A LoRA made ready for rendering: two factors for each layer, in bf16, a file a block. In torch.

It is made once from its file, into a folder of the models that is called by what it holds, and opened by workers. Its
files' data are held against their hashes when they are first read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from renderer.catalog import MODELS, Model
from renderer.errors import ModelError
from renderer.job import Lora, Value
from renderer.system import lock
from renderer.system.files import sha256_of, write_whole
from renderer.weights import places, settle, vouched
from renderer.weights.adapters.alphas import told_alphas
from renderer.weights.adapters.factors import Factors, factors_of
from renderer.weights.adapters.landing import FUSE, Adapter, LoraLayer, land
from renderer.weights.adapters.targets import Targets, targets_of
from renderer.weights.adapters.whereabouts import identity_of, identity_of_row, packed_adapter, path_of
from renderer.weights.headers import PlannedTensor, disk_error, write_file
from renderer.weights.index import INDEX, Digest

PACKED_VERSION: Literal[1] = 1
"""Goes up when what is packed changes its meaning; what was packed before is then made again."""

FactorsOf = Mapping[str, Factors]
"""A and B by the module's name within its block, or the whole name outside of blocks."""

_HINT = "delete its folder: it is made again"
_OUTSIDE = "outside"


class PackedPart(Value):
    """One file: of which block, or of what stands outside of blocks; its largest rank, and the bytes of its factors."""

    name: str
    section: str | None
    number: int | None
    rank: int
    bytes: int
    sha256: Digest


class AdapterIndex(Value):
    """What a packed LoRA says of itself."""

    version: int = PACKED_VERSION
    identity: Digest
    dialect: str
    layers: int
    files: tuple[PackedPart, ...]


@dataclass(frozen=True, slots=True)
class PackedAdapter:
    """A packed LoRA, open: whoever renders asks it block by block."""

    folder: Path
    index: AdapterIndex
    _parts: Mapping[tuple[str | None, int | None], PackedPart]
    _sound: set[str] = field(default_factory=set)

    @property
    def identity(self) -> str:
        """The SHA-256 of what it was made of."""
        return self.index.identity

    def rank(self, section: str, block: int) -> int:
        """The largest rank of a block's factors; 0 where it has none."""
        part = self._parts.get((section, block))
        return part.rank if part else 0

    def bytes(self, section: str, block: int) -> int:
        """What a block's factors take."""
        part = self._parts.get((section, block))
        return part.bytes if part else 0

    @property
    def all_bytes(self) -> int:
        """What all factors take."""
        return sum(part.bytes for part in self.index.files)

    def block(self, section: str, index: int) -> FactorsOf:
        """A block's factors, by its modules' names; mapped memory, to be read only. Raises `ModelError` if damaged."""
        return self._read((section, index))

    def outside(self) -> FactorsOf:
        """The factors of what stands outside of blocks. Raises as `block` does."""
        return self._read((None, None))

    def _read(self, key: tuple[str | None, int | None]) -> FactorsOf:
        part = self._parts.get(key)
        if part is None:
            return {}
        path = self.folder / part.name
        try:
            if part.name not in self._sound and sha256_of(path) != part.sha256:
                raise ModelError(f"{path}: not what was written there", hint=_HINT)
            self._sound.add(part.name)
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: cannot be read: {error}", hint=_HINT) from error
        modules = sorted({name.rpartition(".")[0] for name in tensors})
        return {module: (tensors[f"{module}.A"], tensors[f"{module}.B"]) for module in modules}


def open_adapter(folder: Path) -> PackedAdapter:
    """A packed LoRA. Raises `ModelError` for a folder that is none, or of another version."""
    try:
        index = AdapterIndex.model_validate_json((folder / INDEX).read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError(f"{folder} is no packed LoRA", hint=_HINT) from error
    if index.version != PACKED_VERSION:
        raise ModelError(f"{folder} was packed by another version", hint=_HINT)
    parts = {(part.section, part.number): part for part in index.files}
    return PackedAdapter(folder, index, MappingProxyType(parts))


def prepare_adapter(lora: Lora, model: Model) -> PackedAdapter:
    """A job's LoRA for a model, packed where it was not yet, and open. May be called in several processes at once.

    Raises `ModelError` where its file is not here, is another than the job's, is not what the hub said, or does not fit
    the model; `DiskError`.
    """
    path = path_of(lora.source)
    if path is None:
        raise places.lacks(places.look(MODELS[lora.source]), "")
    if not path.is_file():
        raise ModelError(f"{path}: is not there any more", hint="put it back, or take it out of the manifest")
    identity, row = identity_of(path), MODELS.get(lora.source)
    if lora.identity != (identity if row is None else identity_of_row(row)):
        raise ModelError(f"{path}: has changed since the manifest was read", hint="run the same command again")
    if row is not None:
        vouched.check(places.look(row))
    folder = packed_adapter(identity)
    with lock.waited(settle.lock_of(folder)):
        if not _is_current(folder, identity):
            pack_adapter(path, targets_of(model), identity, folder)
        return open_adapter(folder)


def _is_current(folder: Path, identity: str) -> bool:
    try:
        return open_adapter(folder).identity == identity
    except ModelError:
        return False


def pack_adapter(path: Path, targets: Targets, identity: str, folder: Path) -> None:
    """Make a packed LoRA of a file, in a folder that is there whole or not at all. Call it with the lock held.

    Raises `ModelError` for a file that does not fit, cannot ride, or adds nothing; `DiskError`.
    """
    adapter = land(path, targets)
    if reason := adapter.why_not_riding:
        raise ModelError(f"{path}: {reason}", hint=FUSE)
    part = settle.part_of(folder)
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as error:
        raise disk_error(part, error) from error
    try:
        _fill(part, adapter, targets, identity)
        settle.put(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _fill(part: Path, adapter: Adapter, targets: Targets, identity: str) -> None:
    alphas = told_alphas(adapter.path, adapter.metadata)
    files, adds = [], False
    for (section, number), layers in _grouped(adapter, targets).items():
        name = f"{_OUTSIDE if number is None else f'{section}-{number:03}'}.safetensors"
        found = {within: factors_of(layer, alphas) for within, layer in layers}
        adds |= any(bool(each.any()) and bool(other.any()) for each, other in found.values())
        named = ((f"{within}.A", pair[0], f"{within}.B", pair[1]) for within, pair in found.items())
        tensors = {key: tensor for a, down, b, up in named for key, tensor in ((a, down), (b, up))}
        planned = [PlannedTensor(key, "BF16", tuple(tensor.shape)) for key, tensor in tensors.items()]
        written = write_file(part / name, planned, {"format": "pt"}, _pieces(list(tensors.values())))
        files.append(
            PackedPart(
                name=name,
                section=section,
                number=number,
                rank=max(each.shape[0] for each, _ in found.values()),
                bytes=sum(tensor.nbytes for tensor in tensors.values()),
                sha256=written.sha256,
            )
        )
    if not adds:
        raise ModelError(f"{adapter.path}: adds nothing: one of the two factors of every layer is zero")
    if identity_of(adapter.path) != identity:
        raise ModelError(f"{adapter.path}: has changed while it was read", hint="run the same command again")
    index = AdapterIndex(identity=identity, dialect=adapter.dialect, layers=len(adapter.layers), files=tuple(files))
    write_whole(part / INDEX, index.model_dump_json().encode())


def _grouped(adapter: Adapter, targets: Targets) -> dict[tuple[str | None, int | None], list[tuple[str, LoraLayer]]]:
    """The layers of each block with their names in it; those outside of blocks with their own."""
    found: dict[tuple[str | None, int | None], list[tuple[str, LoraLayer]]] = {}
    for module in sorted(adapter.layers):
        layer, section = adapter.layers[module], targets.network.section_of(module)
        if section is None:
            found.setdefault((None, None), []).append((module, layer))
            continue
        number, _, within = module.removeprefix(section.prefix).partition(".")
        found.setdefault((section.name, int(number)), []).append((within, layer))
    return found


def _pieces(tensors: Sequence[torch.Tensor]) -> Iterator[memoryview]:
    for tensor in tensors:
        yield memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())
