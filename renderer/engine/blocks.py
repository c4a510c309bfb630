"""How one transformer block is computed from a slot's flat bytes, by kind of arithmetic.

`ModuleBlocks` runs the network's own block module with views into the slot as its parameters: bit for bit what the
network would do. Slots that are not plain are decoded first, and bf16 ones widened where the device computes in
float32, into one block's worth of memory, once a sweep however many ride. Knows nothing of slots' turns or of pictures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from renderer.engine import precision
from renderer.engine.adapted import ADAPTED, AddedTo, adding
from renderer.engine.device import STORED_DTYPE
from renderer.engine.side_by_side import Arranged, Sizes, Streams
from renderer.job import BlockArithmetic
from renderer.weights.store import TensorPlace, views

_USUAL = frozenset({"image", "text", "temb", "image_rotary_emb", ADAPTED})
"""What calls of a DiT's block bring."""

MODULATE_INDEX = "modulate_index"
"""Under this name DiffSynth says of each of an image's tokens whether it is of a picture that is edited as of no noise:
1 x tokens, 0 or 1."""


ATTENTION_MASK = "attention_mask"
"""Under this name DiffSynth says which rows see which: 1 x 1 x rows x rows, added to scores, prompts before the image.
None where all see all."""


def is_rare(inputs: Mapping[str, Any]) -> bool:
    """Whether a block is asked for what is asked for rarely: a mask, an edit, a cache."""
    return any(value is not None and value is not False for name, value in inputs.items() if name not in _USUAL)


def size_of(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens of the image and of the text that a DiT's block is called with."""
    return inputs["image"].shape[1], inputs["text"].shape[1]


class Shared(Protocol):
    """A block through which several riders can go at once."""

    def __call__(self, **inputs: Any) -> Streams:
        """One rider, as the network calls its block."""

    def size(self, inputs: Mapping[str, Any]) -> tuple[int, int] | None:
        """Tokens of a rider's image and text; None: it goes alone."""

    def arrange(self, sizes: Sizes, device: torch.device) -> Arranged:
        """How riders of these sizes lie."""

    def together(self, riders: Sequence[Mapping[str, Any]]) -> list[Streams]:
        """What each of these calls would give alone, bit by bit."""


class Blocks(Protocol):
    """A kind of block."""

    @property
    def arithmetic(self) -> BlockArithmetic:
        """In which format its large products are computed."""

    def arrive(self, number: int, slot: torch.Tensor) -> Any:
        """Make the block whose bytes are in `slot` ready to be called, until the next arrives."""

    def forget(self) -> None:
        """Let go of every slot that was ever seen, and of any memory beside them."""


class FastBlocks(Blocks, Protocol):
    """A kind of block that multiplies weights as they are stored."""

    @property
    def products(self) -> set[tuple[int, int]]:
        """Rows and columns of the weights that it multiplies, for a trial before it is chosen."""

    @property
    def shape(self) -> tuple[int, int]:
        """Heads of its attention, and a head's width."""

    shares: bool
    """Whether riders go together."""


@dataclass(frozen=True, slots=True)
class PlainBlock:
    """A network's own block, which is called as it calls it; with what LoRAs add to it, where a rider has some."""

    module: torch.nn.Module

    def __call__(self, *args: Any, adapted: AddedTo | None = None, **inputs: Any) -> Any:
        if not adapted:
            return self.module(*args, **inputs)
        with adding(self.module, adapted):
            return self.module(*args, **inputs)


class ModuleBlocks:
    """The network's own block module, with a slot's tensors in place of its parameters."""

    def __init__(
        self,
        template: torch.nn.Module,
        places: Sequence[TensorPlace],
        dtype: torch.dtype = STORED_DTYPE,
        renumber: Callable[[torch.nn.Module, int], None] | None = None,
    ) -> None:
        """`template` is a block on the meta device with what is not in the slot already taken out.

        It is computed in `dtype`. `renumber` tells a block which one it is, where blocks want to know.
        """
        self.arithmetic: BlockArithmetic = "bf16" if dtype == STORED_DTYPE else "float32"
        self._dtype = dtype
        self._template = template
        self._places = places
        self._renumber = renumber
        self._bound: dict[int, PlainBlock] = {}
        self._kept = precision.kept(places)
        self._as_it_is = dtype == STORED_DTYPE and all(each.codec.is_plain for each in self._kept.values())
        self._workspace: PlainBlock | None = None

    def arrive(self, number: int, slot: torch.Tensor) -> PlainBlock:
        block = self._in_place(slot) if self._as_it_is else self._restored(slot)
        if self._renumber is not None:
            self._renumber(block.module, number)
        return block

    def forget(self) -> None:
        self._bound.clear()
        self._workspace = None

    def _in_place(self, slot: torch.Tensor) -> PlainBlock:
        bound = self._bound.get(slot.data_ptr())
        if bound is None:
            bound = self._bound[slot.data_ptr()] = bind(self._template, views(slot, self._places))
        return bound

    def _restored(self, slot: torch.Tensor) -> PlainBlock:
        tensors = views(slot, self._places)
        if self._workspace is None:  # a copy of every tensor: what needs no restoring is still the slot's own memory
            self._workspace = bind(self._template, precision.room_for(tensors, self._kept, self._dtype))
        precision.restore_into(dict(self._workspace.module.named_parameters()), self._kept, tensors)
        return self._workspace


def bind(template: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> PlainBlock:
    """A block with these tensors in place of its parameters."""
    block = copy.deepcopy(template)
    missing = dict(block.named_parameters()).keys() ^ tensors.keys()
    assert not missing, f"the store's block and the network's differ in {sorted(missing)}"
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        setattr(block.get_submodule(owner), leaf, torch.nn.Parameter(tensor, requires_grad=False))
    return PlainBlock(block.eval())
