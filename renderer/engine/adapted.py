"""Layers that give what LoRAs add to them besides, with no copy of a weight and none of them touched.

Order and types are those of DiffSynth's LoRAs that are loaded hot (`lora_forward` in its `core.vram.layers`),
`y + x A^T B^T` with the weight in A, and so are the bits. Knows nothing of files, sweeps or slots.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from greenlet import getcurrent

Added = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""What is added to one layer, in order: A, which is rank x columns and has the weight in it, and B, rows x rank."""

AddedTo = Mapping[str, Added]
"""What is added to a block, or outside of blocks, by its modules' names there."""

ADAPTED = "adapted"
"""Under this name a block is given what is added to it."""


def added(out: torch.Tensor, x: torch.Tensor, factors: Added) -> torch.Tensor:
    """A layer's result, written over, with what LoRAs add to it for the rows `x` that went in."""
    for down, up in factors:
        out += x @ down.T @ up.T
    return out


@contextlib.contextmanager
def adding(module: torch.nn.Module, factors: AddedTo) -> Iterator[None]:
    """Within, the linear layers of a network or block give what LoRAs add to them besides."""
    hooks = [module.get_submodule(name).register_forward_hook(_hook(each)) for name, each in factors.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hook(factors: Added) -> Callable[..., torch.Tensor]:
    def hook(_module: Any, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        return added(out, args[0], factors)

    return hook


# ---- outside of blocks: the networks are everybody's, and each call has its own set ----------------------------------


def carry(factors: AddedTo) -> None:
    """From now on, the layers that this rider's call runs outside of blocks give what is added to them."""
    getcurrent().adapted = factors  # type: ignore[attr-defined]  # a greenlet takes any attribute


def listen(module: torch.nn.Module) -> None:
    """Let a network's linear layers ask the call that runs them what is added."""
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(_asking(name))


def _asking(name: str) -> Callable[..., torch.Tensor]:
    def hook(_module: Any, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        factors: Added = getattr(getcurrent(), "adapted", {}).get(name, ())
        return added(out, args[0], factors)

    return hook
