"""ControlNets that pictures are held by: each a second network of blocks, swept in step with the model's.

A picture's call comes to a ControlNet's block after each of the model's, and waits there as it waits for those: it is a
stop of a section of its own. So pictures with different ControlNets, and without any, share a sweep. Weights are
computed with in bf16 at every precision. Knows nothing of what a ControlNet looks at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from renderer.catalog import Model
from renderer.engine.blocks import PlainBlock, bind
from renderer.engine.device import Device
from renderer.engine.in_step import InStep
from renderer.engine.sections import Passing
from renderer.errors import ModelError
from renderer.job import Job
from renderer.weights import control_files
from renderer.weights.control_files import ControlNetShape
from renderer.weights.layout import ALIGNMENT
from renderer.weights.store import TensorPlace, views

_PREFIX = "controlnet "


class ControlNetNetworks(Protocol):
    """What of a family builds its ControlNets."""

    def control_block(self, width: int) -> torch.nn.Module:
        """A ControlNet's block on the meta device."""

    def controlnet(self, section: str, layers: int, outside: Mapping[str, torch.Tensor]) -> Any:
        """A ControlNet with a stop of this section in each block's place, and what stands outside of blocks."""

    def together(self, controlnets: Sequence[Any]) -> Any:
        """Several as one, as a pipeline of DiffSynth's has them."""


def is_control(section: str) -> bool:
    """Whether a section is of a ControlNet."""
    return section.startswith(_PREFIX)


@dataclass(frozen=True, slots=True)
class ControlBlock:
    """One block of a file, as slots want it: in the type that is computed in, tensor after tensor."""

    path: Path
    prefix: str
    places: tuple[TensorPlace, ...]
    bytes: int

    def read_into(self, buffer: torch.Tensor, *, direct: bool = False) -> None:
        """Read it into host memory. Raises `ModelError`."""
        del direct
        found = read_tensors(self.path, [f"{self.prefix}{place.name}" for place in self.places])
        for name, view in views(buffer, self.places).items():
            view.copy_(found[f"{self.prefix}{name}"])


class OpenControlNet(InStep):
    """A ControlNet that is open: its call, with stops for blocks, and the blocks that come past."""

    def __init__(
        self,
        identity: str,
        path: Path,
        shape: ControlNetShape,
        family: ControlNetNetworks,
        device: Device,
        dtype: torch.dtype,
    ) -> None:
        """What stands outside of blocks is on the device from now on. Raises `ModelError`."""
        places, size = _laid(shape.block, dtype)
        blocks = [ControlBlock(path, f"{shape.kind.prefix}{number}.", places, size) for number in range(shape.layers)]
        super().__init__(blocks, device)
        self.section = f"{_PREFIX}{identity}"
        self._places, self._template = places, family.control_block(shape.width)
        self._bound: dict[int, PlainBlock] = {}
        names = [name for name in shape.tensors if not name.startswith(shape.kind.prefix)]
        outside = {name: each.to(device, dtype) for name, each in read_tensors(path, names).items()}
        self.network = family.controlnet(self.section, shape.layers, outside)

    def passing(self, *, last: bool) -> Passing:
        """Its block that is there."""
        assert self._there is not None
        number, slot = self._there
        if slot.data_ptr() not in self._bound:
            self._bound[slot.data_ptr()] = bind(self._template, views(slot, self._places))
        return Passing(self.section, number, last, self._bound[slot.data_ptr()])

    def close(self) -> None:
        """Take it off the device."""
        self._bound.clear()
        super().close()


class WholeControlNets:
    """ControlNets in DiffSynth's own pipeline: whole, on its device. Those of the last picture stay for the next."""

    def __init__(self, model: Model, family: ControlNetNetworks, pipe: Any) -> None:
        self._model, self._family, self._pipe = model, family, pipe
        self._open: dict[str, Any] = {}

    def prepare(self, job: Job) -> list[Any]:
        """Those of a job that count, in its order. Raises `ModelError`."""
        wanted = {net.identity for net in job.controlling}
        self._open = {identity: net for identity, net in self._open.items() if identity in wanted}
        for net in job.controlling:
            if net.identity not in self._open:
                self._open[net.identity] = self._opened(*control_files.here(net, self._model))
        return [self._open[net.identity] for net in job.controlling]

    def _opened(self, path: Path, shape: ControlNetShape) -> Any:
        device, dtype, prefix = self._pipe.device, self._pipe.torch_dtype, shape.kind.prefix
        tensors = {name: each.to(device, dtype) for name, each in read_tensors(path, list(shape.tensors)).items()}
        outside = {name: each for name, each in tensors.items() if not name.startswith(prefix)}
        network, template = self._family.controlnet("", 0, outside), self._family.control_block(shape.width)
        for number in range(shape.layers):
            block = {name: tensors[f"{prefix}{number}.{name}"] for name in shape.block}
            network.controlnet_blocks.append(bind(template, block).module)
        return network


def read_tensors(path: Path, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Some of a file's tensors, in host memory. Raises `ModelError`."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error


def _laid(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> tuple[tuple[TensorPlace, ...], int]:
    """Where a block's tensors lie in a slot, and how many bytes it has."""
    places, offset = [], 0
    for name, shape in sorted(shapes.items()):
        size = torch.Size(shape).numel() * dtype.itemsize
        places.append(TensorPlace(name, "F32" if dtype == torch.float32 else "BF16", tuple(shape), offset, size))
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    return tuple(places), offset
