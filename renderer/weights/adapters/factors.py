"""A LoRA's layers in numbers: two factors for each, in bf16, or the whole difference in float32. In torch.

What is a product of products becomes two factors by arithmetic that is exact but for the rounding to bf16: Kronecker
products by (C D) x (E F) = (C x E)(D x F), products value by value by pairing the ranks (Khatri-Rao).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch

from renderer.errors import ModelError
from renderer.weights.adapters.alphas import Alphas
from renderer.weights.adapters.dialects import LayerKind, PartName
from renderer.weights.adapters.fusing import Addition
from renderer.weights.adapters.landing import LoraLayer
from renderer.weights.readers.reader import TensorAt
from renderer.weights.readers.values import VALUES

Factors = tuple[torch.Tensor, torch.Tensor]
"""A [rank, in] and B [out, rank]: a layer's change is B A."""

Parts = Mapping[PartName, torch.Tensor]


def factors_of(layer: LoraLayer, alphas: Alphas | None) -> Factors:
    """A layer's two factors in bf16. The scale, alpha / rank, is in A, as DiffSynth's loader has it to the bit.

    Raises `ModelError` for values that are not finite, in the file or once they are scaled.
    """
    assert layer.rides
    parts = _parts(layer)
    if layer.kind == "LoRA":
        down, up = _scaled(layer, parts, alphas), parts["up"].to(torch.bfloat16)
    else:
        left, right = _JOINED[layer.kind](parts)
        down, up = (right * _scale(layer, parts, alphas)).to(torch.bfloat16), left.to(torch.bfloat16)
    return _finite(layer, down), _finite(layer, up)


def difference_of(layer: LoraLayer, alphas: Alphas | None) -> Mapping[PartName, torch.Tensor]:
    """What a layer adds to a module's weight, and to its bias, in float32. Raises as `factors_of` does.

    Beside the file's own parts nothing larger than the weight is formed; joint factors would be, where ranks only fuse.
    A difference is added as it is: an alpha beside it counts for nothing in ComfyUI, and LyCORIS writes none.
    """
    parts = _parts(layer)
    if layer.kind == "difference":
        return {name: parts[name].float() for name in ("weight", "bias") if name in parts}
    return {"weight": _finite(layer, _PRODUCTS[layer.kind](parts) * _scale(layer, parts, alphas))}


def sum_of(additions: Sequence[Addition]) -> torch.Tensor:
    """What LoRAs add to one tensor together, in float32. Raises as `factors_of` does."""
    whole = (difference_of(each.layer, each.alphas)[each.part] * each.weight for each in additions)
    return functools.reduce(torch.add, whole)


def _parts(layer: LoraLayer) -> Parts:
    return {name: _finite(layer, _read(place).float(), name) for name, place in layer.parts.items()}


def _finite(layer: LoraLayer, tensor: torch.Tensor, part: PartName | None = None) -> torch.Tensor:
    """A tensor of a layer's: a part, or what was made of all. Raises `ModelError` where a value is not finite."""
    if not torch.isfinite(tensor).all():
        path, what = next(iter(layer.parts.values())).path, part or "what is added, by its scale,"
        message = f"{path}: {what} of {layer.module} has values that are not finite"
        raise ModelError(message, hint="fetch or make it again: it is damaged")
    return tensor


def _read(place: TensorAt) -> torch.Tensor:
    raw = torch.empty(place.bytes, dtype=torch.uint8)
    try:
        with place.path.open("rb", buffering=0) as stream:
            stream.seek(place.offset)
            buffer = memoryview(raw.numpy())
            while buffer and (count := stream.readinto(buffer)):
                buffer = buffer[count:]
    except OSError as error:
        raise ModelError(f"{place.path}: cannot be read: {error.strerror or error}") from error
    if buffer:
        raise ModelError(f"{place.path}: has become shorter while it was read", hint="run it again")
    return VALUES[place.reader].values(place, 0, raw, _read)


def _scaled(layer: LoraLayer, parts: Parts, alphas: Alphas | None) -> torch.Tensor:
    """A LoRA's A in bf16, times its scale: an alpha of the file's is rounded to bf16 first, one of peft's is not."""
    down = parts["down"].to(torch.bfloat16)
    if "alpha" in parts:
        return down * (parts["alpha"].to(torch.bfloat16).reshape(()) / down.shape[0])
    scale = alphas.scale(layer.module, down.shape[0]) if alphas is not None else 1.0
    return down * scale if scale != 1 else down


def _scale(layer: LoraLayer, parts: Parts, alphas: Alphas | None) -> float:
    """Alpha / rank. Of a Kronecker product of whole factors, which has no rank, LyCORIS's alpha says nothing."""
    ranks = [parts[name].shape[0] for name in _RANKED if name in parts]
    if "alpha" in parts:
        return float(parts["alpha"]) / ranks[-1] if ranks else 1.0
    return alphas.scale(layer.module, ranks[-1] if ranks else None) if alphas is not None else 1.0


_RANKED: tuple[PartName, ...] = ("down", "h1_b", "w1_b", "w2_b")
"""The parts whose rows are the rank that alpha is divided by; of LoKr's two, the second's, as its own library does."""


# ---- as two factors --------------------------------------------------------------------------------------------------


def _lora(parts: Parts) -> Factors:
    return parts["up"], parts["down"]


def _lokr(parts: Parts) -> Factors:
    one, other = _pair(parts, "w1", "w1_a", "w1_b"), _pair(parts, "w2", "w2_a", "w2_b")
    return torch.kron(one[0], other[0]), torch.kron(one[1], other[1])


def _pair(parts: Parts, whole: PartName, left: PartName, right: PartName) -> Factors:
    """A factor as a product of two; one that is whole, by one and the smaller identity."""
    if whole not in parts:
        return parts[left], parts[right]
    matrix = parts[whole]
    rows, columns = matrix.shape
    return (matrix, torch.eye(columns)) if columns <= rows else (torch.eye(rows), matrix)


def _loha(parts: Parts) -> Factors:
    left = torch.einsum("oi,oj->oij", parts["h1_a"], parts["h2_a"]).flatten(1)
    right = torch.einsum("ic,jc->ijc", parts["h1_b"], parts["h2_b"]).flatten(0, 1)
    return left, right


_JOINED: Mapping[LayerKind, Callable[[Parts], Factors]] = {"LoRA": _lora, "LoKr": _lokr, "LoHa": _loha}


# ---- as one matrix ---------------------------------------------------------------------------------------------------


def _lokr_product(parts: Parts) -> torch.Tensor:
    one = parts["w1"] if "w1" in parts else parts["w1_a"] @ parts["w1_b"]
    other = parts["w2"] if "w2" in parts else parts["w2_a"] @ parts["w2_b"]
    return torch.kron(one, other)


_PRODUCTS: Mapping[LayerKind, Callable[[Parts], torch.Tensor]] = {
    "LoRA": lambda parts: parts["up"] @ parts["down"],
    "LoKr": _lokr_product,
    "LoHa": lambda parts: (parts["h1_a"] @ parts["h1_b"]) * (parts["h2_a"] @ parts["h2_b"]),
}
