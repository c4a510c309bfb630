"""Linear layers that hold e4m3 weights with a scale a row, bare and under DiffSynth's VRAM management.

DiffSynth's own layers cast a weight to e4m3 as it is, without scales, and its biases, norms and embeddings with it.
These hold what a packed store holds, and multiply what it stands for. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
from diffsynth.core.vram.initialization import skip_model_initialization
from diffsynth.core.vram.layers import AutoWrappedLinear

from renderer.engine import precision


class ScaledLinear(torch.nn.Linear):
    """On the meta device, in a linear layer's place, until it is loaded and managed: it has a scale besides."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        with skip_model_initialization():
            super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
            self.scale = torch.nn.Parameter(torch.empty(linear.out_features, dtype=torch.float32), requires_grad=False)


class ManagedScaledLinear(AutoWrappedLinear):
    """DiffSynth's managed linear layer with a scaled weight: moved as it is, scaled back when it is multiplied."""

    def __init__(self, module: ScaledLinear, **management: Any) -> None:
        super().__init__(module, **management)
        self.scale = module.scale

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """To another device; DiffSynth's casts do not apply."""
        kwargs.pop("dtype", None)
        return super().to(*args, **kwargs)

    def load_from_disk(self, torch_dtype: torch.dtype, device: Any, assign: bool = True) -> Any:  # noqa: FBT001, FBT002
        """Weight, scale and bias as they are on the disk, onto a device."""
        assert assign, "weights are kept in host memory at least"
        del torch_dtype
        names = {f"{self.name}.{name}": name for name, _ in self.named_parameters()}
        found = self.disk_map.several(list(names))
        self.load_state_dict({names[name]: tensor.to(device) for name, tensor in found.items()}, assign=True)

    def computation(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias on the device that computes and in its type; the weight by way of bf16, as everywhere."""
        device, dtype = self.computation_device, self.computation_dtype
        weight = precision.scaled_back(self.weight.to(device), self.scale.to(device)).to(dtype)
        return weight, None if self.bias is None else self.bias.to(device, dtype)


def make_room(network: torch.nn.Module, names: Container[str]) -> None:
    """Put a `ScaledLinear` wherever `names`, the weights' names, have a scale for a linear layer's weight."""
    for parent_name, parent in list(network.named_modules()):
        for name, child in list(parent.named_children()):
            full = f"{parent_name}.{name}" if parent_name else name
            if isinstance(child, torch.nn.Linear) and f"{full}.{precision.SCALE}" in names:
                setattr(parent, name, ScaledLinear(child))
