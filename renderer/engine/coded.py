"""Linear layers that hold what a codec keeps of their weights: what DiffSynth takes for layers that are quantised.

DiffSynth's own FP8, a dtype of its `ModelConfig`, casts weights to e4m3 without scales, and biases, norms, embeddings
and rotary frequencies with them. These hold what a packed store holds, and multiply what it stands for. Knows nothing
of files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from diffsynth.core.quant import QuantBackend
from diffsynth.core.vram.initialization import skip_model_initialization

from renderer.weights.codecs import Codec
from renderer.weights.codecs.rows import ROW_CODERS
from renderer.weights.dtypes import TORCH_DTYPES


class CodedLinear(torch.nn.Linear):
    """A linear layer with the parts of its weight, [rows, columns], which is decoded at each product.

    It is on the meta device until it is loaded. It can be moved and not cast: what it holds stays as it was packed.
    """

    def __init__(self, linear: torch.nn.Linear, codec: Codec) -> None:
        with skip_model_initialization():
            super().__init__(linear.in_features, linear.out_features, bias=False)
        rows, columns = linear.out_features, linear.in_features
        parts = codec.parts((rows, columns))
        self._decode = ROW_CODERS[codec.name].decode
        self._suffixes = tuple(part.suffix for part in parts)
        held: dict[str, torch.Tensor] = {
            part.suffix: torch.empty(part.shape, dtype=TORCH_DTYPES[part.dtype], device="meta") for part in parts
        }
        if linear.bias is not None:
            held["bias"] = torch.empty(rows, dtype=torch.bfloat16, device="meta")
        for name, tensor in held.items():
            self._parameters.pop(name, None)
            self.register_buffer(name, tensor)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The product in the values' type; the weight comes to it by way of bf16, as everywhere."""
        weight = self._decode({suffix: self._buffers[suffix] for suffix in self._suffixes}).to(values.dtype)
        return torch.nn.functional.linear(values, weight, None if self.bias is None else self.bias.to(values.dtype))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> CodedLinear:  # noqa: FBT001, FBT002
        """Move to where `fn` brings a tensor."""
        del recurse
        for name, tensor in self._buffers.items():
            if tensor is not None:
                self._buffers[name] = tensor.to(fn(tensor.new_empty(0)).device)
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> CodedLinear:
        """A twin that shares the tensors: DiffSynth copies a layer to move the copy, and moving makes new ones."""
        twin = copy.copy(self)
        twin.__dict__["_buffers"] = dict(self._buffers)
        return twin


class CodedLayers(QuantBackend):
    """DiffSynth's door to them: of a network whose large weights are kept by one codec."""

    name = "packed"

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def capabilities(self) -> dict[str, bool]:
        return {**super().capabilities(), "is_serializable": True}

    def quantized_linear_classes(self) -> tuple[type[torch.nn.Linear], ...]:
        return (CodedLinear,)

    def create_quantized_linear_shell(self, linear: torch.nn.Linear, compute_dtype: torch.dtype) -> CodedLinear:
        """An empty layer in the place of one of the same widths."""
        del compute_dtype  # that of the values it is given
        return CodedLinear(linear, self._codec)
