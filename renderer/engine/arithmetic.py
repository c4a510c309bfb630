"""Which kind of block a DiT's slots get here: products of what is stored where they come out right, its own elsewhere.

On a GPU the launches of either kind are recorded where pictures are small.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, ModuleType

import torch

from renderer.engine import fp8_reference, int8_reference, precision, product_trial, unpacked_blocks
from renderer.engine.blocks import Blocks, FastBlocks, ModuleBlocks
from renderer.engine.device import Device, computation_dtype
from renderer.engine.recorded import CudaRecorder, RecordedBlocks
from renderer.engine.unpacked_blocks import UnpackedBlocks
from renderer.job import BlockArithmetic
from renderer.job.precisions import in_words
from renderer.weights.codecs import Codec
from renderer.weights.store import TensorPlace

LOG = logging.getLogger(__name__)

Fast = Callable[[Sequence[TensorPlace], ModuleBlocks, ModuleType], FastBlocks | None]
"""Makes blocks that multiply what is stored, in place of plain ones and by operations; None where there are none."""


def choose(
    template: torch.nn.Module,
    places: Sequence[TensorPlace],
    device: Device,
    *,
    stored: bool = True,
    records: Callable[[], bool] = lambda: True,
    fast: Fast = lambda _places, _plain, _operations: None,
) -> Blocks:
    """The kind of block for slots of this layout.

    Weights are multiplied as they are stored where the device can, if `stored` lets them and, on a card, a trial of
    such products comes out right; elsewhere they are decoded once a sweep. Riders go through such blocks together where
    a trial shows that it does not change their bits; on a CPU each goes alone. `records` tells whether there is room to
    record small pictures' launches. `fast` makes blocks that multiply what is stored, where there are such, in the form
    that it is multiplied in.
    """
    plain = ModuleBlocks(template, places, computation_dtype(device))
    codec = _multiplied(places, device) if stored else None
    found = None if codec is None else _fast(template, places, codec, device, fast)
    if device == "cpu":
        return found or plain
    return RecordedBlocks(found or plain, CudaRecorder(), records)


def _multiplied(places: Sequence[TensorPlace], device: Device) -> Codec | None:
    """The codec whose weights this device multiplies as they are; None where there is none."""
    kept = precision.kept(places).values()
    return next((each.codec for each in kept if precision.multiplies(each.codec, device)), None)


def _fast(
    template: torch.nn.Module, places: Sequence[TensorPlace], codec: Codec, device: Device, fast: Fast
) -> FastBlocks | None:
    """Blocks that multiply what is stored; None where there are none, or a trial of theirs comes out wrong."""
    run = operations(codec.arithmetic, device)
    there = unpacked_blocks.as_multiplied(places)
    blocks = fast(there, ModuleBlocks(template, there, computation_dtype(device)), run)
    if blocks is None:
        return None
    if codec.multiplied_as != codec.name:
        blocks = UnpackedBlocks(blocks, places, unpacked_blocks.unpacker(codec, device))
    if device == "cpu":
        blocks.shares = False
        return blocks
    if reason := product_trial.complaint(run, blocks.products, device):
        _REFUSED.add(codec.arithmetic, reason)
        return None
    blocks.shares = product_trial.shares(run, blocks, device)
    return blocks


_REFERENCES: Mapping[BlockArithmetic, ModuleType] = MappingProxyType(
    {each.ARITHMETIC: each for each in (fp8_reference, int8_reference)}
)
"""What products of what is stored mean, in plain torch, by their arithmetic."""


def operations(arithmetic: BlockArithmetic, device: Device) -> ModuleType:
    """The kernels, if they compile here; plain torch otherwise, on a card said once."""
    reference = _REFERENCES[arithmetic]
    if device == "cpu":
        return reference
    try:
        kernels: ModuleType = reference.compiled()
        kernels.quantise(torch.ones((16, 32), dtype=torch.bfloat16, device=device))
    except Exception as error:  # noqa: BLE001  # no Triton, no C compiler, a driver it does not know
        words = f"{in_words(arithmetic)} blocks run in plain torch, several times slower"
        LOG.warning("no working compiler (%s): %s", error, words)
        return reference
    return kernels


def refused() -> str:
    """What a picture of this process should say of products that did not come out right; empty where they did."""
    return _REFUSED.words


class _Refused:
    """That this process multiplies in bf16 what it could have as stored: said in the log, and kept for the sidecars."""

    def __init__(self) -> None:
        self.words = ""

    def add(self, arithmetic: BlockArithmetic, reason: str) -> None:
        what = f"{in_words(arithmetic)} products do not work here ({reason})"
        self.words = f"{what}: weights are scaled back and multiplied in bf16"
        LOG.warning("%s", self.words)


_REFUSED = _Refused()
