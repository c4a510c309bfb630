"""Which kind of block a DiT's slots get on this device: FP8 products where they come out right, its own elsewhere.

On a GPU the launches of either kind are recorded where pictures are small.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import ModuleType

import torch

from renderer.engine import fp8_reference, fp8_trial, precision
from renderer.engine.blocks import Blocks, FastBlocks, ModuleBlocks
from renderer.engine.device import Device, computation_dtype
from renderer.engine.recorded import CudaRecorder, RecordedBlocks
from renderer.weights.store import TensorPlace

LOG = logging.getLogger(__name__)


def choose(
    template: torch.nn.Module,
    places: Sequence[TensorPlace],
    device: Device,
    *,
    stored: bool = True,
    records: Callable[[], bool] = lambda: True,
    fast: Callable[[ModuleBlocks, ModuleType], FastBlocks | None] = lambda _plain, _operations: None,
) -> Blocks:
    """The kind of block for slots of this layout.

    Weights are multiplied as they are stored where the card can, if `stored` lets them and a trial of such products
    comes out right; elsewhere they are decoded once a sweep. Riders go through such blocks together where a trial shows
    that it does not change their bits. `records` tells whether there is room to record small
    pictures' launches. `fast` makes blocks that multiply what is stored, where there are such.
    """
    plain = ModuleBlocks(template, places, computation_dtype(device))
    if device != "cuda":
        return plain
    able = any(precision.multiplies(each.codec) for each in precision.kept(places).values())
    if not (able and stored):
        return RecordedBlocks(plain, CudaRecorder(), records)
    operations = _operations()
    blocks = fast(plain, operations)
    if blocks is None:
        return RecordedBlocks(plain, CudaRecorder(), records)
    if reason := fp8_trial.complaint(operations, blocks.products, device):
        _REFUSED.add(reason)
        return RecordedBlocks(plain, CudaRecorder(), records)
    blocks.shares = fp8_trial.shares(operations, blocks, device)
    return RecordedBlocks(blocks, CudaRecorder(), records)


def refused() -> str:
    """What a picture of this process should say of FP8 products that did not come out right; empty where they did."""
    return _REFUSED.words


class _Refused:
    """That this process multiplies in bf16 what it could have in FP8: said in the log, and kept for the sidecars."""

    def __init__(self) -> None:
        self.words = ""

    def add(self, reason: str) -> None:
        self.words = f"FP8 products do not work here ({reason}): weights are scaled back and multiplied in bf16"
        LOG.warning("%s", self.words)


_REFUSED = _Refused()


def _operations() -> ModuleType:
    """The kernels, if they compile here; plain torch otherwise, said once."""
    try:
        from renderer.engine import fp8_kernels  # noqa: PLC0415  # Triton is not everywhere

        probe = torch.ones((16, 32), dtype=torch.bfloat16, device="cuda")
        fp8_kernels.quantise(probe)
    except Exception as error:  # noqa: BLE001  # no Triton, no C compiler, a driver it does not know
        LOG.warning("no working compiler (%s): FP8 blocks run in plain torch, several times slower", error)
        return fp8_reference
    return fp8_kernels
