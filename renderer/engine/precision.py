"""How a packed weight becomes one that can be multiplied: as it is, decoded, widened, or not at all.

A weight is kept by a codec (`renderer.weights.codecs`). Where the device multiplies what a codec keeps, such weights
stay what they are (`scaled_blocks.py`); all others are decoded to bf16, once a block and sweep. Where bf16 cannot be
multiplied fast, what is bf16 or was decoded to it is widened to float32, which holds every bf16 number as it is: a
store means the same weights on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from renderer.engine.device import Device
from renderer.weights import codecs
from renderer.weights.codecs import Codec, Kept
from renderer.weights.codecs.rows import ROW_CODERS
from renderer.weights.store import TensorPlace


def kept(places: Iterable[TensorPlace]) -> dict[str, Kept]:
    """By the names that a block's module has, how its tensors are kept in a file."""
    return codecs.kept({place.name: place.dtype for place in places})


def restored(
    tensors: Mapping[str, torch.Tensor], how: Mapping[str, Kept], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The tensors of a block in `dtype` by the names its module has; what is of another is restored into new memory."""
    return {name: restore(each, tensors).to(dtype) for name, each in how.items()}


def room_for(
    tensors: Mapping[str, torch.Tensor], how: Mapping[str, Kept], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Memory for a block's tensors in `dtype`, by the names its module has, not filled."""
    found = {}
    for name, each in how.items():
        parts = {suffix: tensors[part] for suffix, part in each.parts.items()}
        shape = each.codec.shape({suffix: tuple(part.shape) for suffix, part in parts.items()})
        found[name] = torch.empty(shape, dtype=dtype, device=parts[codecs.WEIGHT].device)
    return found


def restore(how: Kept, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """One tensor in bf16: itself, or what its codec's parts stand for."""
    return ROW_CODERS[how.codec.name].decode({suffix: tensors[part] for suffix, part in how.parts.items()})


def restore_into(
    targets: Mapping[str, torch.Tensor], how: Mapping[str, Kept], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Decode a block's tensors, or widen them, into memory that is there already."""
    for name, target in targets.items():
        target.copy_(restore(how[name], tensors))


def multiplies(codec: Codec, device: Device) -> bool:
    """Whether this device multiplies what a codec keeps as it is; what is plain needs nothing of the kind."""
    if codec.is_plain or device == "cpu":
        return codec.on_cpu
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= codec.capability
