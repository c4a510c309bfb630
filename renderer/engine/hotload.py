"""LoRAs in DiffSynth's own pipeline, for one picture: by its own `load_lora` and `clear_lora`, loaded hot.

Loaded so, a LoRA changes no weight, and is gone without a trace when it is cleared. DiffSynth takes what has the names
of its modules and leaves the rest without a word, so what it took is counted. Knows nothing of jobs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from renderer.engine.adapters import its_own
from renderer.families import Network
from renderer.weights.adapters.packed import PackedAdapter


@contextlib.contextmanager
def wearing(pipe: Any, loras: Sequence[tuple[PackedAdapter, float]], network: Network) -> Iterator[None]:
    """Within, the pipeline renders with these, each with its weight. Raises `PictureError` for one that is damaged.

    What is raised within is not looked at: it may be the model's.
    """
    if not loras:
        yield
        return
    pipe.dit = pipe.enable_lora_hot_loading(pipe.dit)
    try:
        for packed, weight in loras:
            with its_own():
                tensors = _by_module(packed, network, pipe)
            before = _loaded(pipe)
            pipe.load_lora(pipe.dit, state_dict=tensors, alpha=weight, hotload=True, verbose=0)
            taken, given = _loaded(pipe) - before, len(tensors) // 2
            assert taken == given, f"DiffSynth took {taken} of a LoRA's {given} layers"
        yield
    finally:
        pipe.clear_lora(verbose=0)


def _loaded(pipe: Any) -> int:
    """How many pairs of factors are loaded."""
    return sum(len(getattr(layer, "lora_A_weights", ())) for layer in pipe.dit.modules())


def _by_module(packed: PackedAdapter, network: Network, pipe: Any) -> dict[str, torch.Tensor]:
    """A LoRA by the names of DiffSynth's modules, on its device, in the type that it computes in."""
    found = dict(packed.outside())
    prefixes = {section.name: section.prefix for section in network.sections}
    for part in packed.index.files:
        if part.section is not None and part.number is not None:
            within = packed.block(part.section, part.number).items()
            found |= {f"{prefixes[part.section]}{part.number}.{name}": pair for name, pair in within}
    tensors = {}
    for name, factors in found.items():
        for letter, factor in zip("AB", factors, strict=True):
            tensors[f"{network.module_name(name)}.lora_{letter}.weight"] = factor.to(pipe.device, pipe.torch_dtype)
    return tensors
