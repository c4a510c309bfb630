"""A network's tensors by the names that DiffSynth's modules have, from a packed store or what reads like one.

Nothing lies in memory twice: files are read to where their tensors stay. Knows nothing of pictures.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from renderer.engine.device import Device
from renderer.engine.pinned import host_buffer
from renderer.families import Network
from renderer.weights import codecs
from renderer.weights.codecs import Codec
from renderer.weights.layout import ALIGNMENT
from renderer.weights.store import BlockFile, Store, TensorPlace, views
from renderer.weights.unpacked import Unpacked, UnpackedFile

NETWORK_READERS = 8
"""Threads that read a network's files."""

STAGING_BYTES = 2**25
"""Memory each of them reads into on the way to a GPU, pinned where it can be."""

OpenWeights = Store | Unpacked
"""An open store, or a checkpoint that reads like one."""

File = BlockFile | UnpackedFile
"""A file of a store, or what would be one."""


class TensorMap(Mapping[str, torch.Tensor]):
    """A network's tensors by the names its module has, each read when it is asked for: DiffSynth's `DiskMap`."""

    def __init__(self, network: Network, files: Sequence[File]) -> None:
        self._network, self._files = network, tuple(files)
        self._found = {
            module_name(network, file, place.name): (file, place) for file in self._files for place in file.tensors
        }
        self._kept = codecs.kept({name: place.dtype for name, (_, place) in self._found.items()})
        self._later: dict[str, torch.Tensor] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        """A tensor, in host memory. A weight's other parts are read, or made, with it, for who asks for them next."""
        if name in self._later:
            return self._later.pop(name)
        file, place = self._found[name]
        parts = self._kept[name].parts.values() if name in self._kept else (name,)
        names = {part: self._found[part][1].name for part in parts}
        found = file.tensors_of(list(names.values()))
        self._later |= {part: found[own] for part, own in names.items() if part != name}
        return found[place.name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def coded(self) -> dict[str, Codec]:
        """The linear layers whose weights are decoded before they are multiplied, and each one's codec."""
        return {
            name.removesuffix(f".{codecs.WEIGHT}"): each.codec
            for name, each in self._kept.items()
            if not each.codec.is_plain
        }

    def place(self, name: str) -> TensorPlace:
        """A tensor's type and shape."""
        return self._found[name][1]

    def check(self) -> None:
        """Read all files once, and hold them against what is known of them. Raises `ModelError`."""
        with ThreadPoolExecutor(min(NETWORK_READERS, len(self._files))) as pool:
            for _done in pool.map(lambda file: file.check(), self._files):
                pass

    def read(self, device: Device) -> dict[str, torch.Tensor]:
        """All tensors, on a device, several files at a time, and hardly more in host memory than what stays there."""
        reader = DeviceReader(device)
        with ThreadPoolExecutor(min(NETWORK_READERS, len(self._files))) as pool:
            found = list(pool.map(reader.read, self._files))
        return {
            module_name(self._network, file, name): tensor
            for file, tensors in zip(self._files, found, strict=True)
            for name, tensor in tensors.items()
        }


class DeviceReader:
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


def module_name(network: Network, file: File, name: str) -> str:
    """What DiffSynth's module calls a tensor of a store's file."""
    return network.module_name(network.own_name(file.kind, file.number, name))
