"""A model's networks whole, as DiffSynth's pipeline takes them, from a packed store or what reads like one.

The networks are made on the meta device and given their tensors: no value is ever computed first and replaced, nothing
lies in memory twice. Where DiffSynth is to manage their memory, its own wrappers are put around the layers. Knows
nothing of pictures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from diffsynth.core.vram.layers import enable_vram_management
from diffsynth.models.model_loader import ModelPool

from renderer.catalog import Role
from renderer.engine import placement, scaled, skeletons
from renderer.engine.placement import Device, Placement
from renderer.engine.slots import host_buffer
from renderer.engine.vae import PictureVae
from renderer.job import Stored
from renderer.weights.layout import ALIGNMENT, Kind
from renderer.weights.store import TensorPlace, views

READERS = 8
"""Threads that read a network's files."""

STAGING_BYTES = 2**25
"""Memory each of them reads into on the way to a GPU, pinned where it can be."""

_ROLES: tuple[Role, ...] = ("transformer", "text_encoder", "vae")


class File(Protocol):
    """A file of a store, or what would be one."""

    @property
    def network(self) -> Role: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def number(self) -> int | None: ...

    @property
    def bytes(self) -> int: ...

    @property
    def tensors(self) -> tuple[TensorPlace, ...]: ...

    def read_into(self, buffer: torch.Tensor) -> None: ...

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]: ...

    def tensors_of(self, names: Sequence[str]) -> dict[str, torch.Tensor]: ...


class Weights(Protocol):
    """An open store (`Store`), or a checkpoint that reads like one (`Unpacked`)."""

    @property
    def precision(self) -> Stored: ...

    @property
    def files(self) -> Sequence[File]: ...

    @property
    def tokenizer(self) -> Path: ...

    @property
    def processor(self) -> Path | None: ...


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks, loaded. The text encoder is without its output layer; without its vision tower but for edits.

    The VAE stays on the device whatever the others do: its layers are 0.2 GB at Qwen-Image's widths.
    """

    dit: Any
    text_encoder: Any
    vae: Any


def build(
    weights: Weights,
    place: Placement | None,
    device: Device,
    limit_gib: float | None,
    report: Callable[[str], None],
) -> Networks:
    """Make the networks and put their weights where `place` says. `report` hears which is being loaded.

    Raises `ModelError` for a model of no known width, and where a file is not what it was.
    """
    maps = {role: TensorMap([file for file in weights.files if file.network == role]) for role in _ROLES}
    width = maps["transformer"].place("img_in.weight").shape[0]
    layers = sum(file.network == "transformer" and file.kind == "block" for file in weights.files)
    dit, text_encoder, vae = skeletons.empty(width, layers)
    text_encoder.lm_head = None  # DiffSynth takes hidden states; a store does not have it
    if weights.processor is None:
        text_encoder.model.visual = None
        maps["text_encoder"] = maps["text_encoder"].without("vision")
    dtype = placement.computation_dtype(device)
    managed: tuple[tuple[Role, Any], ...] = (("transformer", dit), ("text_encoder", text_encoder))
    for role, network in managed:
        report(role)
        if place is None:
            network.load_state_dict(maps[role].read(device), assign=True)
            network.to(dtype=dtype, device=device)  # buffers; the weights are so already
        else:
            _manage(network, maps[role], place, device, limit_gib)
        network.eval().requires_grad_(requires_grad=False)
    report("vae")
    tensors = {name: tensor.to(dtype) for name, tensor in maps["vae"].read(device).items()}
    return Networks(dit, text_encoder, PictureVae(vae, tensors))


def _manage(
    network: torch.nn.Module, tensors: TensorMap, place: Placement, device: Device, limit_gib: float | None
) -> None:
    """Load a network to where its weights wait, and put DiffSynth's wrappers around its layers."""
    config = placement.vram_config(place, device)
    kind = type(network)
    modules = ModelPool().fetch_module_map(f"{kind.__module__}.{kind.__qualname__}", config)
    scaled.make_room(network, tensors)
    on_disk = place.offload == "disk"
    if not on_disk:
        network.load_state_dict(tensors.read(config["offload_device"]), assign=True)
    enable_vram_management(
        network,
        {scaled.ScaledLinear: scaled.ManagedScaledLinear, **modules},  # in this order: one is also the other
        vram_config=config,
        vram_limit=limit_gib,
        disk_map=tensors if on_disk else None,
    )


class TensorMap(Mapping[str, torch.Tensor]):
    """A network's tensors by the names its module has, each read when it is asked for: DiffSynth's `DiskMap`."""

    def __init__(self, files: Sequence[File]) -> None:
        self._files = tuple(files)
        self._found = {module_name(file, place.name): (file, place) for file in self._files for place in file.tensors}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.several([name])[name]

    def several(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Tensors of one layer, in host memory, read at once."""
        file = self._found[names[0]][0]
        own = {self._found[name][1].name: name for name in names}
        return {own[name]: tensor for name, tensor in file.tensors_of(list(own)).items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def place(self, name: str) -> TensorPlace:
        """A tensor's type and shape."""
        return self._found[name][1]

    def without(self, kind: Kind) -> TensorMap:
        """The same without one kind of file."""
        return TensorMap([file for file in self._files if file.kind != kind])

    def read(self, device: Device) -> dict[str, torch.Tensor]:
        """All tensors, on a device, several files at a time, and hardly more in host memory than what stays there."""
        reader = Reader(device)
        with ThreadPoolExecutor(min(READERS, len(self._files))) as pool:
            found = list(pool.map(reader.read, self._files))
        return {
            module_name(file, name): tensor
            for file, tensors in zip(self._files, found, strict=True)
            for name, tensor in tensors.items()
        }


class Reader:
    """Brings files to a device, whole: into memory of their own, of which their tensors are views."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._own = threading.local()

    def read(self, file: File) -> dict[str, torch.Tensor]:
        flat = torch.empty(file.bytes, dtype=torch.uint8, device=self._device)
        if self._device == "cpu":
            file.read_into(flat)
        else:
            self.read_through(file, flat)
        found = views(flat, file.tensors)
        unaligned = [place.name for place in file.tensors if place.offset % ALIGNMENT]
        return found | {name: found[name].clone() for name in unaligned}

    def read_through(self, file: File, flat: torch.Tensor) -> None:
        """A file's data into memory of a device, piece by piece through this thread's own."""
        done = 0
        for piece in file.pieces(memoryview(self._staging().numpy())):
            flat[done : done + len(piece)].copy_(torch.frombuffer(piece, dtype=torch.uint8))
            done += len(piece)

    def _staging(self) -> torch.Tensor:
        """This thread's own buffer."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = host_buffer(STAGING_BYTES, self._device)
        buffer: torch.Tensor = self._own.buffer
        return buffer


def module_name(file: File, name: str) -> str:
    """What DiffSynth's module calls a tensor of a store's file."""
    match file.network, file.kind:
        case "transformer", "block" | "modulation":
            return f"transformer_blocks.{file.number}.{name}"
        case "text_encoder", "block":
            return f"model.language_model.layers.{file.number}.{name}"
        case "text_encoder", "vision":
            return f"model.{name}"
        case "text_encoder", _:
            return name.replace("model.", "model.language_model.", 1)
    return name
